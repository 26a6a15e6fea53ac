//! Follows the source of the keys while the process runs: what is changed and right takes effect, what is wrong is told and left out.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{Keys, Ring, Source};

/// Keeps `keys` what the source says, until `shutdown`; looks after each `every`. Two looks in a row must find the same: somebody may be
/// writing. A source that never changes is not looked at again.
pub async fn follow(keys: &Keys, source: Arc<dyn Source>, every: Duration, shutdown: &CancellationToken) {
    if !source.may_change() {
        return;
    }
    let mut seen: Option<Result<Ring, String>> = None;
    while shutdown
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let source = Arc::clone(&source);
        // A source that panics has said nothing.
        let Ok(found) = tokio::task::spawn_blocking(move || source.ring()).await else {
            continue;
        };
        if seen.as_ref() != Some(&found) {
            seen = Some(found);
            continue;
        }
        match found {
            Ok(ring) => keys.take_up(ring),
            Err(reason) => keys.refuse(&reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use posthaste_event::Millis;
    use tokio::time::timeout;

    use super::*;
    use crate::Settings;

    const NOW: Millis = 1_790_000_000_000;
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
    }

    #[tokio::test]
    async fn a_rotation_takes_effect_and_a_half_written_file_leaves_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let mut ring = Ring::generate(NOW).unwrap();
        fs::write(&file, ring.secret_text()).unwrap();
        let settings = Settings {
            keys_file: file.display().to_string(),
            ..crate::settings::defaults()
        };
        let source = settings.source().unwrap();
        let keys = Arc::new(Keys::new(Some(source.ring().unwrap())));
        let shutdown = CancellationToken::new();
        let following = follow(&keys, source, Duration::from_millis(5), &shutdown);
        let changing = async {
            let first = ring.active().to_owned();
            ring.rotate(NOW).unwrap();
            let text = ring.secret_text();
            for wrong in [&text[..text.len() / 2], "", "{}"] {
                fs::write(&file, wrong).unwrap();
                until("the fault is told", || keys.check().is_err()).await;
                assert_eq!(keys.ring().unwrap().active(), first);
            }
            fs::remove_file(&file).unwrap();
            until("the file is told", || {
                keys.check().is_err_and(|told| told.contains("cannot be read"))
            })
            .await;
            fs::write(&file, &text).unwrap();
            until("the new key seals", || {
                keys.ring().unwrap().active() == ring.active()
            })
            .await;
            until("all is well", || keys.check().is_ok()).await;
            assert_eq!(keys.ring().unwrap().kids().count(), 2);
            shutdown.cancel();
        };
        tokio::join!(following, changing);
    }
}
