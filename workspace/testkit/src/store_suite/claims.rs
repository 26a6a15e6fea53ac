//! Claims on idempotency keys: one is first, and only who holds one may change it.

use std::collections::HashMap;

use posthaste_event::{Millis, Status, Topic};
use posthaste_store::{Claim, Claims};

use super::outage::in_the_end;
use crate::life::NOW;

fn claim(id: &str, holder: &str) -> Claim {
    Claim {
        id: id.to_owned(),
        holder: holder.to_owned(),
        lease_until: NOW + 10_000,
        request: format!("digest of {id}"),
        event_id: format!("event of {holder}"),
        correlation_id: "c-1".to_owned(),
        status: Status::Scheduled,
        topic: Topic::DelayNearCritical,
        partition: 11,
        offset: 1 << 40,
        is_confirmed: false,
        expires_at: NOW + 86_400_000,
    }
}

async fn claim_at(claims: &dyn Claims, wanted: &Claim, now: Millis) -> Option<Claim> {
    let mut firsts = in_the_end(async || claims.claim(std::slice::from_ref(wanted), now).await).await;
    assert_eq!(firsts.len(), 1);
    firsts.remove(0)
}

async fn claim_one(claims: &dyn Claims, wanted: &Claim) -> Option<Claim> {
    claim_at(claims, wanted, NOW).await
}

/// Many at the same moment, and some that come later.
pub async fn one_of_many_is_first(claims: &dyn Claims) {
    let wanted: Vec<Claim> = (0..64)
        .map(|n| claim("k/acme/a b.$\u{e4}", &format!("h{n}")))
        .collect();
    let all = futures_util::future::join_all(wanted.iter().map(|wanted| claim_one(claims, wanted))).await;
    let first: Vec<&Claim> = wanted
        .iter()
        .zip(&all)
        .filter(|(_, seen)| seen.is_none())
        .map(|(ours, _)| ours)
        .collect();
    assert_eq!(first.len(), 1, "one is first");
    assert!(
        all.iter().flatten().all(|seen| seen == first[0]),
        "all see the same, whole"
    );
}

/// Many keys at the same moment, each wanted by several.
pub async fn many_keys_at_once_have_one_holder_each(claims: &dyn Claims) {
    let wanted: Vec<Claim> = (0..96)
        .map(|n| claim(&format!("m{}", n % 32), &format!("h{n}")))
        .collect();
    let all = futures_util::future::join_all(wanted.iter().map(|wanted| claim_one(claims, wanted))).await;
    let ours = wanted.iter().zip(&all).filter(|(_, seen)| seen.is_none());
    let ours: HashMap<&str, &Claim> = ours.map(|(ours, _)| (ours.id.as_str(), ours)).collect();
    assert_eq!(ours.len(), 32, "each has a holder");
    for (wanted, seen) in wanted.iter().zip(&all) {
        let holder = ours[wanted.id.as_str()];
        assert_eq!(seen.as_ref().unwrap_or(wanted), holder, "and one only");
    }
    // Half of the holders, and all of those that came too late.
    let is_held = |claim: &Claim| claim.holder == ours[claim.id.as_str()].holder;
    let is_half = |claim: &Claim| claim.id.ends_with(['0', '2', '4', '6', '8']);
    let confirming = wanted.iter().filter(|claim| !is_held(claim) || is_half(claim));
    let confirmed =
        futures_util::future::join_all(confirming.map(|claim| claims.confirm(std::slice::from_ref(claim))))
            .await;
    assert!(confirmed.iter().all(Result::is_ok));
    for (id, holder) in &ours {
        let seen = claim_one(claims, &claim(id, "late")).await.unwrap();
        assert_eq!(
            (seen.is_confirmed, &seen.holder),
            (is_half(holder), &holder.holder),
            "{id}"
        );
    }
}

/// Several keys in one call: some new, some not.
pub async fn each_key_of_a_batch_is_claimed_for_itself(claims: &dyn Claims) {
    let old = claim("b2", "before");
    assert_eq!(claim_one(claims, &old).await, None);
    let wanted: Vec<Claim> = (0..1_200)
        .map(|n| claim(&format!("b{n}"), &format!("batch-{n}")))
        .collect();
    let firsts = claims.claim(&wanted, NOW).await.unwrap();
    for (n, first) in firsts.into_iter().enumerate() {
        assert_eq!(first, (n == 2).then(|| old.clone()), "{n}");
    }
    in_the_end(async || claims.confirm(&wanted).await).await;
    let again: Vec<Claim> = (0..1_200)
        .map(|n| claim(&format!("b{n}"), &format!("again-{n}")))
        .collect();
    let firsts = in_the_end(async || claims.claim(&again, NOW).await).await;
    for (n, first) in firsts.into_iter().enumerate() {
        assert_eq!(
            first.unwrap().is_confirmed,
            n != 2,
            "{n}: another holder's was left alone"
        );
    }
}

/// By whom it was seen as it is, once.
pub async fn an_unconfirmed_claim_is_taken_over_by_one(claims: &dyn Claims) {
    let old = claim("o", "dead");
    assert_eq!(claim_one(claims, &old).await, None);
    let heirs: Vec<String> = (0..16).map(|n| format!("heir{n}")).collect();
    let tries = heirs
        .iter()
        .map(|heir| claims.take_over(&old, heir, NOW + 20_000));
    let taken = futures_util::future::join_all(tries).await;
    let heirs: Vec<&String> = heirs
        .iter()
        .zip(taken)
        .filter(|(_, taken)| *taken.as_ref().unwrap())
        .map(|(heir, _)| heir)
        .collect();
    assert_eq!(heirs.len(), 1);
    let now = Claim {
        holder: heirs[0].clone(),
        lease_until: NOW + 20_000,
        ..old.clone()
    };
    in_the_end(async || claims.confirm(std::slice::from_ref(&old)).await).await;
    in_the_end(async || claims.release(std::slice::from_ref(&old)).await).await;
    assert_eq!(
        claim_one(claims, &claim("o", "x")).await,
        Some(now.clone()),
        "the dead change nothing"
    );
    in_the_end(async || claims.confirm(std::slice::from_ref(&now)).await).await;
    in_the_end(async || claims.release(std::slice::from_ref(&now)).await).await;
    let seen = claim_one(claims, &claim("o", "x")).await.unwrap();
    assert!(seen.is_confirmed, "what is confirmed is not released");
    assert!(
        !claims.take_over(&seen, "late", NOW).await.unwrap(),
        "nor taken over"
    );
}

/// Released, or over.
pub async fn a_key_can_become_free_again(claims: &dyn Claims) {
    let one = claim("f", "one");
    assert_eq!(claim_one(claims, &one).await, None);
    in_the_end(async || claims.release(std::slice::from_ref(&one)).await).await;
    let two = claim("f", "two");
    assert_eq!(claim_one(claims, &two).await, None);
    in_the_end(async || claims.confirm(std::slice::from_ref(&two)).await).await;
    let three = Claim {
        expires_at: two.expires_at + 5_000,
        ..claim("f", "three")
    };
    let seen = claim_at(claims, &three, two.expires_at - 1).await.unwrap();
    assert_eq!((seen.holder.as_str(), seen.is_confirmed), ("two", true));
    assert_eq!(claim_at(claims, &three, two.expires_at).await, None);
    assert_eq!(
        claim_at(claims, &claim("f", "four"), two.expires_at).await,
        Some(three.clone())
    );
    assert_eq!(
        in_the_end(async || claims.expire(three.expires_at - 1, 10).await).await,
        0
    );
    for n in 0..5 {
        assert_eq!(claim_one(claims, &claim(&format!("f{n}"), "one")).await, None);
    }
    assert_eq!(
        in_the_end(async || claims.expire(three.expires_at, 4).await).await,
        4
    );
    assert_eq!(
        in_the_end(async || claims.expire(three.expires_at, 4).await).await,
        2
    );
    assert_eq!(
        in_the_end(async || claims.expire(three.expires_at, 4).await).await,
        0
    );
}
