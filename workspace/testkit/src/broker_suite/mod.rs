//! What every broker must do, whatever it runs on: the promises of `posthaste_broker::contract`, one test each.
//!
//! A backend runs them all with [`crate::broker_suite!`]. Tests wait on conditions; that something does *not* come is shown
//! by a later record that comes instead.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though they are compiled as a library"
)]

mod groups;
mod hops;
mod intake;
mod member;
mod positions;
mod starts;

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_broker::Broker;

pub use self::{groups::*, hops::*, intake::*, member::*, positions::*, starts::*};

/// Partitions of each topic in the suite.
pub const PARTITIONS: u32 = 4;
/// Largest record in the suite, in bytes.
pub const RECORD_BYTES_MAX: usize = 100_000;
/// The drain time in the suite, in milliseconds: tests wait it out.
pub const DRAIN_MS: u64 = 1_500;

/// One test's own broker: no other test sees its topics and groups. Its settings are [`PARTITIONS`],
/// [`RECORD_BYTES_MAX`] and [`DRAIN_MS`].
#[async_trait]
pub trait BrokerWorld: Send + Sync {
    /// Opens it. Opened again, after it was closed, it holds what it held.
    async fn open(&self) -> Arc<dyn Broker>;

    /// Opens it and makes the topics.
    async fn open_with_topics(&self) -> Arc<dyn Broker> {
        let broker = self.open().await;
        within("creating topics", broker.create_topics()).await.unwrap();
        broker
    }
}

/// Runs the suite: `broker_suite!(world)`, where `world` is an `async fn(test: &str) -> impl BrokerWorld`.
#[macro_export]
macro_rules! broker_suite {
    ($world:path) => {
        $crate::broker_suite! { @ $world:
            what_was_appended_is_there_after_reopening
            records_of_one_call_and_partition_stay_in_order
            a_key_goes_where_murmur2_says
            a_record_that_is_too_large_is_refused_with_its_whole_call
            any_bytes_pass_unharmed
            a_compacted_topic_tells_the_latest_of_each_key
            append_time_never_goes_back
            topics_are_missing_until_they_are_created_once
            a_closed_broker_takes_and_gives_nothing
            lag_tells_where_a_group_stands
            a_record_is_found_behind_its_mark

            a_hop_appends_and_completes
            a_refused_hop_leaves_nothing
            a_hop_of_many_records_is_all_or_nothing
            what_was_finished_out_of_order_is_not_repeated_after_a_take_over
            what_was_finished_is_not_repeated_after_reopening
            a_dropped_ticket_brings_its_record_again
            the_oldest_unfinished_record_is_known
            nothing_is_unread_of_what_was_handed_out_or_must_wait
            a_started_record_says_so_to_whoever_gets_it_next
            nothing_is_started_in_a_partition_that_is_gone
            outputs_alone_are_fenced_by_an_assignment
            an_output_that_is_too_large_leaves_the_input_open
            each_of_many_hops_at_once_has_its_outcome
            offsets_without_records_do_not_hold_the_group_up
            reading_pauses_at_the_limit_of_a_partition
            reading_pauses_at_the_limit_of_all
            reading_pauses_at_the_limit_of_bytes
            a_consumer_that_falls_behind_catches_up

            partitions_are_spread_evenly_and_again_when_members_change
            members_of_a_group_may_read_different_topics
            more_members_than_partitions_share_the_work
            groups_do_not_disturb_each_other
            held_records_hold_up_no_other_partition
            a_revoked_partition_is_drained_before_it_moves
            dropping_the_tickets_gives_a_revoked_partition_up
            a_zombies_outcome_is_refused_after_the_drain_time
            a_member_that_vanished_is_replaced
            members_come_and_go_and_each_record_has_one_outcome
            a_group_without_positions_is_refused_where_there_is_history

            a_reader_from_the_start_is_told_of_the_end
            a_position_is_kept_and_gone_on_from
            an_unchanged_position_is_a_fence
            a_reader_may_begin_at_offsets_of_its_own
            everybody_who_follows_a_topic_is_told_all_of_it
            what_every_group_is_done_with_is_deleted_after_its_time
        }
    };
    (@ $world:path: $($test:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let world = $world(stringify!($test)).await;
                $crate::broker_suite::$test(&world).await;
            }
        )+
    };
}
