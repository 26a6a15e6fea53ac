//! What is said of clocks and folders that are not as they should be.

use super::*;

fn look(set: &[&str], look: impl FnOnce(&mut Doctor<'_>)) -> Vec<(Severity, String)> {
    let common = Common {
        set: set.iter().map(|set| (*set).to_owned()).collect(),
        ..Common::default()
    };
    let configuration = configuration::load(&common, &Place::default()).unwrap();
    let settings = configuration::settings(&configuration).unwrap();
    let mut doctor = Doctor {
        configuration: &configuration,
        settings: &settings,
        findings: Vec::new(),
    };
    look(&mut doctor);
    let told = doctor.findings.into_iter();
    told.map(|finding| {
        (
            finding.severity,
            format!("{}: {}", finding.subject, finding.message),
        )
    })
    .collect()
}

#[test]
fn a_clock_that_differs_is_told_with_the_direction() {
    let now = posthaste_event::clock::now();
    assert_eq!(
        look(&[], |doctor| doctor.compare_clock("MongoDB", now + 1_000, 0)),
        []
    );
    for (theirs, words) in [
        (now + 60_000, "s ahead of this machine"),
        (now - 60_000, "s behind this machine"),
    ] {
        let told = look(&[], |doctor| doctor.compare_clock("MongoDB", theirs, 0));
        assert!(
            told[0].0 == Severity::Warning && told[0].1.contains(words),
            "{told:?}"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_one_is_wrong_and_who_named_it_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let set = format!("service.data_dir={}", file.path().display());
    let told = look(&[&set], |doctor| doctor.data_folder());
    assert!(
        told[0].0 == Severity::Error && told[0].1.contains("service.data_dir is set by option --set"),
        "{told:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let set = format!("service.data_dir={}", folder.path().join("not/yet").display());
    let told = look(&[&set], |doctor| doctor.data_folder());
    assert!(told[0].0 < Severity::Error, "{told:?}");
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn who_sends_to_nobody_is_warned() {
    let told = look(&[], |doctor| doctor.rules_and_providers());
    assert!(
        told.iter()
            .any(|(severity, said)| *severity == Severity::Warning && said.contains("sandbox"))
    );
    let told = look(&["providers.twilio.auth_token=x"], |doctor| {
        doctor.rules_and_providers()
    });
    assert!(
        told.iter()
            .any(|(_, said)| said == "providers: configured: twilio"),
        "{told:?}"
    );
    let told = look(&["retry.rules_file=/nowhere.toml"], |doctor| {
        doctor.rules_and_providers()
    });
    assert!(
        told.iter()
            .any(|(severity, said)| *severity == Severity::Error && said.contains("/nowhere.toml"))
    );
}
