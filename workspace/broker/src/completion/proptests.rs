//! Any order, any gaps, a take-over at any point: checked against a plain set.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Read on over this many offsets that are not there.
    Read { gap: i64 },
    /// Finish one of the open ones.
    Finish { choice: usize },
    /// Mark one of the open ones as started.
    Start { choice: usize },
    /// What is true now is committed.
    Commit,
    /// The process dies; another takes over from the last commit. What was finished since is open again.
    Crash,
    /// The partition is revoked: committed, and taken over by another process, which reads again from there.
    TakeOver,
    /// Read again from the watermark, as after a returned ticket.
    ReadAgain,
    /// The same process takes over from itself and finishes some before it has read them again.
    Return { choices: Vec<usize> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![8 => Just(0_i64), 4 => 1..3_i64, 1 => 0..100_000_i64, 1 => 0..1_i64 << 45]
            .prop_map(|gap| Step::Read { gap }),
        8 => any::<usize>().prop_map(|choice| Step::Finish { choice }),
        2 => any::<usize>().prop_map(|choice| Step::Start { choice }),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => Just(Step::TakeOver),
        1 => Just(Step::ReadAgain),
        1 => proptest::collection::vec(any::<usize>(), 0..20).prop_map(|choices| Step::Return { choices }),
    ]
}

/// The log as it is, and what must be true of the progress in it.
#[derive(Default)]
struct World {
    log: Vec<i64>,
    finished: BTreeSet<i64>,
    started: BTreeSet<i64>,
    kept: Kept,
}

/// The last commit, and what was true then.
#[derive(Default)]
struct Kept {
    committed: i64,
    metadata: String,
    finished: BTreeSet<i64>,
    started: BTreeSet<i64>,
}

impl World {
    fn open(&self, completion: &Completion) -> Vec<i64> {
        self.log
            .iter()
            .copied()
            .filter(|offset| *offset < completion.next() && !self.finished.contains(offset))
            .collect()
    }

    fn commit(&mut self, completion: &Completion) {
        let committed = completion.committed();
        assert!(
            committed >= self.kept.committed,
            "a commit never goes back while nobody else had the partition"
        );
        self.kept = Kept {
            committed,
            metadata: completion.metadata(),
            finished: self.finished.clone(),
            started: self.started.clone(),
        };
    }

    /// The next owner's progress: all that was committed and nothing else.
    fn after_crash(&mut self) -> Completion {
        self.finished.clone_from(&self.kept.finished);
        self.started.clone_from(&self.kept.started);
        Completion::resume(self.kept.committed, &self.kept.metadata).unwrap()
    }

    /// Finishes some of what was read by the same process under an earlier assignment, up to `end`.
    fn finish_unread(&mut self, completion: &mut Completion, end: i64, choices: &[usize]) {
        for choice in choices {
            let open: Vec<i64> = (self.log.iter().copied())
                .filter(|offset| *offset < end && !self.finished.contains(offset))
                .collect();
            if !open.is_empty() {
                let offset = open[choice % open.len()];
                assert!(completion.finish_unread(offset));
                self.finished.insert(offset);
                self.started.remove(&offset);
                self.check(completion);
            }
        }
    }

    /// Reads everything from the watermark up to `end` and compares.
    fn read_again(&self, completion: &mut Completion, end: i64) {
        let committed = completion.committed();
        for offset in self
            .log
            .iter()
            .copied()
            .filter(|offset| (committed..end).contains(offset))
        {
            assert!(
                completion.has_room(offset),
                "a window that was there must fit again"
            );
            let expected = if self.finished.contains(&offset) {
                Reading::Finished
            } else {
                Reading::Open {
                    started: self.started.contains(&offset),
                }
            };
            assert_eq!(completion.read(offset), expected, "{offset}");
        }
    }

    fn check(&self, completion: &Completion) {
        let committed = completion.committed();
        let lowest_open = self.open(completion).first().copied();
        assert!(
            lowest_open.is_none_or(|lowest| committed <= lowest),
            "never past an unfinished record"
        );
        let end = self.log.last().map_or(0, |last| last + 1);
        assert!(committed <= end, "never past the end");
        let metadata = completion.metadata();
        assert!(
            metadata.len() <= METADATA_CHARS_MAX,
            "{} characters",
            metadata.len()
        );
        let resumed = Completion::resume(committed, &metadata).unwrap();
        assert_eq!((resumed.committed(), resumed.metadata()), (committed, metadata));
    }
}

fn run(steps: Vec<Step>) {
    let mut world = World::default();
    let mut completion = Completion::new(0);
    for step in steps {
        match step {
            Step::Read { gap } => {
                let offset = world.log.last().map_or(0, |last| last + 1) + gap;
                if completion.has_room(offset) {
                    world.log.push(offset);
                    assert_eq!(completion.read(offset), Reading::Open { started: false });
                }
            }
            Step::Finish { choice } => {
                let open = world.open(&completion);
                if !open.is_empty() {
                    let offset = open[choice % open.len()];
                    assert!(completion.finish(offset));
                    assert!(!completion.finish(offset));
                    world.finished.insert(offset);
                    world.started.remove(&offset);
                }
            }
            Step::Start { choice } => {
                let open = world.open(&completion);
                if !open.is_empty() {
                    let offset = open[choice % open.len()];
                    if completion.start(offset) {
                        world.started.insert(offset);
                    }
                }
            }
            Step::Commit => world.commit(&completion),
            Step::Crash => {
                let end = completion.next();
                completion = world.after_crash();
                world.check(&completion);
                world.read_again(&mut completion, end);
            }
            Step::TakeOver => {
                world.commit(&completion);
                let end = completion.next();
                let part = (completion.committed() + end) / 2;
                completion = Completion::resume(completion.committed(), &completion.metadata()).unwrap();
                world.read_again(&mut completion, part);
                world.check(&completion);
                world.read_again(&mut completion, end);
            }
            Step::Return { choices } => {
                let end = completion.next();
                completion = Completion::resume(completion.committed(), &completion.metadata()).unwrap();
                world.finish_unread(&mut completion, end, &choices);
                world.read_again(&mut completion, end);
            }
            Step::ReadAgain => {
                let end = completion.next();
                world.read_again(&mut completion, end);
            }
        }
        assert_eq!(completion.open(), world.open(&completion).len());
        world.check(&completion);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn nothing_is_lost_or_repeated(steps in proptest::collection::vec(step(), 0..200)) {
        run(steps);
    }

    #[test]
    fn any_text_is_read_or_refused_without_harm(text in ".{0,64}", committed in 0..i64::MAX - 1_000) {
        hostile(committed, &text);
    }

    #[test]
    fn every_map_comes_back_as_it_was(
        committed in 0..i64::MAX >> 1,
        runs in proptest::collection::vec((1..distance_max(), 1..distance_max(), any::<bool>()), 0..300),
    ) {
        let mut map = Map::default();
        let mut at = committed;
        for (unfinished, finished, started) in runs {
            if started {
                map.started.push(at + unfinished / 2);
            }
            map.finished.push_back((at + unfinished, at + unfinished + finished));
            at += unfinished + finished;
        }
        let text = map.encode(committed);
        if text.len() <= METADATA_CHARS_MAX {
            assert_eq!(Map::decode(committed, &text), Ok(map));
        } else {
            assert!(matches!(Map::decode(committed, &text), Err(MetadataError::TooLong { .. })));
        }
    }
}

/// Far enough for every length of a varint that 300 runs can have together.
const fn distance_max() -> i64 {
    1 << 40
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn metadata_that_is_nearly_ours_is_read_or_refused_without_harm(
        form in 0..=1_u8,
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ones in proptest::collection::vec(1..3_u8, 0..3_070),
        committed in prop_oneof![0..1_000_i64, (i64::MAX - 100_000)..(i64::MAX - 1_000)],
    ) {
        // Bytes of any kind, and runs or marks of every length that fits.
        let mut raw = vec![1, form];
        raw.extend(bytes);
        raw.extend(&ones);
        hostile(committed, &BASE64.encode(&raw));
        let mut raw = vec![1, form];
        put_length(&mut raw, ones.len() / 2 * 2);
        raw.extend(&ones);
        hostile(committed, &BASE64.encode(&raw));
    }
}

fn put_length(raw: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        raw.push(length as u8 | 0x80);
        length >>= 7;
    }
    raw.push(length as u8);
}

/// Text that others may have written: refused, or worked with like our own.
fn hostile(committed: i64, text: &str) {
    let Ok(mut completion) = Completion::resume(committed, text) else {
        return;
    };
    let again = Completion::resume(completion.committed(), &completion.metadata()).unwrap();
    assert_eq!(again.metadata(), completion.metadata());
    let first = completion.committed();
    assert!(first >= committed);
    // Text may name offsets up to the highest that there is.
    let last = first.saturating_add(200).min(i64::MAX - 500);
    for offset in first..last {
        let known = (completion.is_finished(offset), completion.is_started(offset));
        let expected = match known {
            (true, _) => Reading::Finished,
            (false, started) => Reading::Open { started },
        };
        assert_eq!(completion.read(offset), expected, "{offset}");
        if offset % 3 == 0 {
            assert_eq!(completion.finish(offset), expected != Reading::Finished);
        }
        assert!(completion.finish_unread(offset + 400) || completion.is_finished(offset + 400));
    }
    let lowest_open = (first..completion.next()).find(|offset| completion.is_open(*offset));
    assert!(lowest_open.is_none_or(|lowest| completion.committed() <= lowest));
    let resumed = Completion::resume(completion.committed(), &completion.metadata());
    assert!(resumed.is_ok() || completion.metadata().len() > METADATA_CHARS_MAX);
}

proptest! {
    // Each case fills a window of up to 24,000 records.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_full_window_fits_and_can_be_taken_over(
        wide in prop_oneof![Just(1_i64), Just(3), Just(1_000), Just(1 << 30)],
        pattern in proptest::collection::vec((any::<bool>(), any::<bool>()), 64),
    ) {
        let mut completion = Completion::new(7);
        let (mut offset, mut log) = (7, Vec::new());
        while completion.has_room(offset) {
            completion.read(offset);
            log.push(offset);
            offset += if log.len().is_multiple_of(5) { wide } else { 1 };
        }
        let mut finished = BTreeSet::new();
        for (offset, (finish, start)) in log.iter().skip(1).zip(pattern.iter().cycle()) {
            if *finish {
                completion.finish(*offset);
                finished.insert(*offset);
            } else if *start {
                completion.start(*offset);
            }
        }
        assert!(completion.metadata().len() <= METADATA_CHARS_MAX);
        // The next owner reads as far as there is room, finishes what is open from the top down, and goes on.
        let mut next = Completion::resume(completion.committed(), &completion.metadata()).unwrap();
        let mut open = Vec::new();
        for offset in log {
            if !next.has_room(offset) {
                for open in open.drain(..).rev() {
                    assert!(next.finish(open));
                    assert!(next.metadata().len() <= METADATA_CHARS_MAX);
                }
                assert!(next.has_room(offset), "room once all is finished");
            }
            if next.read(offset) != Reading::Finished {
                assert!(!finished.contains(&offset), "{offset} again");
                open.push(offset);
            }
            if offset % 997 == 0 {
                assert!(next.metadata().len() <= METADATA_CHARS_MAX);
            }
        }
    }
}
