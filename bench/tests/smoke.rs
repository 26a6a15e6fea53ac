//! The measuring works at all: each scenario once, with a handful of events. What it finds means nothing.

use clap::ValueEnum as _;
use posthaste_bench::{
    report::{Report, page, text},
    scenario::{Bench, Scenario, Size, beside_this},
    system::{Backend, Contender},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_finds_its_figures() {
    let contender = Contender {
        label: "posthaste".to_owned(),
        binary: beside_this().unwrap(),
    };
    let program = env!("CARGO_BIN_EXE_posthaste-bench").into();
    let mut bench = Bench::start(Size::TINY, vec![contender], vec![Backend::Embedded], program)
        .await
        .unwrap();
    for scenario in Scenario::value_variants() {
        scenario.round(&mut bench).await.unwrap();
        let found = bench
            .figures
            .series
            .iter()
            .filter(|(key, series)| key.scenario == scenario.name() && series.median().is_finite());
        assert!(
            found.count() >= 2,
            "{}: {:?}",
            scenario.name(),
            bench.figures.troubles
        );
    }
    assert!(bench.figures.troubles.is_empty(), "{:#?}", bench.figures.troubles);
    // What no machine's mood changes: an event that goes out at the first try is the event and its outcome.
    let records = bench.figures.series.iter().find(|(key, _)| {
        (key.scenario.as_str(), key.name.as_str()) == (Scenario::EndToEnd.name(), "records of an event")
    });
    assert_eq!(records.map(|(_, series)| series.median()), Some(2.0));
    let report = Report::new(&bench.figures, "tiny", 0.0, 1.0);
    let table = text(&report, &[], None);
    assert!(table.contains("share of the limit"), "{table}");
    assert!(page(&report, &[], &[]).ends_with("</html>\n"));
}
