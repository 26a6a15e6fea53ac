//! Answers of a store that may be unable for a moment.

use posthaste_store::StoreError;

/// What a store answers, in the end. A server may be unable for a moment, and says so, as the MongoDB stand-in does now and
/// then with an error that has no code; it is asked again then, as every caller does.
pub(super) async fn in_the_end<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let mut refusals = Vec::new();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(
                    error.is_retryable() && refusals.len() < 5,
                    "{error}, after {refusals:?}"
                );
                refusals.push(error);
            }
        }
    }
}
