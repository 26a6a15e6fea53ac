//! Topics and groups as they are made and checked.

use posthaste_broker::{Broker, BrokerError, NewRecord, Severity};
use posthaste_event::{Topic, topic::Cleanup};

use posthaste_testkit::KafkaServer;

use crate::world::{connect, fresh, settings, subscription};

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
async fn too_few_partitions_are_an_error_that_says_how_to_mend_it() {
    let (broker, mut settings) = fresh(2).await;
    broker.fit().await.unwrap();
    settings.partitions = 3;
    let broker = connect(&settings, "two").await;
    let Err(BrokerError::Refused(reason)) = broker.fit().await else {
        panic!("a service must not start")
    };
    let findings = broker.check_topics().await.unwrap();
    let errors: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    let widened = Topic::ALL
        .iter()
        .filter(|topic| topic.cleanup() == Cleanup::Delete);
    assert_eq!(
        errors.len(),
        widened.count(),
        "compacted topics are never widened: {errors:?}"
    );
    for said in [&reason, &errors[0].message] {
        assert!(
            said.contains("has 2 partitions, broker.partitions says 3")
                && said.contains("PARTITIONS=3 ./kafka-topics.sh widen"),
            "{said}"
        );
    }
    settings.partitions = 1;
    let broker = connect(&settings, "three").await;
    broker.fit().await.unwrap();
    let findings = broker.check_topics().await.unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding.severity == Severity::Warning && finding.message.contains("more than"))
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding.subject == "Kafka" && finding.severity == Severity::Good)
    );
}

#[tokio::test]
async fn topics_that_are_not_there_yet_keep_nobody_from_starting() {
    let settings = settings(KafkaServer::shared().await.unwrap(), 3);
    connect(&settings, "one").await.fit().await.unwrap();
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
