//! Records of the control topic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    posthaste_fuzz::control(data);
});
