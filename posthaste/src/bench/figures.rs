//! What was measured, for people and as JSON.

use std::{collections::HashSet, time::Duration};

use hdrhistogram::Histogram;
use posthaste_event::Millis;
use serde_json::{Value as Json, json};

use super::load::{Load, histogram};
use crate::{failure::Failure, verify::witness::Received};

/// The percentiles that are told.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")];

/// All of it.
#[derive(Debug, Default)]
pub struct Figures {
    pub throughput: Option<Throughput>,
    pub latency: Option<Latency>,
}

/// As fast as it goes.
#[derive(Debug)]
pub struct Throughput {
    events: u32,
    accepted_per_s: f64,
    through_per_s: f64,
    answers: Histogram<u64>,
}

/// At a rate.
#[derive(Debug)]
pub struct Latency {
    events: u32,
    rate: f64,
    answers: Histogram<u64>,
    /// Microseconds, though the clocks count milliseconds.
    arrivals: Histogram<u64>,
}

impl Throughput {
    /// Of a load that was through after so long.
    pub fn of(load: &Load, settled: Duration) -> Self {
        let per_s = |time: Duration| f64::from(load.events()) / time.as_secs_f64().max(1e-9);
        Self {
            events: load.events(),
            accepted_per_s: per_s(load.elapsed()),
            through_per_s: per_s(settled),
            answers: load.answers(),
        }
    }
}

impl Latency {
    /// Of a load, and what the sandbox received of it; its clock may be ahead.
    pub fn of(load: &Load, received: &Received, ahead_ms: Millis, rate: f64) -> Result<Self, Failure> {
        let mut arrivals = histogram()?;
        let mut seen = HashSet::new();
        for send in received.sends.iter().filter(|send| send.taken) {
            if seen.insert(send.event) {
                let late_ms = send.at - ahead_ms - load.due(send.event, rate);
                arrivals.saturating_record(late_ms.max(0).unsigned_abs().saturating_mul(1_000).max(1));
            }
        }
        if seen.len() < load.events() as usize {
            return Err(Failure::Runtime(format!(
                "the sandbox tells of {} of {} events; was it restarted, or is its memory too small?",
                seen.len(),
                load.events()
            )));
        }
        Ok(Self {
            events: load.events(),
            rate,
            answers: load.answers(),
            arrivals,
        })
    }
}

impl Figures {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if let Some(of) = &self.throughput {
            text.push_str(&format!(
                "throughput, {} events\n  accepted                 {:>9.0} events/s\n  through, status written  {:>9.0} events/s\n{}",
                of.events,
                of.accepted_per_s,
                of.through_per_s,
                row("answer", &of.answers)
            ));
        }
        if let Some(of) = &self.latency {
            text.push_str(&format!(
                "latency at {} events/s, {} events\n{}{}",
                of.rate,
                of.events,
                row("answer", &of.answers),
                row("at the provider (+-1 ms)", &of.arrivals)
            ));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Json {
        let mut json = json!({});
        if let Some(of) = &self.throughput {
            json["throughput"] = json!({
                "events": of.events,
                "acceptedPerSecond": of.accepted_per_s,
                "throughPerSecond": of.through_per_s,
                "answerMs": percentiles(&of.answers),
            });
        }
        if let Some(of) = &self.latency {
            json["latency"] = json!({
                "events": of.events,
                "ratePerSecond": of.rate,
                "answerMs": percentiles(&of.answers),
                "providerMs": percentiles(&of.arrivals),
            });
        }
        json
    }
}

fn millis(latency: &Histogram<u64>, percentile: f64) -> f64 {
    latency.value_at_percentile(percentile) as f64 / 1_000.0
}

fn row(name: &str, latency: &Histogram<u64>) -> String {
    let values: Vec<String> = PERCENTILES
        .iter()
        .map(|(percentile, label)| format!("{label} {:.2} ms", millis(latency, *percentile)))
        .collect();
    format!("  {name:<24}  {}\n", values.join("   "))
}

fn percentiles(latency: &Histogram<u64>) -> Json {
    PERCENTILES
        .iter()
        .map(|(percentile, label)| ((*label).to_owned(), json!(millis(latency, *percentile))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_table_tell_the_same() {
        let mut answers = histogram().unwrap();
        answers.saturating_record(1_500);
        let figures = Figures {
            throughput: Some(Throughput {
                events: 10,
                accepted_per_s: 1_000.0,
                through_per_s: 500.0,
                answers: answers.clone(),
            }),
            latency: Some(Latency {
                events: 20,
                rate: 200.0,
                answers: answers.clone(),
                arrivals: answers,
            }),
        };
        let json = figures.json();
        assert_eq!(json["throughput"]["acceptedPerSecond"], 1_000.0);
        assert!(
            json["latency"]["providerMs"]["p99.9"]
                .as_f64()
                .is_some_and(|ms| (1.4..1.6).contains(&ms))
        );
        let table = figures.table();
        assert!(
            table.contains("1000 events/s") && table.contains("p50 1.50 ms"),
            "{table}"
        );
        assert_eq!(Figures::default().json(), json!({}));
    }
}
