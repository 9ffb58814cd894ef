//! Tests of the order and the times of deliveries.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const RETRIES: Retries = Retries { threshold: 3, backoff: 1000, max_backoff: 60_000, give_up: 3_600_000 };

/// The first key in the order of a repository's events.
fn key(n: u64) -> Key {
    Key { order: n, id: Uuid::from_u128(u128::from(n)) }
}

fn lane(repositories: &[&str]) -> Lane {
    let mut lane = Lane::new(State::default());
    for (n, repository) in (0..).zip(repositories) {
        assert_eq!(lane.take(key(n), repository.parse().unwrap(), 100, Timestamp(0)), Taken::New);
    }
    lane
}

fn sent(lane: &Lane, now: u64) -> Vec<u64> {
    match lane.next(Timestamp(now), Form::Distribution) {
        Next::Send(keys) => keys.iter().map(|key| key.order).collect(),
        _ => Vec::new(),
    }
}

fn finish(lane: &mut Lane, orders: &[u64], outcome: Outcome, now: u64) -> Vec<(Key, Fate)> {
    let keys: Vec<Key> = orders.iter().map(|order| key(*order)).collect();
    // The longest waits.
    lane.finish(&keys, &outcome, Timestamp(now), &RETRIES, 0)
}

fn failed() -> Outcome {
    Outcome::Failed("status 500".to_owned())
}

fn refused() -> Outcome {
    Outcome::Refused("status 400".to_owned())
}

#[test]
fn events_are_sent_together_in_order_once() {
    let mut lane = Lane::new(State::default());
    for n in [3, 1, 2, 1] {
        let taken = lane.take(key(n), "a".parse().unwrap(), 100, Timestamp(n));
        assert_eq!(taken == Taken::Known, lane.pending().0 == 3 && n == 1);
    }
    assert_eq!(sent(&lane, 10), [1, 2, 3]);
    assert_eq!(finish(&mut lane, &[1, 2, 3], Outcome::Delivered, 10).len(), 3);
    assert_eq!((lane.pending(), lane.state().delivered), ((0, 0), 3));
    assert_eq!(lane.next(Timestamp(10), Form::Distribution), Next::Idle);
}

#[test]
fn a_request_has_a_bounded_number_of_events_and_bytes() {
    let mut lane = lane(&["a"; BATCH + 1]);
    assert_eq!(sent(&lane, 0).len(), BATCH);
    for n in 100..103 {
        lane.take(key(n), "b".parse().unwrap(), BATCH_BYTES / 2, Timestamp(0));
    }
    let first: Vec<u64> = (0..=BATCH as u64).collect();
    finish(&mut lane, &first, Outcome::Delivered, 0);
    assert_eq!(sent(&lane, 0), [100, 101]);
    lane.take(key(50), "b".parse().unwrap(), BATCH_BYTES * 2, Timestamp(0));
    assert_eq!(sent(&lane, 0), [50]);
}

#[test]
fn cloud_events_are_sent_one_by_one() {
    let lane = lane(&["a", "b"]);
    assert_eq!(lane.next(Timestamp(0), Form::CloudEvents), Next::Send(vec![key(0)]));
}

#[test]
fn what_failed_together_is_sent_alone() {
    let mut lane = lane(&["a", "b", "a"]);
    finish(&mut lane, &[0, 1, 2], failed(), 0);
    assert_eq!(sent(&lane, 0), [0]);
    finish(&mut lane, &[0], Outcome::Delivered, 0);
    assert_eq!(sent(&lane, 0), [1]);
    finish(&mut lane, &[1], Outcome::Delivered, 0);
    assert_eq!(sent(&lane, 0), [2]);
}

#[test]
fn an_event_that_fails_holds_back_its_repository_only() {
    let mut lane = lane(&["a", "b", "a", "c"]);
    finish(&mut lane, &[0, 1, 2, 3], refused(), 0);
    finish(&mut lane, &[0], refused(), 0);
    // Both other repositories go on.
    for n in [1, 3] {
        assert_eq!(sent(&lane, 0), [n]);
        finish(&mut lane, &[n], Outcome::Delivered, 0);
    }
    assert_eq!(lane.next(Timestamp(0), Form::Distribution), Next::Wait(Timestamp(1000)));
    lane.take(key(4), "a".parse().unwrap(), 100, Timestamp(10));
    assert!(sent(&lane, 10).is_empty());
    assert_eq!(sent(&lane, 1000), [0]);
    finish(&mut lane, &[0], Outcome::Delivered, 1000);
    assert_eq!(sent(&lane, 1000), [2]);
}

#[test]
fn waits_double_up_to_the_longest_and_are_spread() {
    for (times, longest) in [(1, 1000), (2, 2000), (3, 4000), (6, 32_000), (7, 60_000), (200, 60_000)] {
        assert_eq!(backoff(&RETRIES, times, 0), longest);
        let waits: BTreeSet<u64> =
            (0..10_000).map(|random| backoff(&RETRIES, times, random * 7919)).collect();
        assert!(*waits.first().unwrap() >= longest / 2 && *waits.last().unwrap() <= longest, "{times}");
        assert!(waits.len() > 100, "{times}");
    }
}

#[test]
fn an_endpoint_that_is_down_gets_one_event_at_a_time() {
    let mut lane = lane(&["a", "b", "c", "d"]);
    finish(&mut lane, &[0, 1, 2, 3], failed(), 0);
    finish(&mut lane, &[0], failed(), 0);
    assert_eq!(lane.state().down_since, None);
    finish(&mut lane, &[1], failed(), 5);
    assert_eq!(lane.state().down_since, Some(Timestamp(5)));
    assert_eq!(lane.next(Timestamp(5), Form::Distribution), Next::Wait(Timestamp(1005)));
    // The one that was tried least comes first, so that one that always fails does not keep the others from being tried.
    assert_eq!(sent(&lane, 1005), [2]);
    finish(&mut lane, &[2], failed(), 1005);
    assert_eq!(lane.next(Timestamp(1005), Form::Distribution), Next::Wait(Timestamp(3005)));
    lane.take(key(4), "e".parse().unwrap(), 100, Timestamp(3000));
    assert_eq!(sent(&lane, 3005), [4]);
    // A success ends all waits.
    finish(&mut lane, &[4], Outcome::Delivered, 3006);
    assert_eq!((lane.state().down_since, lane.state().in_row), (None, 0));
    for n in [0, 1, 2, 3] {
        assert_eq!(sent(&lane, 3006), [n]);
        finish(&mut lane, &[n], Outcome::Delivered, 3006);
    }
}

#[test]
fn an_event_that_is_refused_five_times_alone_is_dead() {
    let mut lane = lane(&["a", "a"]);
    assert!(finish(&mut lane, &[0, 1], refused(), 0).iter().all(|(_, fate)| matches!(fate, Fate::Waits(_))));
    let mut now = 0;
    for n in 1..=MAX_REFUSALS {
        assert_eq!(sent(&lane, now), [0]);
        let fates = finish(&mut lane, &[0], refused(), now);
        assert_eq!(matches!(fates[..], [(_, Fate::Dead(_))]), n == MAX_REFUSALS, "{n}");
        now += 100_000;
    }
    assert_eq!((lane.state().down_since, lane.state().failed), (None, 6));
    assert_eq!(sent(&lane, now), [1]);
}

#[test]
fn an_endpoint_that_asks_for_time_gets_it() {
    for (after, threshold, until) in [(0, 3, 1000), (30_000, 3, 30_000), (3_600_000, 3, 60_000), (0, 1, 1000)]
    {
        let retries = Retries { threshold, ..RETRIES };
        let mut lane = lane(&["a", "b"]);
        let outcome = Outcome::Throttled { after, error: "status 429".to_owned() };
        lane.finish(&[key(0), key(1)], &outcome, Timestamp(0), &retries, 0);
        assert_eq!(lane.next(Timestamp(0), Form::Distribution), Next::Wait(Timestamp(until)));
        // They are sent together again: it is not one of them that fails.
        assert_eq!(sent(&lane, until).len(), if threshold == 1 { 1 } else { 2 });
    }
}

#[test]
fn old_events_are_given_up() {
    let mut lane = lane(&["a", "b"]);
    lane.take(key(2), "c".parse().unwrap(), 100, Timestamp(50));
    assert_eq!(lane.gives_up(RETRIES.give_up), Some(Timestamp(3_600_000)));
    assert_eq!(lane.overdue(Timestamp(0), 1), [key(0)]);
    assert_eq!(lane.give_up(&[key(0)]).len(), 1);
    assert_eq!(lane.overdue(Timestamp(0), 10), [key(1)]);
    lane.give_up(&[key(1)]);
    assert_eq!(lane.overdue(Timestamp(49), 10), []);
    assert_eq!(lane.gives_up(RETRIES.give_up), Some(Timestamp(3_600_050)));
    assert_eq!(lane.overdue(Timestamp(50), 10), [key(2)]);
}

#[test]
fn a_lane_has_room_for_a_bounded_number_of_events_and_bytes() {
    let mut lane = Lane::new(State::default());
    let half = MAX_PENDING_BYTES / 2;
    for (n, taken) in [(0, Taken::New), (1, Taken::New), (2, Taken::Full), (1, Taken::Known)] {
        assert_eq!(lane.take(key(n), "a".parse().unwrap(), half, Timestamp(0)), taken);
    }
    let mut lane = Lane::new(State::default());
    for n in 0..MAX_PENDING as u64 {
        assert_eq!(lane.take(key(n), "a".parse().unwrap(), 1, Timestamp(0)), Taken::New);
    }
    assert_eq!(lane.take(key(u64::MAX), "a".parse().unwrap(), 1, Timestamp(0)), Taken::Full);
}

/// What happens to a lane.
#[derive(Debug, Clone)]
enum Step {
    /// Some events arrive: repositories and orders.
    Take(Vec<(u8, u8)>),
    /// A request is sent, and this is the answer.
    Send(u8),
    /// Time passes, in milliseconds.
    Wait(u32),
    /// The lane is loaded again from what is stored.
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let take = proptest::collection::vec((0..4_u8, 0..60_u8), 1..5).prop_map(Step::Take);
    let step = prop_oneof![
        3 => take,
        6 => (0..8_u8).prop_map(Step::Send),
        2 => (0..90_000_u32).prop_map(Step::Wait),
        1 => Just(Step::Reload),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What a lane has stored.
#[derive(Default)]
struct Stored {
    state: State,
    pending: BTreeMap<Key, Entry>,
    dead: BTreeMap<Key, String>,
}

impl Stored {
    fn load(&self) -> Lane {
        let mut lane = Lane::new(self.state.clone());
        for (key, entry) in &self.pending {
            lane.restore(*key, entry.clone());
        }
        lane
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_repositories_stay_in_order(steps in steps(), down in any::<bool>()) {
        let mut stored = Stored::default();
        let mut lane = stored.load();
        let mut now = Timestamp(1000);
        let mut taken = BTreeMap::new();
        let mut delivered: Vec<Key> = Vec::new();
        let repository = |n: u8| -> RepositoryName { format!("r{n}").parse().unwrap() };
        for step in steps {
            match step {
                Step::Take(events) => {
                    for (name, order) in events {
                        let key = key(u64::from(name) << 8 | u64::from(order));
                        if delivered.contains(&key) || stored.dead.contains_key(&key) {
                            continue;
                        }
                        let is_known = stored.pending.contains_key(&key);
                        let is_new = lane.take(key, repository(name), 20_000, now) == Taken::New;
                        prop_assert_eq!(is_new, !is_known);
                        stored.pending.insert(key, lane.entry(&key).unwrap().clone());
                        taken.entry(key).or_insert(now);
                    }
                    stored.state = lane.state().clone();
                }
                Step::Wait(milliseconds) => now.0 += u64::from(milliseconds),
                Step::Reload => {
                    let again = stored.load();
                    prop_assert_eq!(again.pending(), lane.pending());
                    prop_assert_eq!(again.next(now, Form::Distribution), lane.next(now, Form::Distribution));
                    lane = again;
                }
                Step::Send(answer) => {
                    let old = Timestamp(now.0.saturating_sub(RETRIES.give_up));
                    for (key, entry) in { let keys = lane.overdue(old, 100); lane.give_up(&keys) } {
                        prop_assert!(entry.taken <= old);
                        stored.pending.remove(&key);
                        stored.dead.insert(key, "age".to_owned());
                    }
                    let Next::Send(keys) = lane.next(now, Form::Distribution) else { continue };
                    // The first of each repository that waits, and those after it without a gap.
                    let mut waiting: BTreeMap<&RepositoryName, Vec<Key>> = BTreeMap::new();
                    for (key, entry) in &stored.pending {
                        waiting.entry(&entry.repository).or_default().push(*key);
                    }
                    for keys_of_one in waiting.values() {
                        let sent: Vec<Key> = keys.iter().copied().filter(|key| keys_of_one.contains(key)).collect();
                        prop_assert_eq!(&sent[..], &keys_of_one[..sent.len()]);
                    }
                    prop_assert!(!keys.is_empty() && keys.len() <= BATCH);
                    let outcome = match if down { 3 } else { answer } {
                        0..3 => Outcome::Delivered,
                        3..5 => failed(),
                        5 | 6 => refused(),
                        _ => Outcome::Throttled { after: 500, error: String::new() },
                    };
                    let before = lane.state().clone();
                    let fates = lane.finish(&keys, &outcome, now, &RETRIES, u64::from(answer) * 997);
                    prop_assert_eq!(fates.len(), keys.len());
                    for (key, fate) in fates {
                        match fate {
                            Fate::Delivered => {
                                prop_assert_eq!(&outcome, &Outcome::Delivered);
                                stored.pending.remove(&key);
                                delivered.push(key);
                            }
                            Fate::Waits(entry) => {
                                prop_assert!(entry.refusals < MAX_REFUSALS);
                                stored.pending.insert(key, entry);
                            }
                            Fate::Dead(entry) => {
                                prop_assert_eq!((&outcome, entry.refusals, keys.len()), (&refused(), MAX_REFUSALS, 1));
                                stored.pending.remove(&key);
                                stored.dead.insert(key, "refused".to_owned());
                            }
                        }
                    }
                    stored.state = lane.state().clone();
                    prop_assert_eq!(lane.state().in_row == 0, outcome == Outcome::Delivered
                        || matches!(outcome, Outcome::Refused(_)) && before.in_row == 0);
                    prop_assert_eq!(lane.state().down_since.is_some(), lane.state().in_row >= RETRIES.threshold);
                    if lane.state().down_since.is_some() {
                        prop_assert!(lane.state().waits_until > now);
                    }
                }
            }
            // Each event that was taken is in exactly one place.
            let places = stored.pending.keys().chain(stored.dead.keys()).chain(&delivered);
            prop_assert_eq!(places.copied().collect::<BTreeSet<_>>(), taken.keys().copied().collect());
            prop_assert_eq!(stored.pending.len() + stored.dead.len() + delivered.len(), taken.len());
            prop_assert_eq!(lane.pending(), (stored.pending.len(), stored.pending.len() * 20_000));
            if let Next::Wait(until) = lane.next(now, Form::Distribution) {
                prop_assert!(until > now && until.0 - now.0 <= RETRIES.max_backoff);
            }
        }
        // An endpoint that works again gets all the rest.
        for _ in 0..10_000 {
            match lane.next(now, Form::Distribution) {
                Next::Idle => break,
                Next::Wait(until) => now = until,
                Next::Send(keys) => {
                    lane.finish(&keys, &Outcome::Delivered, now, &RETRIES, 0);
                }
            }
        }
        prop_assert_eq!(lane.pending(), (0, 0));
    }
}
