//! `bench/run`: measures and reports.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::{Parser, ValueEnum};
use posthaste_bench::{
    limits,
    report::{Report, page, text},
    scenario::{Bench, Scenario, Size, beside_this},
    system::{Backend, Contender},
    trouble::Trouble,
    usage,
};

/// Measures Posthaste on this machine, in one run and interleaved, beside the limits of the machine.
#[derive(Debug, Parser)]
#[command(name = "bench/run", max_term_width = 100)]
struct Options {
    /// What to measure; all of it unless named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Fewer events and rounds: some minutes for all
    #[arg(long)]
    quick: bool,
    /// A handful of events: only whether it works; the figures mean nothing
    #[arg(long, conflicts_with = "quick")]
    tiny: bool,
    /// On this backend; on both unless said (repeatable)
    #[arg(long, value_enum)]
    backend: Vec<On>,
    /// So many rounds instead of the usual
    #[arg(long)]
    rounds: Option<u32>,
    /// Measures this program instead of the one just built, such as old=/tmp/posthaste-old (repeatable: they take turns)
    #[arg(long, value_name = "NAME=PATH", value_parser = contender)]
    binary: Vec<Contender>,
    /// Where results are kept and compared
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Keeps the results of a quick run too, and those of other programs
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum On {
    Embedded,
    Kafka,
}

fn contender(text: &str) -> Result<Contender, String> {
    let (label, path) = text.split_once('=').ok_or("it has no =; accepted: NAME=PATH")?;
    let binary = PathBuf::from(path);
    if !binary.is_file() {
        return Err(format!("{path} is no file"));
    }
    Ok(Contender {
        label: label.to_owned(),
        binary,
    })
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // The bare server is this program too, in a process of its own.
    let outcome = if std::env::args()
        .nth(1)
        .is_some_and(|first| first == limits::COMMAND)
    {
        runtime.block_on(limits::serve_bare_axum())
    } else {
        runtime.block_on(run(Options::parse()))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Trouble> {
    let (name, mut size) = match (options.tiny, options.quick) {
        (true, _) => ("tiny", Size::TINY),
        (false, true) => ("quick", Size::QUICK),
        (false, false) => ("full", Size::FULL),
    };
    size.rounds = options.rounds.unwrap_or(size.rounds).max(1);
    let contenders = if options.binary.is_empty() {
        vec![Contender {
            label: "posthaste".to_owned(),
            binary: beside_this()?,
        }]
    } else {
        options.binary.clone()
    };
    let (load_before, begun) = (usage::load_average(), Instant::now());
    let program = std::env::current_exe().map_err(Trouble::io("find this program"))?;
    let mut bench = Bench::start(size, contenders, backends(&options), program).await?;
    let scenarios = match options.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        named => named,
    };
    for round in 1..=size.rounds {
        for scenario in scenarios {
            eprintln!(
                "round {round} of {}: {} ({:.0} s)",
                size.rounds,
                scenario.name(),
                begun.elapsed().as_secs_f64()
            );
            if let Err(trouble) = scenario.round(&mut bench).await {
                eprintln!("{}: {trouble}", scenario.name());
                bench
                    .figures
                    .troubles
                    .push(format!("{}: {trouble}", scenario.name()));
            }
        }
    }
    let report = Report::new(&bench.figures, name, load_before, begun.elapsed().as_secs_f64());
    drop(bench);
    conclude(&report, &options)
}

fn backends(options: &Options) -> Vec<Backend> {
    let of = |on: &On| match on {
        On::Embedded => Backend::Embedded,
        On::Kafka => Backend::Kafka,
    };
    match options.backend.as_slice() {
        [] => vec![Backend::Embedded, Backend::Kafka],
        named => named.iter().map(of).collect(),
    }
}

fn conclude(report: &Report, options: &Options) -> Result<(), Trouble> {
    let earlier = report.earlier(&options.results)?;
    let last = earlier.last();
    let changes = last.map(|last| report.changes_since(last)).unwrap_or_default();
    println!("{}", text(report, &changes, last.map(|last| last.date.as_str())));
    let is_full = !options.quick && !options.tiny;
    let is_kept = options.keep || (is_full && options.binary.is_empty());
    let folder = if is_kept {
        options.results.clone()
    } else {
        std::env::temp_dir().join("posthaste-bench")
    };
    let json = report.write(&folder)?;
    let html = json.with_extension("html");
    write(&html, &page(report, &earlier, &changes))?;
    println!("{} and {}", json.display(), html.display());
    if !is_kept {
        println!("not kept, since it was no full run or another program; --keep does");
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    std::fs::write(path, text).map_err(Trouble::io(format!("write {}", path.display())))
}
