//! The metrics as text, in the OpenMetrics form that Prometheus reads.

use std::fmt::{Debug, Error, Formatter};

use posthaste_event::{Channel, ErrorKind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Exposition, Histogram, Metrics, PRIORITIES, REFUSALS, Route, WAITS, lag::Lags};

static SECONDS: Unit = Unit::Seconds;

/// Everything that one scrape shows.
struct Scrape {
    exposition: Exposition,
    lags: Lags,
}

impl Debug for Scrape {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result<(), Error> {
        f.write_str("Scrape")
    }
}

pub(super) fn write(exposition: &Exposition, lags: Lags) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        exposition: exposition.clone(),
        lags,
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        page.process(&self.exposition)?;
        page.intake(&self.exposition.metrics)?;
        page.routes(&self.exposition.metrics)?;
        page.times(&self.exposition.metrics)?;
        page.gauge(
            "posthaste_lag_records",
            "Offsets between where a group stands and the end of its topics, marks of transactions included; of the \
             delay topics also what waits for its time",
            self.lags
                .iter()
                .map(|((group, topic), behind)| ([("group", *group), ("topic", topic.suffix())], *behind)),
        )
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'_>, Error> {
        // The encoder puts the unit at the name's end.
        let (name, unit) = match name.strip_suffix("_seconds") {
            Some(name) => (name, Some(&SECONDS)),
            None => (name, None),
        };
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl Iterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// Series appear with their first value: most combinations never have one.
    fn histogram<'h, L: EncodeLabelSet>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl Iterator<Item = (L, &'h Histogram)>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for (labels, histogram) in values {
            if let Some(shown) = histogram.shown() {
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    shown.sum,
                    shown.count,
                    &shown.buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn process(&mut self, exposition: &Exposition) -> Result<(), Error> {
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("instance_name", &*exposition.instance),
        ];
        self.family("posthaste", "This process", MetricType::Info)?
            .encode_info(&labels)?;
        if let Some(bytes) = resident_bytes() {
            self.gauge(
                "process_resident_memory_bytes",
                "Memory in use",
                [(NO_LABELS, bytes)].into_iter(),
            )?;
        }
        let checks = exposition.health.checks();
        self.gauge(
            "posthaste_check_ok",
            "Whether a check of /ready passes",
            checks
                .iter()
                .map(|(name, passes)| ([("check", name.as_str())], i64::from(*passes))),
        )
    }

    fn intake(&mut self, metrics: &Metrics) -> Result<(), Error> {
        let accepted = Channel::ALL
            .iter()
            .zip(&metrics.accepted)
            .flat_map(|(channel, counts)| {
                PRIORITIES.iter().zip(counts).map(move |(priority, count)| {
                    let labels = [("channel", channel.as_str()), ("priority", priority.as_str())];
                    (labels, count.get())
                })
            });
        self.counter("posthaste_accepted", "Events answered with 2xx", accepted)?;
        let refused = REFUSALS
            .iter()
            .map(|(refusal, reason)| ([("reason", *reason)], metrics.refused(*refusal).get()));
        self.counter("posthaste_refused", "Requests that were not taken", refused)?;
        let expired = Channel::ALL
            .iter()
            .map(|channel| ([("channel", channel.as_str())], metrics.expired(*channel).get()));
        self.counter(
            "posthaste_expired",
            "Events whose expiresAt passed before they were sent",
            expired,
        )?;
        let cancelled = Channel::ALL
            .iter()
            .map(|channel| ([("channel", channel.as_str())], metrics.cancelled(*channel).get()));
        self.counter(
            "posthaste_cancelled",
            "Events that were withdrawn before they were sent",
            cancelled,
        )?;
        let skipped = Channel::ALL
            .iter()
            .map(|channel| ([("channel", channel.as_str())], metrics.skipped(*channel).get()));
        self.counter(
            "posthaste_skipped",
            "Events that were not sent since their recipients are suppressed",
            skipped,
        )?;
        self.counter(
            "posthaste_unreadable_records",
            "Records that could not be read and went to the dead-letter topic",
            [(NO_LABELS, metrics.unreadable.get())].into_iter(),
        )?;
        self.counter(
            "posthaste_rules_reloaded",
            "Rule files that were taken up while running",
            [(NO_LABELS, metrics.rules_reloaded.get())].into_iter(),
        )
    }

    fn routes(&mut self, metrics: &Metrics) -> Result<(), Error> {
        let count =
            |of: fn(&Route) -> u64| all_routes(metrics).map(move |(labels, route)| (labels, of(route)));
        self.counter(
            "posthaste_sent",
            "Events that a provider accepted",
            count(|route| route.sent.get()),
        )?;
        self.counter(
            "posthaste_retried",
            "Verdicts for another try after a failure of this provider",
            count(|route| route.retried.get()),
        )?;
        self.counter(
            "posthaste_parked",
            "Events that had to wait for a place at the provider, without an attempt",
            count(|route| route.parked.get()),
        )?;
        let by_kind = |of: fn(&Route, ErrorKind) -> u64| {
            all_routes(metrics).flat_map(move |([channel, provider], route)| {
                ErrorKind::ALL.into_iter().map(move |kind| {
                    let labels = [channel, provider, ("reason", kind.as_str())];
                    (labels, of(route, kind))
                })
            })
        };
        self.counter(
            "posthaste_failed",
            "Sends that failed",
            by_kind(|route, kind| route.failed(kind).get()),
        )?;
        self.counter(
            "posthaste_dead_lettered",
            "Events that were given up",
            by_kind(|route, kind| route.dead_lettered(kind).get()),
        )
    }

    fn times(&mut self, metrics: &Metrics) -> Result<(), Error> {
        let latency = Channel::ALL.into_iter().flat_map(|channel| {
            PRIORITIES.into_iter().flat_map(move |priority| {
                [(true, "first"), (false, "later")]
                    .into_iter()
                    .map(move |(is_first, attempt)| {
                        let labels = [
                            ("channel", channel.as_str()),
                            ("priority", priority.as_str()),
                            ("attempt", attempt),
                        ];
                        (labels, metrics.latency(channel, priority, is_first))
                    })
            })
        });
        self.histogram(
            "posthaste_latency_seconds",
            "From accepted (or scheduled for, or replayed) to accepted by a provider",
            latency,
        )?;
        self.histogram(
            "posthaste_call_seconds",
            "How long providers took to answer",
            all_routes(metrics).map(|(labels, route)| (labels, &route.call)),
        )?;
        let lateness = WAITS
            .iter()
            .map(|(reason, name)| ([("reason", *name)], metrics.lateness(*reason)));
        self.histogram(
            "posthaste_lateness_seconds",
            "How much later than due events left the wheel",
            lateness,
        )
    }
}

type Label<'a> = (&'static str, &'a str);

const NO_LABELS: [Label<'static>; 0] = [];

fn all_routes(metrics: &Metrics) -> impl Iterator<Item = ([Label<'_>; 2], &Route)> {
    Channel::ALL
        .into_iter()
        .zip(&metrics.routes)
        .flat_map(|(channel, routes)| {
            routes.iter().map(move |route| {
                let labels = [("channel", channel.as_str()), ("provider", &*route.provider)];
                (labels, route)
            })
        })
}

/// Where the system tells it (Linux), as `ps` counts it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}
