//! Breaks the house on purpose, in a copy, once for each thing that `tidy` looks at: each time it must say so.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{CHECKS, tree::Tree};

/// What is done to a file.
enum Harm {
    /// The first of these texts becomes the other.
    Replace(&'static str, &'static str),
    /// The file holds this, and nothing else.
    Write(&'static str),
    /// This many lines more.
    Lengthen(usize),
}

use Harm::{Lengthen, Replace, Write};

/// The check that must see it, the file, what is done to it, and a part of what must be said.
const OFFENCES: &[(&str, &str, Harm, &str)] = &[
    (
        "crates",
        "retry/Cargo.toml",
        Replace(
            "[dependencies]\n",
            "[dependencies]\nposthaste-dispatcher.workspace = true\n",
        ),
        "posthaste-retry uses posthaste-dispatcher, which is not in a row above it",
    ),
    (
        "crates",
        "workspace/event/Cargo.toml",
        Replace(
            "[dependencies]\n",
            "[dependencies]\nposthaste-broker.workspace = true\n",
        ),
        "posthaste-event uses posthaste-broker",
    ),
    (
        "crates",
        "ingestion/Cargo.toml",
        Replace(
            "[dependencies]\n",
            "[dependencies]\nposthaste-testkit.workspace = true\n",
        ),
        "outside of tests",
    ),
    (
        "crates",
        "dispatcher/Cargo.toml",
        Replace("[dependencies]\n", "[dependencies]\nrdkafka.workspace = true\n"),
        "belongs to posthaste-broker alone",
    ),
    (
        "crates",
        "workspace/status/Cargo.toml",
        Replace("[dependencies]\n", "[dependencies]\nmongodb.workspace = true\n"),
        "belongs to posthaste-store alone",
    ),
    (
        "crates",
        "retry/Cargo.toml",
        Replace("[dependencies]\n", "[dependencies]\nbackoff.workspace = true\n"),
        "belongs to posthaste-reconnect alone",
    ),
    (
        "crates",
        "retry/Cargo.toml",
        Replace("name = \"posthaste-retry\"", "name = \"posthaste-again\""),
        "crate posthaste-again is in no row",
    ),
    (
        "crates",
        "ARCHITECTURE.md",
        Replace(
            "| `workspace/event` |",
            "| `retry/` | too high | |\n| `workspace/event` |",
        ),
        "posthaste-retry may use",
    ),
    (
        "sources",
        "retry/src/judge.rs",
        Replace("//! What becomes", "// What becomes"),
        "open with `//!`",
    ),
    ("sources", "retry/src/judge.rs", Lengthen(500), "at most 500"),
    (
        "sources",
        "retry/src/long.rs",
        Write(
            "//! Long.\nfn a() {\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n}\n",
        ),
        "at most 70",
    ),
    (
        "sources",
        "retry/src/late.rs",
        Write("//! Late.\nfn now() { std::time::SystemTime::now(); }\n"),
        "the clock is read in workspace/event/src/clock.rs alone",
    ),
    (
        "sources",
        "retry/src/helpers/x.rs",
        Write("//! Helps.\n"),
        "says nothing",
    ),
    ("sources", "deploy/common/x.yml", Write("a: 1\n"), "says nothing"),
    (
        "settings",
        "retry/settings.toml",
        Replace("hops_max = 32\n", "\nhops_max = 32\n"),
        "say in a comment above it",
    ),
    (
        "settings",
        "retry/settings.toml",
        Replace("hops_max = 32\n", ""),
        "hops_max has no line in retry/settings.toml",
    ),
    (
        "settings",
        "retry/settings.toml",
        Replace("hops_max = 32\n", "hops_max = 32\nhops_min = 1\n"),
        "nothing reads hops_min of [retry]",
    ),
    (
        "settings",
        "workspace/store/settings.toml",
        Replace("readers = 2\n", "readers = 2\nwriters = 1\n"),
        "nothing reads writers of [store.embedded]",
    ),
    (
        "settings",
        "retry/src/settings.rs",
        Replace("    pub hops_max: usize,", "    pub hops_max: Option<usize>,"),
        "hops_max has a default in the code",
    ),
    (
        "settings",
        "retry/src/settings.rs",
        Replace("#[serde(deny_unknown_fields)]", ""),
        "takes keys that do not exist",
    ),
    (
        "settings",
        "posthaste/src/configuration.rs",
        Replace("    posthaste_retry::DEFAULTS,\n", ""),
        "does not put it into the manual",
    ),
    (
        "pages",
        "ARCHITECTURE.md",
        Replace(
            "`workspace/event/src/status.rs`",
            "`workspace/event/src/standing.rs`",
        ),
        "workspace/event/src/standing.rs does not exist",
    ),
    (
        "pages",
        "Cargo.toml",
        Replace("    \"retry\",\n", "    \"retry\",\n    \"again\",\n"),
        "the house has no row for again",
    ),
    (
        "topics",
        "kafka-topics.sh",
        Replace("delay.near", "delay.far"),
        "delay.near",
    ),
    (
        "diagram",
        "ARCHITECTURE.md",
        Replace("    DEAD_LETTERED --> PENDING: replay\n", ""),
        "the status diagram differs",
    ),
];

/// A copy of the tracked text files that can be spoilt.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for (path, text) in &Tree::read(here).unwrap().files {
            copy.write(path, text);
        }
        let made = Command::new("git")
            .args(["init", "--quiet"])
            .current_dir(copy.folder.path())
            .status();
        assert!(made.unwrap().success());
        copy
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Does harm to a file, looks, and undoes it.
    fn broken(&self, path: &str, harm: &Harm, look: impl FnOnce(&Tree)) {
        let whole = self.folder.path().join(path);
        let before = fs::read_to_string(&whole).ok();
        let text = before.clone().unwrap_or_default();
        let after = match harm {
            Replace(old, new) => {
                assert!(text.contains(old), "{path} has no {old:?}: mend the offence");
                text.replacen(old, new, 1)
            }
            Write(new) => (*new).to_owned(),
            Lengthen(lines) => text + &"// x\n".repeat(*lines),
        };
        self.write(path, &after);
        let mut tree = Tree::read(self.folder.path()).unwrap();
        if path.ends_with(".rs") && path != "posthaste/src/configuration.rs" {
            // Every other source is as good as before: parsing them all each time takes long.
            let folder = path
                .split_once("/src/")
                .map_or("", |(folder, _)| folder)
                .to_owned();
            tree.files
                .retain(|file, _| !file.ends_with(".rs") || file.starts_with(&folder));
        }
        look(&tree);
        match before {
            Some(before) => self.write(path, &before),
            None => fs::remove_file(whole).unwrap(),
        }
    }
}

#[test]
fn each_check_finds_what_was_broken_on_purpose() {
    let copy = Copy::new();
    for (name, path, harm, expected) in OFFENCES {
        let (_, check) = CHECKS.iter().find(|(known, _)| known == name).unwrap();
        copy.broken(path, harm, |tree| {
            let findings = check(tree).unwrap_or_else(|error| vec![error]);
            assert!(
                findings.iter().any(|finding| finding.contains(expected)),
                "{name} does not see what was done to {path}: {expected:?} is not in {findings:#?}"
            );
        });
    }
    let broken: BTreeSet<&str> = OFFENCES.iter().map(|(name, ..)| *name).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
    assert_eq!(broken, all, "every check is broken at least once");
    let tree = Tree::read(copy.folder.path()).unwrap();
    for (name, check) in CHECKS {
        assert_eq!(
            check(&tree).unwrap(),
            Vec::<String>::new(),
            "{name}: the copy is whole again"
        );
    }
}
