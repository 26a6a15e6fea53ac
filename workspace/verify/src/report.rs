//! What the comparison found: counts, findings, and the verdict, as a table, as JSON, and as lines of evidence.

use std::collections::BTreeMap;

use posthaste_event::Millis;
use serde::Serialize;
use serde_json::{Value as Json, json};

/// What can be found wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Accepted, and at no end when the time was over.
    Lost,
    /// Said to be sent, but the sandbox received nothing.
    SentUnseen,
    /// The sandbox took it, but it ended as not sent.
    SeenUnsaid,
    /// Refused as not stored, and there all the same.
    RefusedButThere,
    /// Taken again with the same idempotency key.
    RepeatedSameKey,
    /// Taken again with another key, or by another provider.
    RepeatedOtherwise,
    /// Called for again after its end was recorded.
    SentAfterEnd,
    /// Called for after it was withdrawn.
    SentAfterCancel,
    /// Withdrawn, though nobody asked for that.
    CancelledUnasked,
    /// Called for after it had expired.
    SentAfterExpiry,
    /// Called for before it was due.
    SentEarly,
    /// Called for before an earlier event of its ordering key was done.
    OutOfOrder,
    /// More than one end in one generation, by the topics.
    EndedTwice,
    /// The same step stands in the topics twice.
    RecordedTwice,
    /// A step is missing in the topics.
    RecordMissing,
    /// Status and topics say different things.
    Disagreement,
}

impl Kind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 16] = [
        Self::Lost,
        Self::SentUnseen,
        Self::SeenUnsaid,
        Self::RefusedButThere,
        Self::RepeatedSameKey,
        Self::RepeatedOtherwise,
        Self::SentAfterEnd,
        Self::SentAfterCancel,
        Self::CancelledUnasked,
        Self::SentAfterExpiry,
        Self::SentEarly,
        Self::OutOfOrder,
        Self::EndedTwice,
        Self::RecordedTwice,
        Self::RecordMissing,
        Self::Disagreement,
    ];

    /// The words of the table.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::SentUnseen => "said to be sent, but not received",
            Self::SeenUnsaid => "received, but said not to be sent",
            Self::RefusedButThere => "refused, but there",
            Self::RepeatedSameKey => "sends repeated with the same key",
            Self::RepeatedOtherwise => "sends repeated otherwise",
            Self::SentAfterEnd => "sent again after the end was recorded",
            Self::SentAfterCancel => "sent after cancel",
            Self::CancelledUnasked => "cancelled, but not asked to be",
            Self::SentAfterExpiry => "sent after expiry",
            Self::SentEarly => "sent early",
            Self::OutOfOrder => "out of order within their key",
            Self::EndedTwice => "more than one final state",
            Self::RecordedTwice => "one step recorded twice",
            Self::RecordMissing => "steps missing in the topics",
            Self::Disagreement => "status and topics disagree",
        }
    }

    /// Whether only the topics can show it.
    const fn needs_topics(self) -> bool {
        matches!(
            self,
            Self::EndedTwice | Self::RecordedTwice | Self::RecordMissing | Self::Disagreement
        )
    }
}

/// Why a finding breaks no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Excuse {
    /// The sandbox had not said what came of the send before.
    Unanswered,
    /// The send before was in doubt, as its failure says.
    InDoubt,
    /// It had begun in time, and arrived a moment later.
    OnItsWay,
    /// Something was broken on purpose at that time.
    Fault,
    /// Somebody else is breaking things, as the command was told.
    Expected,
}

impl Excuse {
    /// In words, for "n of them ...".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unanswered => "after an answer that was withheld",
            Self::InDoubt => "after a send in doubt",
            Self::OnItsWay => "on the way when it expired",
            Self::Fault => "after a fault",
            Self::Expected => "after faults from outside",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    #[serde(rename = "finding")]
    pub kind: Kind,
    /// The event's id.
    pub event: String,
    /// Why it breaks no promise, if there is a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excuse: Option<Excuse>,
    /// What the ledgers say of the event.
    pub seen: Json,
}

/// How late things were, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lateness {
    /// How many.
    pub count: usize,
    /// Half of them were no later.
    pub p50_ms: Millis,
    /// All but one in a hundred were no later.
    pub p99_ms: Millis,
    /// The latest.
    pub max_ms: Millis,
}

impl Lateness {
    /// Of all of these.
    pub fn of(mut late_ms: Vec<Millis>) -> Self {
        late_ms.sort_unstable();
        let at = |part: usize| {
            let index = (late_ms.len() * part).div_ceil(100).saturating_sub(1);
            late_ms.get(index).copied().unwrap_or(0)
        };
        Self {
            count: late_ms.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: late_ms.last().copied().unwrap_or(0),
        }
    }
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Answered 2xx.
    pub accepted: usize,
    /// Not answered, or with an answer that leaves it open; and there, as it turned out.
    pub unknown_there: usize,
    /// The same, and not there.
    pub unknown_absent: usize,
    /// Refused, or never left.
    pub refused: usize,
    /// Accepted (or there) and at one end.
    pub ended: usize,
    /// How many stand where.
    pub by_status: BTreeMap<&'static str, usize>,
    /// Calls that the sandbox received.
    pub calls: usize,
    /// Messages that it took.
    pub taken: usize,
    /// Events that were asked to be withdrawn.
    pub cancels: usize,
    /// Whether the sandbox lost part of what it received, so that some things cannot be told.
    pub sends_are_partial: bool,
    /// Records that were read in the topics; `None` where they could not be.
    pub topic_records: Option<u64>,
    /// Faults injected.
    pub faults: usize,
    /// How late scheduled events went out.
    pub scheduled: Lateness,
    /// How late retries went out.
    pub retried: Lateness,
    /// Everything that was found, by event.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

impl Report {
    /// Findings of this kind: all, and those that are excused.
    pub fn count(&self, kind: Kind) -> (usize, usize) {
        let of_kind = self.findings.iter().filter(|finding| finding.kind == kind);
        let excused = of_kind.clone().filter(|finding| finding.excuse.is_some()).count();
        (of_kind.count(), excused)
    }

    /// Findings that break a promise.
    pub fn broken(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.excuse.is_none())
    }

    /// The table that people read.
    pub fn table(&self) -> String {
        let mut rows: Vec<(String, String)> = vec![
            ("accepted".to_owned(), self.accepted.to_string()),
            ("one final state".to_owned(), self.ended.to_string()),
        ];
        let unknown = self.unknown_there + self.unknown_absent;
        if unknown > 0 {
            rows.insert(
                1,
                (
                    "without a clear answer".to_owned(),
                    format!(
                        "{unknown}  ({} were there, {} not)",
                        self.unknown_there, self.unknown_absent
                    ),
                ),
            );
        }
        if self.refused > 0 {
            rows.insert(1, ("refused".to_owned(), self.refused.to_string()));
        }
        rows.extend(
            self.by_status
                .iter()
                .map(|(status, count)| (format!("  {status}"), count.to_string())),
        );
        if self.cancels > 0 {
            rows.push(("asked to be cancelled".to_owned(), self.cancels.to_string()));
        }
        for kind in Kind::ALL {
            rows.push((kind.words().to_owned(), self.cell(kind)));
        }
        for (name, late) in [
            ("scheduled sends", self.scheduled),
            ("retried sends", self.retried),
        ] {
            if late.count > 0 {
                rows.push((
                    format!("lateness of {} {name}", late.count),
                    format!(
                        "p50 {} ms, p99 {} ms, max {} ms",
                        late.p50_ms, late.p99_ms, late.max_ms
                    ),
                ));
            }
        }
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        rows.iter()
            .map(|(name, value)| format!("{name:width$}  {value}\n"))
            .collect()
    }

    fn cell(&self, kind: Kind) -> String {
        if kind.needs_topics() && self.topic_records.is_none() {
            return "-  (the topics were not read)".to_owned();
        }
        let (all, excused) = self.count(kind);
        if excused == 0 {
            return all.to_string();
        }
        let mut reasons: BTreeMap<Excuse, usize> = BTreeMap::new();
        for finding in self.findings.iter().filter(|finding| finding.kind == kind) {
            if let Some(excuse) = finding.excuse {
                *reasons.entry(excuse).or_default() += 1;
            }
        }
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(excuse, count)| format!("{count} {}", excuse.words()))
            .collect();
        format!("{all}  (allowed: {})", reasons.join(", "))
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        let mut json = json!(self);
        json["findings"] = Kind::ALL
            .into_iter()
            .filter(|kind| !(kind.needs_topics() && self.topic_records.is_none()))
            .map(|kind| {
                let (all, excused) = self.count(kind);
                let name = json!(kind).as_str().unwrap_or_default().to_owned();
                (name, json!({ "count": all, "allowed": excused }))
            })
            .collect();
        json["promisesHold"] = (self.broken().next().is_none()).into();
        json
    }

    /// A line of JSON for each finding.
    pub fn evidence(&self) -> impl Iterator<Item = String> {
        self.findings.iter().map(|finding| {
            let mut line = json!(finding);
            line["broken"] = finding.excuse.is_none().into();
            line.to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_table_tells_what_is_allowed_and_why() {
        let finding = |kind, excuse| Finding {
            kind,
            event: "v1-3".to_owned(),
            excuse,
            seen: Json::Null,
        };
        let report = Report {
            accepted: 100,
            unknown_there: 1,
            unknown_absent: 2,
            ended: 101,
            by_status: BTreeMap::from([("SENT", 99), ("EXPIRED", 2)]),
            retried: Lateness::of((1..=100).collect()),
            findings: vec![
                finding(Kind::RepeatedSameKey, Some(Excuse::Fault)),
                finding(Kind::RepeatedSameKey, Some(Excuse::Unanswered)),
                finding(Kind::SentEarly, None),
            ],
            ..Report::default()
        };
        expect![[r#"
            accepted                               100
            without a clear answer                 3  (1 were there, 2 not)
            one final state                        101
              EXPIRED                              2
              SENT                                 99
            lost                                   0
            said to be sent, but not received      0
            received, but said not to be sent      0
            refused, but there                     0
            sends repeated with the same key       2  (allowed: 1 after an answer that was withheld, 1 after a fault)
            sends repeated otherwise               0
            sent again after the end was recorded  0
            sent after cancel                      0
            cancelled, but not asked to be         0
            sent after expiry                      0
            sent early                             1
            out of order within their key          0
            more than one final state              -  (the topics were not read)
            one step recorded twice                -  (the topics were not read)
            steps missing in the topics            -  (the topics were not read)
            status and topics disagree             -  (the topics were not read)
            lateness of 100 retried sends          p50 50 ms, p99 99 ms, max 100 ms
        "#]]
        .assert_eq(&report.table());
        let json = report.json();
        assert_eq!(json["promisesHold"], false);
        assert_eq!(
            json["findings"]["repeatedSameKey"],
            json!({"count": 2, "allowed": 2})
        );
        assert_eq!(
            report.evidence().last().unwrap(),
            r#"{"broken":true,"event":"v1-3","finding":"sentEarly","seen":null}"#
        );
    }
}
