//! Virtual time. It moves only when the scheduler says so, in whole seconds.
//!
//! The delays of retries vary at random by a third, the only randomness of the code under test that the seed does
//! not decide. Rounded up to seconds they do not vary: 67 to 100, 201 to 300 and 467 to 700 ms are one second, 1,001
//! to 1,500 ms are two, and as patience is whole seconds too, the question whether another attempt fits never
//! depends on less than one.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_util::future::LocalBoxFuture;
use pierhead::platform::{Clock, Timestamp};

use crate::executor::{Sender, promise};

/// When it is due, in seconds, and who waits for it.
type Timer = (u64, Sender<()>);

/// Virtual time and its timers. Clones share both.
#[derive(Clone, Default)]
pub struct VirtualClock {
    seconds: Rc<Cell<u64>>,
    timers: Rc<RefCell<Vec<Timer>>>,
}

impl VirtualClock {
    /// The time, in seconds.
    pub fn seconds(&self) -> u64 {
        self.seconds.get()
    }

    /// The time of the next timer that anyone waits for, in seconds.
    pub fn next_timer(&self) -> Option<u64> {
        let mut timers = self.timers.borrow_mut();
        timers.retain(|(_, sender)| sender.is_awaited());
        timers.iter().map(|(at, _)| *at).min()
    }

    /// Moves the time and ends the timers due.
    pub fn advance_to(&self, seconds: u64) {
        self.seconds.set(seconds.max(self.seconds.get()));
        let mut due = Vec::new();
        self.timers.borrow_mut().retain_mut(|(at, sender)| {
            if *at > seconds {
                return true;
            }
            due.push(std::mem::replace(sender, promise().0));
            false
        });
        for sender in due {
            sender.send(());
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.seconds.get() * 1000)
    }

    fn sleep(&self, milliseconds: u64) -> LocalBoxFuture<'static, ()> {
        let (sender, receiver) = promise();
        self.timers.borrow_mut().push((self.seconds.get() + milliseconds.div_ceil(1000), sender));
        Box::pin(receiver)
    }
}
