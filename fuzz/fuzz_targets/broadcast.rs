//! Records of the topic of broadcasts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    posthaste_fuzz::broadcast(data);
});
