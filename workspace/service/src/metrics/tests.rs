//! What a scrape shows.

use std::collections::BTreeSet;

use super::*;

fn exposition(metrics: Metrics) -> Exposition {
    Exposition {
        metrics: Arc::new(metrics),
        health: Health::default(),
        lag: Arc::default(),
        instance: "here-1".into(),
    }
}

fn metrics() -> Metrics {
    let sms = vec!["messagebird".to_owned(), "twilio".to_owned()];
    Metrics::new(&BTreeMap::from([(Channel::Sms, sms)]))
}

fn shown(exposition: &Exposition) -> String {
    text::write(exposition, lag::Lags::new()).unwrap()
}

#[test]
fn what_was_counted_is_shown_under_its_labels() {
    let metrics = metrics();
    metrics.accepted(Channel::Sms, Priority::Normal).one();
    let route = metrics.route(Channel::Sms, Some("twilio"));
    route.sent.one();
    route.failed(ErrorKind::RateLimited).one();
    route.dead_lettered(ErrorKind::Permanent).one();
    metrics.refused(Refusal::Full).one();
    metrics
        .latency(Channel::Sms, Priority::Critical, true)
        .observe_ms(7);
    metrics.lateness(WaitReason::Retry).observe_ms(100);
    let health = Health::default();
    health.check("broker", || Err("away".to_owned()));
    let text = shown(&Exposition {
        health,
        ..exposition(metrics)
    });
    for line in [
        r#"posthaste_accepted_total{channel="sms",priority="normal"} 1"#,
        r#"posthaste_sent_total{channel="sms",provider="twilio"} 1"#,
        r#"posthaste_sent_total{channel="sms",provider="messagebird"} 0"#,
        r#"posthaste_failed_total{channel="sms",provider="twilio",reason="rate_limited"} 1"#,
        r#"posthaste_dead_lettered_total{channel="sms",provider="twilio",reason="permanent"} 1"#,
        r#"posthaste_refused_total{reason="full"} 1"#,
        r#"posthaste_latency_seconds_bucket{le="0.005",channel="sms",priority="critical",attempt="first"} 0"#,
        r#"posthaste_latency_seconds_bucket{le="0.01",channel="sms",priority="critical",attempt="first"} 1"#,
        r#"posthaste_latency_seconds_bucket{le="+Inf",channel="sms",priority="critical",attempt="first"} 1"#,
        r#"posthaste_latency_seconds_count{channel="sms",priority="critical",attempt="first"} 1"#,
        r#"posthaste_lateness_seconds_sum{reason="retry"} 0.1"#,
        r#"posthaste_check_ok{check="broker"} 0"#,
        "# TYPE posthaste_latency_seconds histogram",
        "# UNIT posthaste_latency_seconds seconds",
        "# EOF",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[test]
fn a_provider_that_nobody_knows_makes_no_label() {
    let metrics = metrics();
    metrics.route(Channel::Sms, Some("made-up\"}\n")).sent.one();
    metrics.route(Channel::Email, None).sent.one();
    let text = shown(&exposition(metrics));
    assert!(!text.contains("made-up"));
    assert!(
        text.contains(r#"posthaste_sent_total{channel="sms",provider="other"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"posthaste_sent_total{channel="email",provider="other"} 1"#),
        "{text}"
    );
}

#[test]
fn no_series_is_said_twice_and_every_family_explains_itself() {
    let text = shown(&exposition(metrics()));
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').unwrap();
        assert!(series.insert(name), "{name} twice");
    }
    let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    let helps = text.lines().filter(|line| line.starts_with("# HELP")).count();
    assert_eq!(families, helps);
}

#[test]
fn tables_are_indexed_by_their_own_order() {
    for (index, channel) in Channel::ALL.into_iter().enumerate() {
        assert_eq!(channel as usize, index);
    }
    for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
    }
    for (index, priority) in PRIORITIES.into_iter().enumerate() {
        assert_eq!(priority as usize, index);
    }
    for (index, (reason, _)) in WAITS.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
    for (index, (refusal, _)) in REFUSALS.into_iter().enumerate() {
        assert_eq!(refusal as usize, index);
    }
}
