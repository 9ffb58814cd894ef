//! The memory budget of an isolate: who holds how much, who is next, and who must give way.
//!
//! A request starts with little memory and grows with the bytes that arrive, so that a slow client holds little. Once
//! half of the memory is lent, it asks for all it needs: requests that grow in steps, and wait before each, would stop
//! one another. Requests that want more wait in line, those that hold memory before those that hold none. The first in
//! line may grow in a reserve that only one uses at a time: that one can end, and gives its memory back, whatever the
//! others hold.
//!
//! A client may be as slow as it likes, but not silent: after [`SILENCE`] its request ends. While others wait for
//! memory, the request that holds the most of those below a minimum pace ends too.

use super::Timestamp;

/// What an isolate holds in memory at most, in bytes. The platform ends an isolate above 128 MB.
pub mod limits {
    /// Buffers in JavaScript's memory: parts of uploads, and manifests while they arrive.
    pub const BUFFERS: usize = 32 << 20;
    /// The buffer of the request that is first in line: the largest part.
    pub const RESERVE: usize = 16 << 20;
    /// Content in WebAssembly's memory, which only grows: manifests while they are pushed or pulled.
    pub const CONTENT: usize = 12 << 20;
    /// Manifests and locations of blobs, kept between requests.
    pub const CACHE: usize = 8 << 20;
    /// Code, stacks and tables of the WebAssembly instance, and the heap of JavaScript, as measured with idle
    /// buffers: about 20 MiB.
    pub const RUNTIME: usize = 24 << 20;

    /// What an isolate holds at most: a margin below the platform's limit.
    const ISOLATE: usize = 100_000_000;
    const _: () =
        assert!(BUFFERS + RESERVE + CONTENT + CACHE + RUNTIME < ISOLATE, "the parts exceed the sum");
}

/// Time without a byte after which a request ends, in milliseconds.
pub const SILENCE: u64 = 60_000;

/// The pace of a client that may keep its memory while others wait, in bytes per second. At this pace, the usual part
/// arrives in about two minutes.
pub const PACE: usize = 64 * 1024;

/// The time over which a client's pace is measured, in milliseconds.
const WINDOW: u64 = 5_000;

/// Time that others have waited before slow clients give way, in milliseconds.
const WAITED: u64 = 2_000;

/// Time without a sign of life after which a request is gone, in milliseconds.
const ABANDONED: u64 = 120_000;

/// Time after which a request in line that asked no more is gone, in milliseconds.
const GONE: u64 = 2_000;

/// Why a request must give its memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its client has sent nothing for [`SILENCE`].
    Silent,
    /// Others wait for memory, and of the clients below [`PACE`], this one's request holds the most.
    Slow,
}

/// Memory of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loan {
    id: u64,
    bytes: usize,
    in_reserve: bool,
    /// The last sign of life.
    seen: Timestamp,
    /// What arrives, while the request reads from its client.
    arriving: Option<Arriving>,
}

/// What arrives from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arriving {
    last: Timestamp,
    /// The start of the window.
    since: Timestamp,
    /// The bytes in this window.
    bytes: usize,
    /// Whether the last whole window was below the pace.
    is_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    id: u64,
    since: Timestamp,
    seen: Timestamp,
}

/// The budget.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    reserve: usize,
    loans: Vec<Loan>,
    line: Vec<Waiting>,
    next: u64,
}

impl Budget {
    /// A budget of `limit` bytes, and `reserve` for the first in line.
    pub const fn new(limit: usize, reserve: usize) -> Self {
        Self { limit, reserve, loans: Vec::new(), line: Vec::new(), next: 0 }
    }

    /// A number for the memory of a request.
    pub fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets a request hold `bytes`, more than it does; `false` if it must wait, and ask again.
    pub fn grow(&mut self, id: u64, bytes: usize, now: Timestamp) -> bool {
        self.line.retain(|waiting| waiting.id == id || now.milliseconds_since(waiting.seen) < GONE);
        match self.line.iter_mut().find(|waiting| waiting.id == id) {
            Some(waiting) => waiting.seen = now,
            None => self.line.push(Waiting { id, since: now, seen: now }),
        }
        self.touch(id, now);
        if self.first() != Some(id) {
            return false;
        }
        let others: usize =
            self.loans.iter().filter(|loan| loan.id != id && !loan.in_reserve).map(|loan| loan.bytes).sum();
        let is_reserve_taken = self.loans.iter().any(|loan| loan.id != id && loan.in_reserve);
        let held = self.loans.iter().any(|loan| loan.id == id);
        // More than the whole budget waits for nothing.
        let fits = others + bytes <= self.limit || (others == 0 && bytes > self.limit);
        let in_reserve = !fits && held && !is_reserve_taken && bytes <= self.reserve;
        if !fits && !in_reserve {
            return false;
        }
        self.line.retain(|waiting| waiting.id != id);
        self.loans.retain(|loan| loan.id != id);
        self.loans.push(Loan { id, bytes, in_reserve, seen: now, arriving: None });
        true
    }

    /// The request whose turn it is: the one in the reserve, or else the first that holds memory, or else the first.
    fn first(&self) -> Option<u64> {
        let loan = |waiting: &Waiting| self.loans.iter().find(|loan| loan.id == waiting.id);
        let find =
            |is_it: &dyn Fn(&Loan) -> bool| self.line.iter().find(|waiting| loan(waiting).is_some_and(is_it));
        let first = find(&|loan| loan.in_reserve).or_else(|| find(&|_| true)).or_else(|| self.line.first());
        first.map(|waiting| waiting.id)
    }

    /// The request is alive.
    pub fn touch(&mut self, id: u64, now: Timestamp) {
        self.loans.iter_mut().filter(|loan| loan.id == id).for_each(|loan| loan.seen = now);
    }

    /// The request reads from its client, and these bytes have arrived. The first time after it has grown, that is none.
    pub fn arrived(&mut self, id: u64, bytes: usize, now: Timestamp) {
        let Some(loan) = self.loans.iter_mut().find(|loan| loan.id == id) else { return };
        let new = Arriving { last: now, since: now, bytes: 0, is_slow: false };
        let arriving = loan.arriving.get_or_insert(new);
        if bytes > 0 {
            arriving.last = now;
            arriving.bytes += bytes;
        }
    }

    /// Whether a request that reads from its client must end. To be asked every few seconds.
    pub fn must_end(&mut self, id: u64, now: Timestamp) -> Option<End> {
        let others_wait = self.line.iter().any(|waiting| {
            let has_waited = waiting.seen.milliseconds_since(waiting.since) >= WAITED;
            waiting.id != id && has_waited && now.milliseconds_since(waiting.seen) < GONE
        });
        let loan = self.loans.iter_mut().find(|loan| loan.id == id)?;
        let arriving = loan.arriving.as_mut()?;
        if now.milliseconds_since(arriving.last) >= SILENCE {
            return Some(End::Silent);
        }
        let window = now.milliseconds_since(arriving.since);
        if window >= WINDOW {
            let is_slow =
                (arriving.bytes as u64).saturating_mul(1_000) < (PACE as u64).saturating_mul(window);
            *arriving = Arriving { since: now, bytes: 0, is_slow, ..*arriving };
        }
        let (bytes, is_slow) = (loan.bytes, arriving.is_slow);
        let slow = |loan: &&Loan| loan.arriving.is_some_and(|arriving| arriving.is_slow);
        let most = self.loans.iter().filter(slow).map(|loan| loan.bytes).max();
        (is_slow && others_wait && most == Some(bytes)).then_some(End::Slow)
    }

    /// The request stops reading: it waits for something else.
    pub fn stop_reading(&mut self, id: u64) {
        self.loans.iter_mut().filter(|loan| loan.id == id).for_each(|loan| loan.arriving = None);
    }

    /// The requests that have given no sign of life for so long that the runtime must have dropped them. Their
    /// memory is to be taken back, and their loans ended.
    pub fn abandoned(&self, now: Timestamp) -> Vec<u64> {
        let is_gone = |loan: &&Loan| now.milliseconds_since(loan.seen) >= ABANDONED;
        self.loans.iter().filter(is_gone).map(|loan| loan.id).collect()
    }

    /// The request gives its memory back, and leaves the line.
    pub fn end(&mut self, id: u64) {
        self.loans.retain(|loan| loan.id != id);
        self.line.retain(|waiting| waiting.id != id);
    }

    /// The bytes held.
    pub fn used(&self) -> usize {
        self.loans.iter().map(|loan| loan.bytes).sum()
    }

    /// Whether at most half of the memory is lent: then requests may grow in small steps.
    pub fn has_plenty(&self) -> bool {
        self.used() <= self.limit / 2
    }

    /// The bytes that nobody holds, without the reserve.
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(0);

    #[test]
    fn requests_wait_in_line() {
        let mut budget = Budget::new(100, 50);
        let [a, b, c, d] = [budget.id(), budget.id(), budget.id(), budget.id()];
        assert!(budget.grow(a, 60, NOW) && budget.grow(b, 40, NOW));
        assert!(!budget.grow(c, 70, NOW) && !budget.grow(d, 10, NOW));
        // Who holds memory comes first, and the first in line has the reserve.
        assert!(budget.grow(b, 50, NOW));
        assert!(budget.grow(a, 80, NOW));
        // The one that came later does not overtake, although it would fit.
        assert!(!budget.grow(d, 10, NOW) && !budget.grow(c, 70, NOW));
        budget.end(a);
        assert!(budget.grow(c, 70, NOW) && budget.grow(d, 10, NOW));
        // The reserve is taken.
        assert!(!budget.grow(c, 95, NOW));
        budget.end(b);
        assert!(!budget.grow(c, 95, NOW), "more than the reserve");
        budget.end(d);
        assert!(budget.grow(c, 95, NOW));
    }

    #[test]
    fn a_loan_ends_only_when_it_is_ended() {
        let mut budget = Budget::new(100, 50);
        let [a, b, c] = [budget.id(), budget.id(), budget.id()];
        assert!(budget.grow(a, 100, NOW));
        assert!(!budget.grow(b, 100, NOW));
        budget.touch(a, Timestamp(100_000));
        assert!(budget.abandoned(Timestamp(219_999)).is_empty());
        // `b` asks no more.
        assert!(!budget.grow(c, 100, Timestamp(220_000)));
        assert_eq!((budget.abandoned(Timestamp(220_000)), budget.used()), (vec![a], 100));
        budget.end(a);
        assert!(budget.grow(c, 100, Timestamp(220_000)));
    }

    #[test]
    fn a_silent_client_is_ended_and_a_slow_one_is_not() {
        let mut budget = Budget::new(100, 50);
        let [silent, slow] = [budget.id(), budget.id()];
        assert!(budget.grow(silent, 10, NOW) && budget.grow(slow, 10, NOW));
        budget.arrived(silent, 0, NOW);
        for second in (0..100_000).step_by(5) {
            let now = Timestamp(second * 1_000);
            if second % 55 == 0 {
                budget.arrived(slow, 1, now);
            }
            assert_eq!(budget.must_end(slow, now), None, "{second}");
            assert_eq!(budget.must_end(silent, now).is_some(), second >= 60, "{second}");
        }
        assert_eq!(budget.must_end(silent, Timestamp(60_000)), Some(End::Silent));
        // It waits for storage, not for its client.
        budget.stop_reading(silent);
        assert_eq!(budget.must_end(silent, Timestamp(60_000)), None);
    }

    #[test]
    fn slow_clients_give_way_only_while_others_wait_and_the_largest_first() {
        let mut budget = Budget::new(100, 50);
        let [small, large, fast, other] = [budget.id(), budget.id(), budget.id(), budget.id()];
        for (id, bytes) in [(small, 10), (large, 30), (fast, 60)] {
            assert!(budget.grow(id, bytes, NOW));
            budget.arrived(id, 0, NOW);
        }
        let ends = |budget: &mut Budget, now| [small, large, fast].map(|id| budget.must_end(id, now));
        budget.arrived(small, 1, Timestamp(4_000));
        budget.arrived(large, 5 * PACE - 1, Timestamp(4_000));
        budget.arrived(fast, 5 * PACE, Timestamp(4_000));
        assert_eq!(ends(&mut budget, Timestamp(5_000)), [None; 3], "nobody waits");
        for second in 5..=7 {
            assert!(!budget.grow(other, 20, Timestamp(second * 1_000)));
            let end = (second == 7).then_some(End::Slow);
            assert_eq!(ends(&mut budget, Timestamp(second * 1_000)), [None, end, None], "{second}");
        }
        budget.end(large);
        assert!(budget.grow(other, 20, Timestamp(7_000)));
        assert_eq!(ends(&mut budget, Timestamp(7_000)), [None; 3]);
    }

    proptest! {
        /// Clients of any speed, some of them silent for long: nobody waits for ever, and the limit holds.
        #[test]
        fn every_request_ends_within_the_limit(
            sizes in prop::collection::vec((1usize..50, 0u8..4), 1..40),
            order in prop::collection::vec(0usize..40, 400),
        ) {
            let mut budget = Budget::new(100, 50);
            // The bytes held, of those wanted, and how many turns its client rests.
            let mut requests: Vec<_> =
                sizes.iter().map(|(size, rest)| (budget.id(), 0, *size, *rest)).collect();
            for turn in order.iter().copied().chain((0..20_000).map(|n| n % 40)) {
                if requests.is_empty() {
                    break;
                }
                let at = turn % requests.len();
                let (id, held, size, rest) = &mut requests[at];
                if *rest > 0 {
                    *rest -= 1;
                    continue;
                }
                let next = (*held * 4).clamp(1, *size);
                if budget.grow(*id, next, NOW) {
                    *held = next;
                }
                prop_assert!(budget.used() <= 150);
                if held == size {
                    budget.end(*id);
                    requests.remove(at);
                }
            }
            prop_assert!(requests.is_empty(), "{} of {} wait for ever", requests.len(), sizes.len());
            prop_assert_eq!(budget.used(), 0);
        }

        /// Clients that send this much at once, and then a byte every so many seconds, take all the memory there is. A
        /// client of a usual pace is never ended, and has its part stored within minutes, although they come again.
        #[test]
        fn others_make_progress_whatever_slow_clients_do(
            slow in prop::collection::vec((1usize..8_000, 1u64..90), 1..30),
            start in 0u64..60,
        ) {
            const K: usize = 1 << 10;
            const PART: usize = 8_000 * K;
            let mut budget = Budget::new(32_000 * K, 16_000 * K);
            let mut clients: Vec<_> = slow.into_iter().map(|(burst, every)| Client::new(burst * K, every, 0)).collect();
            clients.push(Client::new(PART, 1, start));
            let usual = clients.len() - 1;
            let mut stored = None;
            for second in 0..600 {
                let now = Timestamp(second * 1_000);
                for (n, client) in clients.iter_mut().enumerate() {
                    match client.step(&mut budget, PART, now) {
                        Some(Outcome::Ended) => prop_assert!(n != usual, "ended"),
                        Some(Outcome::Stored) if n == usual => stored = Some(second),
                        _ => {}
                    }
                }
                prop_assert!(budget.used() <= 48_000 * K);
                if stored.is_some() {
                    break;
                }
            }
            prop_assert!(stored.is_some());
        }
    }

    /// A client that sends a burst at 1 MB/s, then a byte every so many seconds, for one part.
    struct Client {
        id: Option<u64>,
        held: usize,
        received: usize,
        burst: usize,
        every: u64,
        start: u64,
        waits: Option<Timestamp>,
    }

    enum Outcome {
        Stored,
        Refused,
        Ended,
    }

    impl Client {
        fn new(burst: usize, every: u64, start: u64) -> Self {
            Self { id: None, held: 0, received: 0, burst, every, start, waits: None }
        }

        /// One second. A client whose request has ended comes again.
        fn step(&mut self, budget: &mut Budget, part: usize, now: Timestamp) -> Option<Outcome> {
            let second = now.0 / 1_000;
            if second < self.start {
                return None;
            }
            let id = *self.id.get_or_insert_with(|| budget.id());
            let outcome = if self.received >= self.held && self.held < part {
                let step = (self.held * 4).clamp(64 << 10, part);
                let waits = self.held > 0 && (self.waits.is_some() || !budget.has_plenty());
                let next = if waits { part } else { step };
                if budget.grow(id, next, now) {
                    budget.arrived(id, 0, now);
                    (self.held, self.waits) = (next, None);
                    return None;
                }
                let since = *self.waits.get_or_insert(now);
                (now.milliseconds_since(since) > 30_000).then_some(Outcome::Refused)
            } else {
                let bytes = match self.received < self.burst {
                    true => (1 << 20).min(self.held - self.received),
                    false => usize::from(second.is_multiple_of(self.every)),
                };
                self.received += bytes;
                budget.arrived(id, bytes, now);
                match budget.must_end(id, now) {
                    Some(_) => Some(Outcome::Ended),
                    None => (self.received >= part).then_some(Outcome::Stored),
                }
            };
            if outcome.is_some() {
                budget.end(id);
                *self = Self::new(self.burst, self.every, second + 1);
            }
            outcome
        }
    }
}
