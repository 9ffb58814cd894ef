//! Tests of the order of changes.

use proptest::prelude::*;

use super::*;
use crate::{
    oci::Algorithm,
    repository::writer::protocol::{Cursor, Entry},
};

const NOW: Timestamp = Timestamp(1_000_000);
const MADE: Attempt = Attempt { is_made: true, is_unsettled: false, goes_on: false };
const LOST: Attempt = Attempt { is_made: true, is_unsettled: true, goes_on: false };
const FAILED: Attempt = Attempt { is_made: false, is_unsettled: false, goes_on: false };

fn digest(of: &str) -> Digest {
    Algorithm::Sha256.digest(of.as_bytes())
}

fn push(of: &str, tags: &[&str]) -> Intent {
    let (media_type, subject) = ("application/x".to_owned(), None);
    let entry = Entry { digest: digest(of), size: 1, media_type, subject, signatures: Vec::new() };
    Intent::Push { entry, tags: tags.iter().map(|tag| tag.parse().unwrap()).collect() }
}

fn delete(of: &str) -> Intent {
    let (subject, tags) = (None, Vec::new());
    Intent::DeleteManifest {
        digest: digest(of),
        subject,
        may_be_signed: false,
        is_unused: false,
        cursor: Cursor::Start,
        tags,
    }
}

fn drop_unused(of: &str) -> Intent {
    let (subject, tags, cursor) = (None, Vec::new(), Cursor::Start);
    Intent::DeleteManifest {
        digest: digest(of),
        subject,
        may_be_signed: false,
        is_unused: true,
        cursor,
        tags,
    }
}

fn untag(tag: &str) -> Intent {
    Intent::DeleteTag { tag: tag.parse().unwrap() }
}

fn collect_signatures(of: &str) -> Intent {
    Intent::CollectSignatures { manifest: digest(of), signatures: vec![digest("s")] }
}

struct Test(Order);

impl Test {
    fn begin_at(&mut self, intent: &Intent, blobs: &[&str], now: Timestamp) -> Result<u64, Wait> {
        let ticket = self.0.ticket();
        let blobs: Vec<Digest> = blobs.iter().map(|blob| digest(blob)).collect();
        let begun = self.0.begin(ticket, &"a".parse().unwrap(), intent, &blobs, None, now);
        self.0.leave(ticket);
        begun
    }

    fn begin(&mut self, intent: &Intent) -> Result<u64, Wait> {
        self.begin_at(intent, &[], NOW)
    }

    fn end(&mut self, number: u64, attempt: Attempt) -> Option<Record> {
        self.0.end(number, attempt, NOW);
        let record = self.0.record(number);
        self.0.release(number);
        record
    }
}

fn order() -> Test {
    Test(Order::default())
}

#[test]
fn changes_that_agree_run_together_and_others_wait() {
    for (running, next, waits) in [
        (push("m", &["t"]), push("m", &["t", "u"]), false),
        (push("m", &["t"]), push("n", &["u"]), false),
        (push("m", &["t"]), push("n", &["t"]), true),
        (push("m", &["t"]), untag("t"), true),
        (push("m", &["t"]), untag("u"), false),
        (push("m", &[]), delete("m"), true),
        (push("m", &["t"]), delete("n"), false),
        (delete("m"), delete("m"), true),
        (delete("m"), delete("n"), false),
        (delete("m"), untag("t"), true),
        (untag("t"), delete("m"), true),
        (untag("t"), untag("t"), false),
        (push("m", &[]), collect_signatures("m"), true),
        (collect_signatures("m"), push("m", &[]), true),
        (collect_signatures("m"), push("n", &["t"]), false),
        (collect_signatures("m"), collect_signatures("m"), false),
        (collect_signatures("m"), delete("m"), false),
        (collect_signatures("m"), untag("t"), false),
    ] {
        let mut order = order();
        let number = order.begin(&running).unwrap();
        let begun = order.begin(&next);
        assert_eq!(begun.err(), waits.then_some(Wait::ForOthers), "{running:?}, then {next:?}");
        order.end(number, MADE);
        assert!(begun.or_else(|_| order.begin(&next)).is_ok());
    }
}

#[test]
fn a_deletion_waits_until_those_are_made_that_hide_tags_from_it() {
    for first in [delete("m"), untag("t")] {
        let mut order = order();
        let number = order.begin(&first).unwrap();
        order.end(number, FAILED);
        let retry = NOW.plus_seconds(1);
        assert_eq!(order.begin(&delete("m")), Err(Wait::Until(retry)), "after {first:?}");
        assert_eq!(order.0.resume(retry), Some(number));
        order.end(number, LOST);
        assert!(order.begin(&delete("m")).is_ok(), "{first:?} is made");
    }
}

#[test]
fn a_push_needs_its_blobs() {
    let (blob, push) = (Intent::DeleteBlob { digest: digest("b") }, push("m", &[]));
    let mut order = order();
    let deletion = order.begin(&blob).unwrap();
    assert_eq!(order.begin_at(&push, &["b"], NOW), Err(Wait::ForOthers));
    assert!(order.begin_at(&push, &["c"], NOW).is_ok());
    order.end(deletion, MADE);
    assert!(order.0.has_removed(&digest("b")) && !order.0.has_removed(&digest("c")));
    assert!(order.begin_at(&push, &["b"], NOW).is_ok());
    assert_eq!(order.begin(&blob), Err(Wait::ForOthers));
    // What was removed long ago is forgotten.
    assert!(order.0.old(NOW.plus_seconds(REMEMBER - 1)).is_empty());
    assert_eq!(order.0.old(NOW.plus_seconds(REMEMBER)), [deletion]);
    order.0.forget(&[deletion]);
    assert!(!order.0.has_removed(&digest("b")));
}

#[test]
fn an_index_needs_its_manifests() {
    let index = push("i", &[]);
    for (deletion, waits) in [(drop_unused("m"), true), (delete("m"), false)] {
        let (mut order, mut other) = (order(), order());
        other.begin_at(&index, &["m"], NOW).unwrap();
        assert_eq!(other.begin(&deletion).is_err(), waits);
        let number = order.begin(&deletion).unwrap();
        assert_eq!(order.begin_at(&index, &["m"], NOW).is_err(), waits);
        assert!(order.begin_at(&index, &["n"], NOW).is_ok());
        order.end(number, MADE);
        assert_eq!((order.0.has_dropped(&digest("m")), order.0.has_dropped(&digest("n"))), (waits, false));
        assert!(order.begin_at(&index, &["m"], NOW).is_ok());
    }
    // What a push needs that has begun before a restart is not known.
    let mut order = order_with(1, Phase::Open);
    let record = Record { intent: index, ..order.0.record(1).unwrap() };
    order = Test(Order::load(vec![(1, record)], NOW));
    assert!(order.begin(&delete("m")).is_ok() && order.begin(&drop_unused("m")).is_err());
}

#[test]
fn keys_rest_after_a_lost_answer() {
    let mut order = order();
    let number = order.begin(&push("m", &["t"])).unwrap();
    let until = NOW.plus_seconds(SETTLE);
    assert_eq!(order.end(number, LOST).unwrap().phase, Phase::Resting(until));
    // The same value is no harm, nor is another tag.
    assert!(order.begin(&push("m", &["t"])).is_ok() && order.begin(&push("n", &["u"])).is_ok());
    assert_eq!(order.begin(&push("n", &["t"])), Err(Wait::ForOthers));
    let mut order = order_with(number, Phase::Resting(until));
    assert_eq!(order.begin(&push("n", &["t"])), Err(Wait::Until(until)));
    assert_eq!(order.0.resume(until.minus_seconds(1)), None);
    assert_eq!(order.0.resume(until), Some(number));
    order.0.end(number, MADE, until);
    assert_eq!(order.0.record(number), None, "nothing is left to store");
    order.0.release(number);
    assert!(order.begin_at(&push("n", &["t"]), &[], until).is_ok());
}

fn order_with(number: u64, phase: Phase) -> Test {
    let record = Record { repository: "a".parse().unwrap(), intent: push("m", &["t"]), phase, origin: None };
    Test(Order::load(vec![(number, record)], NOW))
}

#[test]
fn an_open_change_is_made_again_after_a_restart_and_looked_at_once_more() {
    let mut order = order_with(7, Phase::Open);
    assert_eq!(order.begin(&untag("t")), Err(Wait::Until(NOW)));
    assert_eq!(order.0.resume(NOW), Some(7));
    // Calls of the last life may still land.
    let until = NOW.plus_seconds(SETTLE);
    assert_eq!(order.end(7, MADE).unwrap().phase, Phase::Resting(until));
    assert_eq!(order.begin(&untag("t")), Err(Wait::Until(until)));
    assert_eq!(order.0.next(NOW), Some(until));
    assert!(order.begin(&push("n", &[])).unwrap() > 7, "numbers grow over restarts");
}

#[test]
fn a_last_look_that_a_restart_interrupts_is_looked_at_once_more() {
    let mut order = order_with(7, Phase::Resting(NOW));
    assert_eq!(order.0.resume(NOW), Some(7));
    assert!(!order.0.is_stored(7));
    let begun = order.0.record(7).unwrap();
    assert_eq!(order.end(7, MADE), None, "if nothing interrupts it, it is over");
    let mut order = order_with(7, begun.phase);
    assert_eq!(order.0.resume(NOW), Some(7));
    assert_eq!(order.end(7, MADE).unwrap().phase, Phase::Resting(NOW.plus_seconds(SETTLE)));
    assert_eq!(order.begin(&delete("m")), Err(Wait::Until(NOW.plus_seconds(SETTLE))));
}

#[test]
fn a_failed_change_is_tried_again_ever_later() {
    let mut order = order();
    let number = order.begin(&delete("m")).unwrap();
    let mut now = NOW;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        order.0.end(number, FAILED, now);
        order.0.release(number);
        assert_eq!(order.0.record(number).unwrap().phase, Phase::Open);
        assert!(order.0.has_begun(number + 1, &delete("m")));
        now = now.plus_seconds(wait);
        assert_eq!(order.0.resume(Timestamp(now.0 - 1)), None);
        assert_eq!(order.0.resume(now), Some(number));
    }
}

#[test]
fn a_deletion_claims_its_tags_past_those_who_wait_for_it() {
    let mut order = order();
    let deletion = order.begin(&delete("m")).unwrap();
    let ticket = order.0.ticket();
    let (name, push) = ("a".parse().unwrap(), push("m", &["t"]));
    assert_eq!(order.0.begin(ticket, &name, &push, &[], None, NOW), Err(Wait::ForOthers));
    assert_eq!(order.0.claim_tags(deletion, &["t".parse().unwrap()]), Ok(()));
    // Others stand behind.
    assert_eq!(order.begin(&untag("t")), Err(Wait::ForOthers));
    order.end(deletion, MADE);
    let number = order.0.begin(ticket, &name, &push, &[], None, NOW).unwrap();
    order.end(number, MADE);
    assert!(order.begin(&untag("t")).is_ok());
}

proptest! {
    /// Any commands in any order, with failures, lost answers and restarts: those that run at the same time agree,
    /// and all get their turn.
    #[test]
    fn no_two_changes_contradict_each_other(
        wanted in prop::collection::vec((0usize..8, any::<bool>()), 1..30),
        turns in prop::collection::vec((0usize..30, 0u8..6), 200),
    ) {
        let kinds = [
            push("m", &["t"]), push("m", &["u"]), push("n", &["t", "u"]), push("n", &[]),
            delete("m"), delete("n"), untag("t"), untag("u"),
        ];
        let name: RepositoryName = "a".parse().unwrap();
        let (mut order, mut now) = (Order::default(), NOW);
        let mut waiting: Vec<(u64, &Intent)> =
            wanted.iter().map(|(kind, _)| (order.ticket(), &kinds[*kind])).collect();
        let mut running: Vec<(u64, &Intent)> = Vec::new();
        for (at, event) in turns.into_iter().chain((0..3_000).map(|at| (at, 5))) {
            now = Timestamp(now.0 + 500);
            if let Some(number) = order.resume(now) {
                order.end(number, MADE, now);
                order.release(number);
            }
            order.forget(&order.old(now));
            if !running.is_empty() && (event < 4 || at % 2 == 0) {
                let (number, _) = running.remove(at % running.len());
                match event {
                    0 => order.interrupt(number, now),
                    1 => order.end(number, FAILED, now),
                    2 => order.end(number, LOST, now),
                    _ => order.end(number, MADE, now),
                }
                order.release(number);
            } else if !waiting.is_empty() {
                let next = at % waiting.len();
                let (ticket, intent) = waiting[next];
                if let Ok(number) = order.begin(ticket, &name, intent, &[], None, now) {
                    let claims = Claims::of(intent, &[]);
                    for (_, other) in &running {
                        let other = Claims::of(other, &[]);
                        prop_assert!(!claims.contradict(&other) && !claims.hides_tags_from(&other));
                    }
                    waiting.remove(next);
                    running.push((number, intent));
                }
            }
        }
        prop_assert!(waiting.is_empty(), "{waiting:?} wait for ever");
    }
}
