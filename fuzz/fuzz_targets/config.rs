//! A `cluster.toml`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _known = rookery::fuzzing::config(bytes);
});
