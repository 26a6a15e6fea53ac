//! The status diagram of ARCHITECTURE.md, made from the transition table.

use std::collections::BTreeMap;

use posthaste_event::{
    Status,
    status::{TRANSITIONS, Writer},
};

use crate::tree::Tree;

const PAGE: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- Made by `cargo xtask diagram` from workspace/event/src/status.rs -->\n";
const END: &str = "<!-- The end of what is made -->\n";

/// Compares what the page shows with the table.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    let page = tree.files.get(PAGE).map_or("", String::as_str);
    Ok(match parts(page) {
        Some((_, shown, _)) if shown == drawn() => Vec::new(),
        Some(_) => vec![format!(
            "{PAGE}: the status diagram differs from the transition table; `cargo xtask diagram` makes it anew"
        )],
        None => vec![format!(
            "{PAGE}: there is no place for the status diagram; put these two lines there: {BEGIN}{END}"
        )],
    })
}

/// The page with the diagram as the table is now.
pub fn renewed(page: &str) -> Result<String, String> {
    let (before, _, after) = parts(page).ok_or_else(|| format!("{PAGE}: no lines {BEGIN}{END}"))?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", drawn()))
}

fn parts(page: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (shown, after) = rest.split_once(END)?;
    Some((before, shown, after))
}

fn drawn() -> String {
    let mut steps: BTreeMap<(Option<Status>, Status), Vec<&str>> = BTreeMap::new();
    for (from, to, writer) in TRANSITIONS {
        steps.entry((*from, *to)).or_default().push(name(*writer));
    }
    let mut text = "```mermaid\nstateDiagram-v2\n".to_owned();
    for ((from, to), writers) in steps {
        let from = from.map_or("[*]", Status::as_str);
        text.push_str(&format!("    {from} --> {to}: {}\n", writers.join(", ")));
    }
    text.push_str("```\n");
    text
}

const fn name(writer: Writer) -> &'static str {
    match writer {
        Writer::Ingestion => "ingestion",
        Writer::Dispatcher => "dispatcher",
        Writer::Retry => "retry",
        Writer::Replay => "replay",
        Writer::Receipt => "receipt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transition_is_drawn_once_with_all_who_take_it() {
        let text = drawn();
        assert!(text.contains("    [*] --> PENDING: ingestion\n"), "{text}");
        assert!(
            text.contains("    PENDING --> EXPIRED: dispatcher, retry\n"),
            "{text}"
        );
        assert!(text.contains("    DEAD_LETTERED --> PENDING: replay\n"), "{text}");
        assert_eq!(text.matches(" RETRYING --> SENT").count(), 1);
    }

    #[test]
    fn only_what_stands_between_the_marks_is_made_anew() {
        let page = format!("above\n{BEGIN}old\n{END}below\n");
        let renewed = renewed(&page).unwrap();
        assert_eq!(renewed, format!("above\n{BEGIN}{}{END}below\n", drawn()));
        assert!(super::renewed("nothing").is_err());
    }
}
