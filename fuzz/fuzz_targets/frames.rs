//! A client's frame, or a node's, in JSON or msgpack.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _known = rookery::fuzzing::frames(bytes);
});
