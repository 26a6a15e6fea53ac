//! Pages of letters on their way out: claimed and read together, and closed together.

use std::collections::{BTreeMap, HashSet};

use posthaste_broker::Assignment;
use posthaste_event::control::{LetterPlace, Replay};
use rusqlite::params;

use super::{Claim, Index, Stored, marks, marks::Counts, stored};
use crate::letter::Place;

/// Letters that went out and whose marks were not read yet, at most in one partition: beyond, a mark is looked up when it is read.
const CLOSED_MAX: usize = 16_384;

/// Claimed letters with their records.
#[derive(Debug, Default)]
pub struct Page {
    /// Those of each partition.
    pub shares: Vec<Share>,
    /// The last of them, in the order in which they go out.
    pub last: Option<LetterPlace>,
    /// What became of the replay's letters until now, by partition.
    pub counts: BTreeMap<u32, Counts>,
}

/// Letters of one partition.
#[derive(Debug)]
pub struct Share {
    /// The assignment under which they are claimed.
    pub assignment: Assignment,
    /// The position to commit with them.
    pub position: i64,
    /// The letters.
    pub letters: Vec<Stored>,
}

/// A letter that went out, and that is durable.
#[derive(Debug)]
pub struct Gone {
    /// Where it stands.
    pub place: Place,
    /// Its event.
    pub event_id: String,
    /// Its step.
    pub step: u32,
}

/// Letters of one partition that went out with this position.
#[derive(Debug)]
pub struct Closing {
    /// The assignment under which they went.
    pub assignment: Assignment,
    /// The position that was committed with them.
    pub position: i64,
    /// The letters.
    pub letters: Vec<Gone>,
}

impl Page {
    /// All of its claims.
    pub fn claims(&self) -> Vec<Claim> {
        let claim = |share: &Share, letter: &Stored| Claim {
            place: letter.place,
            at: letter.at,
            assignment: share.assignment,
        };
        let shares = self.shares.iter();
        shares
            .flat_map(|share| share.letters.iter().map(move |letter| claim(share, letter)))
            .collect()
    }

    fn add(&mut self, assignment: Assignment, position: i64, letter: Stored) {
        let found = self.shares.iter_mut().find(|share| {
            share.assignment.epoch == assignment.epoch && share.assignment.partition == assignment.partition
        });
        match found {
            Some(share) => share.letters.push(letter),
            None => self.shares.push(Share {
                assignment,
                position,
                letters: vec![letter],
            }),
        }
    }
}

impl Index {
    /// Claims up to `records_max` letters of a replay, oldest first, from `after` on, until their records have `bytes_max` (but
    /// at least one).
    ///
    /// # Errors
    /// When the file fails; then nothing is claimed.
    pub fn next_page(
        &mut self,
        replay: &Replay,
        after: Option<LetterPlace>,
        (records_max, bytes_max): (usize, usize),
        skipped: &HashSet<Place>,
    ) -> rusqlite::Result<Page> {
        let mut found = Vec::new();
        let mut bytes = 0;
        self.walk_records_of(replay, after, |claim, row| {
            if self.claimed.contains_key(&claim.place) || skipped.contains(&claim.place) {
                return Ok(true);
            }
            let letter = stored(row)?;
            bytes += letter.value.len();
            if found.len() == records_max || (bytes > bytes_max && !found.is_empty()) {
                return Ok(false);
            }
            found.push((claim, letter));
            Ok(true)
        })?;
        let claims: Vec<Claim> = found.iter().map(|(claim, _)| *claim).collect();
        let page = self.page(&replay.id, found)?;
        self.claim(&claims);
        Ok(page)
    }

    /// Reads letters that are claimed already, until their records have `bytes_max` (but at least one), and says how many of the
    /// claims were looked at. Those that are gone are released.
    ///
    /// # Errors
    /// When the file fails.
    pub fn page_of(
        &mut self,
        replay_id: &str,
        claims: &[Claim],
        bytes_max: usize,
    ) -> rusqlite::Result<(Page, usize)> {
        let places: Vec<Place> = claims.iter().map(|claim| claim.place).collect();
        let (letters, looked_at) = self.load(&places, bytes_max)?;
        let mut letters = letters.into_iter().peekable();
        let mut found = Vec::new();
        let mut gone = Vec::new();
        for claim in &claims[..looked_at] {
            match letters.next_if(|letter| letter.place == claim.place) {
                Some(letter) => found.push((*claim, letter)),
                None => gone.push(*claim),
            }
        }
        let page = self.page(replay_id, found)?;
        self.release(&gone);
        Ok((page, looked_at))
    }

    fn page(&self, replay_id: &str, letters: Vec<(Claim, Stored)>) -> rusqlite::Result<Page> {
        let mut page = Page {
            counts: self.counts(replay_id)?,
            ..Page::default()
        };
        let mut positions: BTreeMap<u32, i64> = BTreeMap::new();
        for (claim, letter) in letters {
            let partition = claim.place.0;
            let position = match positions.get(&partition) {
                Some(position) => *position,
                None => {
                    // Without one the partition has gone, and the fence refuses its letters.
                    let position = self.position(partition)?.unwrap_or(claim.assignment.committed);
                    positions.insert(partition, position);
                    position
                }
            };
            page.last = Some(LetterPlace {
                at: claim.at,
                partition,
                offset: claim.place.1,
            });
            page.add(claim.assignment, position, letter);
        }
        Ok(page)
    }

    /// These letters went out by this replay, and that is durable.
    ///
    /// # Errors
    /// When the file fails. The letters stay claimed then, so that they cannot go out again.
    pub fn close(&mut self, all: Vec<Closing>, replay_id: &str) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let mut closed = Vec::new();
        for closing in &all {
            let mut noted = 0;
            for gone in &closing.letters {
                // Whoever read the mark first has closed the letter, and counted it.
                let is_open = transaction
                    .prepare_cached("DELETE FROM letters WHERE partition = ? AND place = ?")?
                    .execute(params![gone.place.0, gone.place.1])?
                    > 0;
                let is_new = is_open && marks::note(&transaction, &gone.event_id, gone.step, gone.place.0)?;
                noted += u32::from(is_new);
                closed.push(is_open);
            }
            marks::count(
                &transaction,
                replay_id,
                closing.assignment.partition.number,
                noted,
            )?;
        }
        transaction.commit()?;
        let mut closed = closed.into_iter();
        for closing in all {
            let (assignment, position) = (closing.assignment, closing.position);
            for (gone, is_open) in closing.letters.into_iter().zip(&mut closed) {
                self.release_one(gone.place, assignment.epoch);
                if is_open {
                    self.closed(assignment, gone);
                }
            }
            self.committed(assignment, position);
        }
        Ok(())
    }

    /// The mark of this letter is still to be read, and says nothing new.
    fn closed(&mut self, assignment: Assignment, gone: Gone) {
        if let Some(owned) = self.owned.get_mut(&assignment.partition.number)
            && owned.assignment.epoch == assignment.epoch
            && owned.closed.len() < CLOSED_MAX
        {
            owned.closed.insert(gone.event_id, gone.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use posthaste_broker::Partition;
    use posthaste_event::{
        Topic,
        control::{LetterFilter, ReplayShare},
    };

    use super::*;
    use crate::letter::{About, Entry, Letter};

    const ID: &str = "r";

    fn assignment(epoch: u64) -> Assignment {
        let partition = Partition {
            topic: Topic::DeadLetter,
            number: 0,
        };
        Assignment {
            partition,
            epoch,
            committed: 0,
        }
    }

    fn letter(offset: i64) -> (Place, Entry) {
        let place = (0, offset);
        let about = About {
            event_id: Some(format!("e{offset}")),
            step: 3,
            kind: "permanent",
            ..About::default()
        };
        let letter = Letter {
            place,
            at: 1_000 + offset,
            key: None,
            about,
            value: vec![b'x'; 100].into(),
        };
        (place, Entry::Letter(letter))
    }

    fn mark(of: i64, offset: i64) -> (Place, Entry) {
        let entry = Entry::Replayed {
            event_id: format!("e{of}"),
            step: 3,
            replay_id: ID.to_owned(),
        };
        ((0, offset), entry)
    }

    /// An index with ten letters.
    fn index() -> Index {
        let mut index = Index::open(None).unwrap();
        index.assigned(assignment(1)).unwrap();
        index.apply((0..10).map(letter).collect()).unwrap();
        index.at_end(0);
        index
    }

    fn replay() -> Replay {
        let place = |offset| LetterPlace {
            at: 1_000 + offset,
            partition: 0,
            offset,
        };
        Replay {
            id: ID.to_owned(),
            at: 0,
            by: "i".to_owned(),
            filter: LetterFilter::default(),
            from: 0,
            limit: 100,
            span: Some((place(0), place(9))),
            shares: vec![ReplayShare {
                partition: 0,
                below: 10,
                letters: 10,
            }],
            background: true,
            rate: None,
            ramp_ms: 0,
            refailure_ratio: 1.0,
            unknown: Default::default(),
        }
    }

    fn page(index: &mut Index, after: Option<LetterPlace>, records: usize, bytes: usize) -> Vec<i64> {
        let page = index
            .next_page(&replay(), after, (records, bytes), &HashSet::new())
            .unwrap();
        page.claims().iter().map(|claim| claim.place.1).collect()
    }

    fn closing(offsets: &[i64], epoch: u64) -> Vec<Closing> {
        let gone = |offset: &i64| Gone {
            place: (0, *offset),
            event_id: format!("e{offset}"),
            step: 3,
        };
        vec![Closing {
            assignment: assignment(epoch),
            position: 0,
            letters: offsets.iter().map(gone).collect(),
        }]
    }

    fn replayed(index: &Index) -> u64 {
        index
            .counts(ID)
            .unwrap()
            .get(&0)
            .map_or(0, |counts| counts.replayed)
    }

    #[test]
    fn a_page_ends_at_its_records_or_its_bytes_and_no_letter_is_in_two() {
        let mut index = index();
        assert_eq!(page(&mut index, None, 3, 10_000), [0, 1, 2]);
        assert_eq!(page(&mut index, None, 100, 250), [3, 4]);
        assert_eq!(page(&mut index, None, 100, 1), [5], "at least one");
        assert_eq!(page(&mut index, None, 100, 10_000), [6, 7, 8, 9]);
        assert!(page(&mut index, None, 100, 10_000).is_empty());
    }

    #[test]
    fn what_went_out_is_counted_once_whether_its_mark_is_read_before_or_after() {
        let mut index = index();
        page(&mut index, None, 4, 10_000);
        index.apply(vec![mark(0, 10), mark(1, 11)]).unwrap();
        index.close(closing(&[0, 1, 2, 3], 1), ID).unwrap();
        assert_eq!(replayed(&index), 4);
        index.apply(vec![mark(2, 12), mark(3, 13)]).unwrap();
        assert_eq!(replayed(&index), 4);
        assert_eq!(page(&mut index, None, 100, 10_000), [4, 5, 6, 7, 8, 9]);
        assert!(index.owned[&0].closed.is_empty(), "each mark was met");
    }

    #[test]
    fn a_mark_of_somebody_else_closes_the_letter() {
        let mut index = index();
        index.close(closing(&[0], 1), ID).unwrap();
        index.apply(vec![mark(0, 10), mark(5, 11)]).unwrap();
        assert_eq!(replayed(&index), 2);
        assert_eq!(page(&mut index, None, 100, 10_000), [1, 2, 3, 4, 6, 7, 8, 9]);
    }

    #[test]
    fn what_was_closed_under_a_former_assignment_is_counted_once_too() {
        let mut index = index();
        page(&mut index, None, 2, 10_000);
        index.assigned(assignment(2)).unwrap();
        index.apply((0..10).map(letter).collect()).unwrap();
        index.close(closing(&[0, 1], 1), ID).unwrap();
        index.apply(vec![mark(0, 10), mark(1, 11)]).unwrap();
        index.at_end(0);
        assert_eq!(replayed(&index), 2);
        assert_eq!(page(&mut index, None, 100, 10_000), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_claimed_letter_that_is_gone_is_left_out_and_released() {
        let mut index = index();
        let chosen = index.choose(&LetterFilter::default(), 0, 3, 0, true).unwrap();
        index.apply(vec![mark(1, 10)]).unwrap();
        let (page, looked_at) = index.page_of(ID, &chosen.claims, 10_000).unwrap();
        let places: Vec<i64> = page.claims().iter().map(|claim| claim.place.1).collect();
        assert_eq!((places, looked_at), (vec![0, 2], 3));
        assert!(!index.claimed.contains_key(&(0, 1)));
        let (page, looked_at) = index.page_of(ID, &chosen.claims, 100).unwrap();
        assert_eq!((page.claims().len(), looked_at), (1, 2));
    }
}
