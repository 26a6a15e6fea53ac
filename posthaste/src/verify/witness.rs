//! Reads along what the sandbox receives, so that little is missing even if it dies, and tells it how to fail.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_event::{Millis, clock};
use posthaste_verify::{Mix, Send};
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::target::Target;
use crate::{client::list_of, failure::Failure};

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(250);
/// Calls in one answer, as many as the sandbox gives.
const CALLS_MAX: usize = 10_000;
/// How long one event of each channel may take to arrive before the run begins.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);

/// What the sandbox received so far.
#[derive(Debug, Default)]
pub struct Received {
    pub sends: Vec<Send>,
    /// Messages taken.
    pub taken: usize,
    /// Whether the sandbox lost some of it before it was read.
    pub is_partial: bool,
}

/// A reader of the sandbox's log of calls.
pub struct Witness {
    target: Target,
    mix: Mix,
    memory: String,
    next: u64,
    received: Arc<Mutex<Received>>,
}

impl Witness {
    /// Begins at what comes from now on.
    pub async fn begin(target: &Target, mix: &Mix) -> Result<Self, Failure> {
        // A number that was never given out: the answer names the next one.
        let answer = ask(target, u64::MAX, "").await.map_err(|error| {
            Failure::Runtime(format!(
                "the sandbox at {} does not tell what it receives: {error}",
                target.sandbox()
            ))
        })?;
        Ok(Self {
            target: target.clone(),
            mix: mix.clone(),
            memory: answer["memory"].as_str().unwrap_or_default().to_owned(),
            next: answer["next"].as_u64().unwrap_or(0),
            received: Arc::default(),
        })
    }

    /// What it has seen, growing.
    pub fn received(&self) -> Arc<Mutex<Received>> {
        Arc::clone(&self.received)
    }

    /// Reads along until it is dropped.
    pub async fn follow(&mut self) {
        loop {
            // Away for the moment, it will be asked again; what it forgets meanwhile shows then.
            if !matches!(self.read().await, Ok(true)) {
                sleep(LOOK).await;
            }
        }
    }

    /// Reads to the end of what is there now.
    pub async fn catch_up(&mut self) -> Result<(), Failure> {
        loop {
            match self.read().await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    return Err(Failure::Runtime(format!(
                        "the sandbox at {} does not answer: {error}",
                        self.target.sandbox()
                    )));
                }
            }
        }
    }

    /// Reads a piece; whether there is more.
    async fn read(&mut self) -> Result<bool, String> {
        let answer = ask(
            &self.target,
            self.next,
            &self.mix.whole(&format!("{}-", self.mix.run)),
        )
        .await?;
        let memory = answer["memory"].as_str().unwrap_or_default();
        let mut received = lock(&self.received);
        if memory != self.memory {
            // It forgot, and we may not have seen the last of what it knew.
            received.is_partial = true;
            memory.clone_into(&mut self.memory);
            self.next = 0;
            return Ok(true);
        }
        received.is_partial |= answer["first"].as_u64().is_none_or(|first| first > self.next);
        let calls = list_of(&answer, "sends");
        for send in calls.iter().filter_map(|call| send(call, &self.mix)) {
            received.taken += usize::from(send.taken);
            received.sends.push(send);
        }
        let next = answer["next"].as_u64().unwrap_or(self.next);
        let has_moved = next > self.next;
        self.next = next;
        Ok(has_moved)
    }

    /// One event of each channel must arrive, so that nothing goes to a real provider and nothing is missed.
    pub async fn sees(&self, probes: &[String]) -> Result<(), Failure> {
        let (begun, mut from) = (Instant::now(), self.next);
        let mut missing: Vec<&String> = probes.iter().collect();
        while begun.elapsed() < ARRIVAL_LIMIT {
            if let Ok(answer) = ask(&self.target, from, &self.mix.whole(&format!("{}-", self.mix.run))).await
            {
                from = answer["next"].as_u64().unwrap_or(from);
                let seen = list_of(&answer, "sends");
                missing.retain(|probe| !seen.iter().any(|call| call["event"] == ***probe));
            }
            if missing.is_empty() {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        let missing: Vec<&str> = missing.iter().map(|probe| probe.as_str()).collect();
        Err(Failure::Runtime(format!(
            "the sandbox at {} did not receive {}; does this pipeline send to another one, or to a real provider? `posthaste \
             events get` tells what became of it; no more was sent",
            self.target.sandbox(),
            missing.join(", ")
        )))
    }

    /// How far its clock is ahead of ours, in milliseconds.
    pub async fn clock_ahead_ms(&self) -> Result<Millis, Failure> {
        let before = clock::now();
        let answer = ask(&self.target, self.next, "").await.map_err(Failure::Runtime)?;
        let after = clock::now();
        let theirs = answer["now"].as_i64().unwrap_or(before);
        // Anywhere between the two is no difference.
        Ok(theirs - theirs.clamp(before, after))
    }
}

async fn ask(target: &Target, from: u64, prefix: &str) -> Result<Json, String> {
    let (from, limit) = (from.to_string(), CALLS_MAX.to_string());
    let query = [("from", from.as_str()), ("prefix", prefix), ("limit", &limit)];
    target.ask_sandbox("sends", &query).await
}

fn send(call: &Json, mix: &Mix) -> Option<Send> {
    let event = call["event"].as_str()?;
    let action = call["action"].as_str()?;
    let key = call["key"].as_str()?.strip_prefix(event)?.strip_prefix(':')?;
    Some(Send {
        event: mix.index(event)?,
        at: call["at"].as_i64()?,
        key: key.into(),
        taken: call["taken"].as_bool()?,
        answered: !matches!(action, "hang" | "reset" | "garbage"),
    })
}

/// Locks; what a task left that failed is still good.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The share of calls that fail, for the run's own recipients only.
#[derive(Debug, Clone, Copy)]
pub struct Failing {
    /// So many in a hundred are refused.
    pub refused: f64,
    /// So many in a hundred are taken without an answer.
    pub unanswered: f64,
}

impl Failing {
    /// Tells the sandbox; rules that others put there stay.
    pub async fn begin(self, target: &Target, mix: &Mix) -> Result<(), Failure> {
        if self.refused + self.unanswered <= 0.0 {
            return Ok(());
        }
        let others = others(target, mix).await?;
        let mut rules = Vec::new();
        for recipient in mix.recipients() {
            // The first rule that hits is applied, so the later ones draw from what the earlier left.
            let mut left = 100.0;
            for (action, percent) in [
                ("reset", self.unanswered),
                ("unavailable", self.refused / 2.0),
                ("rate-limit", self.refused / 4.0),
                ("fail", self.refused / 4.0),
            ] {
                if percent > 0.0 {
                    let of_left = (percent / left * 100.0).min(100.0);
                    rules.push(json!({"action": action, "recipient": recipient, "percent": of_left}));
                    left -= percent;
                }
            }
        }
        rules.extend(others);
        target
            .behave(&json!({ "rules": rules }))
            .await
            .map_err(Failure::Runtime)
    }

    /// Takes the run's rules away again.
    pub async fn end(self, target: &Target, mix: &Mix) -> Result<(), Failure> {
        if self.refused + self.unanswered <= 0.0 {
            return Ok(());
        }
        let others = others(target, mix).await?;
        target
            .behave(&json!({ "rules": others }))
            .await
            .map_err(Failure::Runtime)
    }
}

/// The rules that are not the run's, as they can be put again.
async fn others(target: &Target, mix: &Mix) -> Result<Vec<Json>, Failure> {
    let answer = target
        .ask_sandbox("behaviour", &[])
        .await
        .map_err(Failure::Runtime)?;
    let own = mix.recipients();
    let mut rules: Vec<Json> = list_of(&answer, "rules").to_vec();
    rules.retain(|rule| {
        rule["recipient"]
            .as_str()
            .is_none_or(|recipient| !own.iter().any(|own| own == recipient))
    });
    rules.retain_mut(|rule| {
        let applied = rule.as_object_mut().and_then(|rule| rule.remove("applied"));
        // What is spent of a rule stays spent.
        if let Some(times) = rule["times"].as_u64() {
            let left = times.saturating_sub(applied.and_then(|applied| applied.as_u64()).unwrap_or(0));
            rule["times"] = left.into();
            return left > 0;
        }
        true
    });
    Ok(rules)
}
