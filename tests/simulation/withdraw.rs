//! Those who want events withdrawn, and how the nodes hear of it.

use posthaste_broker::{NewRecord, News};
use posthaste_event::{
    Status, Topic,
    cancel::{self, Cancel},
};

use crate::{
    cluster::{Cluster, Deed, Event},
    ledger::Broken,
};

impl Cluster {
    /// `DELETE /events/{id}`, of one that is not final as far as anybody knows.
    pub fn withdraw(&mut self, number: usize) {
        let away_ms = self.broker_away_until - self.now;
        if away_ms > 0 {
            self.at(away_ms, Event::Withdraw(number));
            return;
        }
        let life = &self.ledger.lives()[number];
        // The status lags, so one that has just ended may be asked for, too.
        if life.status.is_final() && self.random.chance(800) {
            self.sees("too late to withdraw");
            return;
        }
        let id = format!("e{number}");
        let asked = Cancel {
            event_id: id.clone(),
            created_at: life.created_at,
            generation: life.generation,
            at: self.now,
            unknown: Default::default(),
        };
        let key = cancel::key(&id, &id);
        self.ledger.asked(number);
        self.append(NewRecord::new(Topic::Cancel, key, asked.encode().unwrap()));
    }

    /// Every node hears of it, each in its own time.
    pub fn hear_soon(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_alive {
                let later_ms = self.random.within(1, 200);
                self.deed_at(node, later_ms, Deed::Hear);
            }
        }
    }

    /// A node reads on.
    pub fn hear(&mut self, node: usize) {
        let mut records = Vec::new();
        for partition in self.log.partitions() {
            if partition.topic != Topic::Cancel {
                continue;
            }
            let next = self.nodes[node].heard.entry(partition).or_default();
            while let Some(record) = self.log.read(partition, *next) {
                records.push(record.clone());
                *next += 1;
            }
        }
        if !records.is_empty() {
            self.nodes[node].requests.on_news(News::Records(records));
            self.wake_asked(node);
        }
    }

    /// Nothing stays asked of an event that was withdrawn.
    pub fn asked_for_good(&mut self) -> Result<(), Broken> {
        for node in 0..self.nodes.len() {
            self.hear(node);
        }
        let requests = &self.nodes[0].requests;
        let withdrawn = self.ledger.lives().iter().enumerate();
        let mut withdrawn = withdrawn.filter(|(_, life)| life.status == Status::Cancelled);
        match withdrawn.find(|(number, _)| requests.of(&format!("e{number}")).is_some()) {
            Some((number, _)) => Err(format!("event e{number} is withdrawn, and still asked for")),
            None => Ok(()),
        }
    }
}
