//! What a data directory holds: files and values.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _known = actors::fuzzing::stored(bytes);
});
