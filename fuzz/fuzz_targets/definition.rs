//! Records of the topic of definitions.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    posthaste_fuzz::definition(data);
});
