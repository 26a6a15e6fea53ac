//! What providers answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    posthaste_fuzz::answer(data);
});
