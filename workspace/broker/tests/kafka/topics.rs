//! Topics and groups as they are made and checked.

use posthaste_broker::{Broker, BrokerError, NewRecord, Severity};
use posthaste_event::Topic;

use crate::world::{fresh, subscription};

#[tokio::test]
async fn what_was_created_passes_the_check_and_creating_again_changes_nothing() {
    let (broker, _) = fresh(2).await;
    let findings = broker.check_topics().await.unwrap();
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    let again = broker.create_topics().await.unwrap();
    assert!(
        again
            .iter()
            .all(|finding| ["exists", "has its positions"].contains(&finding.message.as_str())),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_group_without_positions_does_not_read_history() {
    let (broker, _) = fresh(1).await;
    broker
        .append(vec![NewRecord::new(Topic::Default, "k", "v")])
        .await
        .unwrap();
    let refused = broker
        .subscribe(subscription("stranger", &[Topic::Default]))
        .await;
    assert!(
        matches!(refused, Err(BrokerError::NoPositions { .. })),
        "refused, and says why"
    );
    broker
        .subscribe(subscription("stranger", &[Topic::Retry]))
        .await
        .unwrap();
}
