//! The body of an HTTP request, or a token.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _known = rookery::fuzzing::http(bytes);
});
