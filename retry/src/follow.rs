//! Follows the rule file while the service runs: what is changed and right takes effect, what is wrong is told and left out.
//!
//! The file is read again and again; nothing tells us that it has changed. That works on every file system and for every way
//! of changing a file (in place, by renaming, through links), and costs one small read at a time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_rules::Rules;
use posthaste_service::{Health, Metrics, Shutdown};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::Settings;

/// Why the rules of the file are not in force, in words.
type Fault = Arc<Mutex<Option<String>>>;

/// What may be done with the text of a rule file.
pub type Judge = Box<dyn Fn(&str) -> Result<Rules, String> + Send + Sync>;

/// Keeps `rules` what the file says, until `shutdown`. `judge` reads a text and says what is wrong with it.
///
/// What is wrong is logged once and shown by the lesser check `rules`; the rules in force stay. Without a file of the user's
/// there is nothing to follow, and it returns at once.
pub async fn follow(
    settings: &Settings,
    judge: Judge,
    rules: &watch::Sender<Arc<Rules>>,
    health: &Health,
    metrics: &Metrics,
    shutdown: &Shutdown,
) {
    if settings.rules_file.is_empty() {
        return;
    }
    let fault = Fault::default();
    let checked = Arc::clone(&fault);
    health.check_lesser("rules", move || {
        checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_or(Ok(()), Err)
    });
    let mut follower = Follower {
        judge,
        rules,
        metrics,
        fault,
        seen: None,
        judged: None,
    };
    let every = Duration::from_millis(settings.rules_poll_ms);
    while shutdown
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let settings = settings.clone();
        let read = tokio::task::spawn_blocking(move || settings.rules_text());
        // The task does nothing that could panic; should it, the next one reads again.
        if let Ok(read) = read.await {
            follower.look(read.map_err(|error| error.to_string()));
        }
    }
}

/// A file's text, or why it cannot be read.
type Reading = Result<String, String>;

struct Follower<'a> {
    judge: Judge,
    rules: &'a watch::Sender<Arc<Rules>>,
    metrics: &'a Metrics,
    fault: Fault,
    /// What the last look found.
    seen: Option<Reading>,
    /// What was judged last.
    judged: Option<Reading>,
}

impl Follower<'_> {
    /// Judges what was found, once, when two looks in a row have found the same: an editor may be writing.
    fn look(&mut self, found: Reading) {
        let is_steady = self.seen.as_ref() == Some(&found);
        if is_steady && self.judged.as_ref() != Some(&found) {
            match found
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|text| (self.judge)(text))
            {
                Ok(rules) => self.take_up(rules),
                Err(reason) => self.refuse(&reason),
            }
            self.judged = Some(found);
        } else {
            self.seen = Some(found);
        }
    }

    fn take_up(&self, rules: Rules) {
        let was_wrong = self.tell(None).is_some();
        let version = rules.version().to_owned();
        // The first look finds what the start has read.
        let is_new = self.rules.send_if_modified(|in_force| {
            let is_new = **in_force != rules;
            *in_force = Arc::new(rules);
            is_new
        });
        if is_new {
            self.metrics.rules_reloaded.one();
            info!(version, "the rules were changed: version {version} is in force");
        } else if was_wrong {
            info!(
                version,
                "the rule file is right again: version {version} stays in force"
            );
        }
    }

    fn refuse(&self, reason: &str) {
        let version = self.rules.borrow().version().to_owned();
        let fault = format!("{reason}; version {version} stays in force");
        if self.tell(Some(fault)).is_none() {
            warn!(
                reason,
                version, "the rule file is wrong, version {version} stays in force: {reason}"
            );
        }
    }

    /// Gives what was wrong before.
    fn tell(&self, fault: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut *self.fault.lock().unwrap_or_else(PoisonError::into_inner),
            fault,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn rules(version: &str, tries: u32) -> String {
        format!(
            "version = \"{version}\"\n[[rule]]\nid = \"all\"\ntries = {tries}\nbackoff = {{ kind = \"fixed\", delay = \"1s\" }}\n"
        )
    }

    fn reason(health: &Health) -> Option<String> {
        let missing = health
            .missing()
            .into_iter()
            .find(|missing| missing.name == "rules")?;
        assert!(!missing.is_needed, "the service works on");
        Some(missing.reason)
    }

    #[tokio::test]
    async fn a_change_takes_effect_and_a_wrong_one_leaves_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        fs::write(&file, rules("1", 1)).unwrap();
        let mut settings = crate::settings::defaults();
        settings.rules_file = file.display().to_string();
        settings.rules_poll_ms = 10;
        let (sender, mut receiver) = watch::channel(Arc::new(settings.rules().unwrap()));
        let (health, metrics, shutdown) = (Health::default(), Metrics::default(), Shutdown::new());
        let judge: Judge =
            Box::new(|text| Rules::parse(text, "mine.toml").map_err(|error| error.to_string()));
        let following = follow(&settings, judge, &sender, &health, &metrics, &shutdown);
        let changing = async {
            receiver.mark_unchanged();
            fs::write(&file, rules("2", 2)).unwrap();
            timeout(PATIENCE, receiver.changed()).await.unwrap().unwrap();
            assert_eq!(receiver.borrow_and_update().version(), "2");
            for wrong in [Some("[[rule]]\nid = 3\n"), None] {
                match wrong {
                    Some(text) => fs::write(&file, text).unwrap(),
                    None => fs::remove_file(&file).unwrap(),
                }
                let expected = if wrong.is_some() {
                    "mine.toml:2: id"
                } else {
                    "cannot be read"
                };
                let told = async {
                    while !reason(&health).is_some_and(|reason| reason.contains(expected)) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(PATIENCE, told).await.unwrap();
                assert!(reason(&health).unwrap().ends_with("version 2 stays in force"));
            }
            assert!(!receiver.has_changed().unwrap());
            fs::write(&file, rules("3", 3)).unwrap();
            timeout(PATIENCE, receiver.changed()).await.unwrap().unwrap();
            assert_eq!(receiver.borrow().version(), "3");
            assert_eq!(reason(&health), None);
            assert_eq!(metrics.rules_reloaded.get(), 2);
            shutdown.cancel();
        };
        tokio::join!(following, changing);
    }

    #[test]
    fn a_file_that_is_being_written_is_not_judged() {
        let sender = watch::Sender::new(Arc::new(Rules::parse(&rules("1", 1), "").unwrap()));
        let metrics = Metrics::default();
        let mut follower = Follower {
            judge: Box::new(|text| Rules::parse(text, "").map_err(|error| error.to_string())),
            rules: &sender,
            metrics: &metrics,
            fault: Fault::default(),
            seen: None,
            judged: None,
        };
        let whole = rules("2", 2);
        for length in [10, 20, 30] {
            follower.look(Ok(whole[..length].to_owned()));
        }
        follower.look(Ok(whole.clone()));
        assert_eq!((follower.tell(None), sender.borrow().version()), (None, "1"));
        follower.look(Ok(whole));
        assert_eq!(sender.borrow().version(), "2");
    }
}
