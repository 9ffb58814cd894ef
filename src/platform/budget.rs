//! The memory budget of an isolate: who holds how much, and who is next.
//!
//! A request starts with little memory and grows with the bytes that arrive, so that a slow client holds little.
//! Requests that want more wait in line, those that hold memory before those that hold none. The first in line may
//! grow in a reserve that only one uses at a time: that one can end, and gives its memory back, whatever the others hold.

use super::Timestamp;

/// What an isolate holds in memory at most, in bytes. The platform ends an isolate above 128 MB.
pub mod limits {
    /// Buffers of uploads, and manifests being pushed.
    pub const BUDGET: usize = 48 << 20;
    /// The buffer of the request that is first in line: the largest part.
    pub const RESERVE: usize = 16 << 20;
    /// Manifests and locations of blobs, kept between requests.
    pub const CACHE: usize = 16 << 20;
    /// Code, stacks and tables of the WebAssembly instance, and the heap of JavaScript, as measured with idle
    /// buffers: about 20 MiB.
    pub const RUNTIME: usize = 24 << 20;

    /// The platform's limit.
    const ISOLATE: usize = 128_000_000;
    const _: () = assert!(BUDGET + RESERVE + CACHE + RUNTIME < ISOLATE / 10 * 9, "no margin is left");
}

/// Time after which memory counts as abandoned, in milliseconds: the runtime may drop a request silently. Whoever
/// holds memory says so more often, with [`Budget::touch`].
const ABANDONED: u64 = 120_000;

/// Time after which a request in line that asked no more is gone, in milliseconds.
const GONE: u64 = 2_000;

/// Memory of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loan {
    id: u64,
    bytes: usize,
    in_reserve: bool,
    seen: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    id: u64,
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
        self.forget(now);
        if !self.line.iter().any(|waiting| waiting.id == id) {
            self.line.push(Waiting { id, seen: now });
        }
        self.line.iter_mut().filter(|waiting| waiting.id == id).for_each(|waiting| waiting.seen = now);
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
        self.loans.push(Loan { id, bytes, in_reserve, seen: now });
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

    fn forget(&mut self, now: Timestamp) {
        self.loans.retain(|loan| now.milliseconds_since(loan.seen) < ABANDONED);
        self.line.retain(|waiting| now.milliseconds_since(waiting.seen) < GONE);
    }

    /// The request still holds its memory.
    pub fn touch(&mut self, id: u64, now: Timestamp) {
        self.loans.iter_mut().filter(|loan| loan.id == id).for_each(|loan| loan.seen = now);
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
    fn memory_of_requests_that_vanished_is_lent_again() {
        let mut budget = Budget::new(100, 50);
        let [a, b, c] = [budget.id(), budget.id(), budget.id()];
        assert!(budget.grow(a, 100, NOW));
        assert!(!budget.grow(b, 100, NOW));
        budget.touch(a, Timestamp(100_000));
        // `b` asks no more.
        assert!(!budget.grow(c, 100, Timestamp(120_000)));
        assert!(budget.grow(c, 100, Timestamp(220_000)));
        assert_eq!(budget.used(), 100);
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
    }
}
