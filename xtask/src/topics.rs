//! Topics: `kafka-topics.sh` makes the ones that the program has, in the same way.

use std::{collections::BTreeMap, process::Command};

use posthaste_event::{
    Topic,
    topic::{PARTITIONS_DEFAULT, PREFIX_DEFAULT},
};

use crate::tree::Tree;

const SCRIPT: &str = "kafka-topics.sh";

/// Copies of a topic unless configured otherwise; [`manual`] holds the default configuration to it.
const REPLICATION_DEFAULT: u32 = 1;

/// What the topics are made with.
struct Case<'a> {
    prefix: &'a str,
    partitions: u32,
    replication: u32,
    environment: &'a [(&'a str, &'a str)],
}

/// Asks the script for its plan, with its defaults and with others, and compares it with the program's topics.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    if !tree.files.contains_key(SCRIPT) {
        return Ok(vec![format!("{SCRIPT} is missing")]);
    }
    let cases = [
        Case {
            prefix: PREFIX_DEFAULT,
            partitions: PARTITIONS_DEFAULT,
            replication: REPLICATION_DEFAULT,
            environment: &[],
        },
        Case {
            prefix: "a.b",
            partitions: 3,
            replication: 3,
            environment: &[("PREFIX", "a.b"), ("PARTITIONS", "3"), ("REPLICATION", "3")],
        },
    ];
    let mut findings = Vec::new();
    for case in &cases {
        findings.extend(compare(case, &plan(tree, case)?));
    }
    findings.extend(manual(tree));
    Ok(findings)
}

fn plan(tree: &Tree, case: &Case<'_>) -> Result<String, String> {
    let mut command = Command::new("bash");
    command.arg(SCRIPT).arg("plan").current_dir(&tree.root);
    for variable in [
        "PREFIX",
        "PARTITIONS",
        "REPLICATION",
        "BOOTSTRAP",
        "JOBS",
        "COMMAND_CONFIG",
    ] {
        command.env_remove(variable);
    }
    let output = command
        .envs(case.environment.iter().copied())
        .output()
        .map_err(|error| format!("bash: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{SCRIPT} plan: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Partitions, replication and settings of a topic, the settings in any order.
type Planned<'a> = (&'a str, &'a str, BTreeMap<&'a str, &'a str>);

/// A line of a plan: which topic, and what it is made with.
fn parts(line: &str) -> Option<(&str, Planned<'_>)> {
    let mut words = line.split_whitespace();
    let (name, partitions, replication) = (words.next()?, words.next()?, words.next()?);
    let settings = words.next()?.split(',');
    let settings = settings.map(|one| one.split_once('=').unwrap_or((one, "")));
    Some((name, (partitions, replication, settings.collect())))
}

fn compare(case: &Case<'_>, plan: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut planned = BTreeMap::new();
    for line in plan.lines() {
        let Some((name, topic)) = parts(line) else {
            findings.push(format!("{SCRIPT} plan: {line:?} is no topic"));
            continue;
        };
        if planned.insert(name.to_owned(), topic).is_some() {
            findings.push(format!("{SCRIPT}: {name} is there twice"));
        }
    }
    let (partitions, replication) = (case.partitions.to_string(), case.replication.to_string());
    for topic in Topic::ALL {
        let wanted = (
            partitions.as_str(),
            replication.as_str(),
            topic.settings(case.replication).into_iter().collect(),
        );
        match planned.remove(&topic.name(case.prefix)) {
            None => findings.push(format!(
                "{SCRIPT}: {topic} is missing in its table; workspace/event/src/topic.rs has it"
            )),
            Some(found) if found != wanted => findings.push(format!(
                "{SCRIPT}: {topic} is planned as {found:?}; workspace/event/src/topic.rs says {wanted:?}"
            )),
            Some(_) => {}
        }
    }
    let strays = planned.into_keys();
    findings
        .extend(strays.map(|name| format!("{SCRIPT}: {name} is no topic of workspace/event/src/topic.rs")));
    findings
}

/// The broker's default configuration says the same as the script's defaults.
fn manual(tree: &Tree) -> Vec<String> {
    const PATH: &str = "workspace/broker/settings.toml";
    let table = tree
        .files
        .get(PATH)
        .and_then(|text| text.parse::<toml::Table>().ok());
    let is = |path: &[&str]| {
        let mut value = table.as_ref()?.get("broker")?;
        for part in path {
            value = value.get(part)?;
        }
        Some(value.clone())
    };
    let wanted: [(&[&str], toml::Value); 3] = [
        (&["prefix"], PREFIX_DEFAULT.into()),
        (&["partitions"], i64::from(PARTITIONS_DEFAULT).into()),
        (&["kafka", "replication"], i64::from(REPLICATION_DEFAULT).into()),
    ];
    wanted
        .into_iter()
        .filter(|(path, wanted)| is(path).as_ref() != Some(wanted))
        .map(|(path, wanted)| {
            let key = path.join(".");
            format!("{PATH}: broker.{key} is not {wanted}, which is what {SCRIPT} takes without one")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case<'_> = Case {
        prefix: "p",
        partitions: 2,
        replication: 1,
        environment: &[],
    };

    fn good() -> Vec<String> {
        let line = |topic: Topic| {
            let settings = topic.settings(1).map(|(key, value)| format!("{key}={value}"));
            format!("{} 2 1 {}", topic.name("p"), settings.join(","))
        };
        Topic::ALL.map(line).to_vec()
    }

    #[test]
    fn a_plan_that_differs_in_anything_is_found() {
        assert_eq!(compare(&CASE, &good().join("\n")), Vec::<String>::new());
        let mut plan = good();
        plan.pop();
        assert_eq!(compare(&CASE, &plan.join("\n")).len(), 1);
        plan.push("p.strange 2 1 cleanup.policy=delete".to_owned());
        assert_eq!(compare(&CASE, &plan.join("\n")).len(), 2);
        for (from, to) in [
            (" 2 1 ", " 3 1 "),
            (" 2 1 ", " 2 2 "),
            ("retention.ms=-1", "retention.ms=1"),
            ("cleanup.policy=delete", "cleanup.policy=compact"),
            (",min.insync.replicas=1", ""),
        ] {
            let mut plan = good();
            plan[0] = plan[0].replacen(from, to, 1);
            assert_eq!(compare(&CASE, &plan.join("\n")).len(), 1, "{from} -> {to}");
        }
        let twice = [good(), vec![good().remove(0)]].concat();
        assert_eq!(compare(&CASE, &twice.join("\n")).len(), 1);
    }
}
