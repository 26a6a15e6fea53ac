//! Replays what fuzzing found worth keeping (`fuzz/corpus`), and the files that come with the program, with the ordinary compiler.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path};

#[test]
fn what_fuzzing_found_is_read_or_refused_without_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let folder = corpus.join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut taken = 0;
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            taken += u32::from(target(&fs::read(&path).unwrap()));
        }
        // A corpus of refusals would prove little.
        assert!(taken > 0, "{name}: nothing in its corpus is taken");
    }
}

#[test]
fn what_comes_with_the_program_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    assert!(targets::rules(posthaste_rules::SHIPPED.as_bytes()));
    for (_, text) in posthaste_provider::checked::Checked::shipped() {
        assert!(targets::provider(text.as_bytes()));
    }
    for file in fs::read_dir(root.join("workspace/event/tests/golden")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            targets::record(&fs::read(path).unwrap());
        }
    }
}

/// Long and deep inputs, which fuzzing does not make up by itself: they are refused in good time, with the stack that a thread has.
#[test]
fn deep_and_long_inputs_are_refused_without_harm() {
    const MANY: usize = 20_000;
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(MANY), close.repeat(MANY));
    let bombs = [
        nested("[", "]"),
        nested("{\"a\":", "}"),
        nested("{\"delivery\":", "}"),
        format!(
            "{{\"channel\":\"webhook\",\"payload\":{}}}",
            nested("{\"body\":", "}")
        ),
        format!("a = {}", nested("[", "]")),
        format!("a = {}", nested("{ a = ", "}")),
        format!("{}a = 1", "a.".repeat(MANY)),
        format!("[{}a]\n", "a.".repeat(MANY)),
        format!("[[{}a]]\n", "a.".repeat(MANY)),
        format!("[request]\njson = {{ {}a = 1 }}", "a.".repeat(MANY)),
        (0..MANY)
            .map(|number| format!("k{number} = {number}\n"))
            .collect(),
        (0..MANY).map(|number| format!("k{number}=&")).collect(),
        format!(
            "{{{}\"a\":1}}",
            (0..MANY)
                .map(|number| format!("\"k{number}\":1,"))
                .collect::<String>()
        ),
        format!("POSTHASTE_{}A=1", "A__".repeat(MANY)),
        "a=b&".repeat(MANY),
        "[[rule]]\n".repeat(MANY),
        "\"".repeat(MANY),
        "{{ ".repeat(MANY),
        format!("\u{0}{}", "250-x\r\n".repeat(MANY)),
        format!("\u{0}220 {}", "x".repeat(10 * MANY)),
        format!("0200\n\n{}", nested("[", "]")),
    ];
    for (name, target) in targets::TARGETS {
        for bomb in &bombs {
            println!("{name}: {:.60}", bomb.escape_debug().to_string());
            target(bomb.as_bytes());
        }
    }
}
