//! What another node sends: frames, packets, and all that they carry.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _known = actors::fuzzing::peers(bytes);
});
