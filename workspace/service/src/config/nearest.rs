//! What somebody probably meant.

/// Longest name that can be a typing error of ours, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The candidate nearest to `name`, if any is near enough to be meant.
///
/// The same last part under another table wins over a similar spelling: a key in the wrong table is the usual mistake.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The distance takes time by the length of both.
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let reach = (name.len() / 3).clamp(2, 8);
    candidates
        .map(|candidate| {
            let distance = distance(name, candidate);
            if last(candidate) == last(name) {
                (0, distance, candidate)
            } else {
                (1, distance, candidate)
            }
        })
        .filter(|(rank, distance, _)| *rank == 0 || *distance <= reach)
        .min()
        .map(|(_, _, candidate)| candidate)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_and_wrong_tables_find_their_key() {
        let keys = [
            "service.listen",
            "service.log_level",
            "dispatcher.concurrency_max",
        ];
        let near = |name| nearest(name, keys.into_iter());
        assert_eq!(near("service.lisen"), Some("service.listen"));
        assert_eq!(near("ingestion.log_level"), Some("service.log_level"));
        assert_eq!(
            near("dispatcher.concurency_max"),
            Some("dispatcher.concurrency_max")
        );
        assert_eq!(near("zzz"), None);
        assert_eq!(near(&"service.".repeat(10_000)), None);
    }

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
