//! The consumer of the queue: hands events over to their sink, and then removes them from the outbox.

use std::rc::Rc;

use futures_util::future::join_all;
use serde_json::json;

use super::{Event, EventSink, Message, NotTaken, Outbox};
use crate::{
    oci::from_json,
    platform::{Level, RequestLog},
};

/// The size of what is handed over at once, in bytes.
const HANDOVER: usize = 512 * 1024;

/// Limit of messages that are read at once, each of up to 128 kB here or in the outbox.
const READS: usize = 10;

/// Consumes messages.
pub struct Consumer {
    /// The events that are not delivered yet.
    pub outbox: Outbox,
    /// Takes the events.
    pub sink: Rc<dyn EventSink>,
    /// Says why messages are not done.
    pub log: Rc<RequestLog>,
}

/// A message that was read.
struct Read {
    events: Vec<Event>,
    kept: Option<String>,
    size: usize,
}

/// A message that could not be read.
struct Unread {
    reason: String,
    /// It names what stays in the outbox, and the resend job names that again: the queue need not.
    is_named_again: bool,
}

impl Consumer {
    /// Hands over the events of messages. Tells of each message whether it is done; the others must be sent again.
    pub async fn consume(&self, messages: Vec<String>) -> Vec<bool> {
        let mut done = Vec::new();
        let (mut left, mut failure) = (0, None);
        let mut messages = messages.iter().peekable();
        while messages.peek().is_some() {
            let (mut group, mut size) = (Vec::new(), 0);
            while size < HANDOVER && messages.peek().is_some() {
                let texts = messages.by_ref().take(READS).map(|text| self.read(text));
                let read = join_all(texts).await;
                size += read.iter().flatten().map(|read| read.size).sum::<usize>();
                group.extend(read);
            }
            let mut read = Vec::new();
            let mut unread = Vec::new();
            for message in group {
                match message {
                    Ok(message) => {
                        unread.push(None);
                        read.push(message);
                    }
                    Err(Unread { reason, is_named_again }) => {
                        unread.push(Some(is_named_again));
                        failure = failure.or(Some(reason));
                    }
                }
            }
            let taken = self.hand_over(read).await;
            left += unread.iter().filter(|unread| unread.is_some() || taken.is_err()).count();
            done.extend(unread.into_iter().map(|unread| unread.unwrap_or(taken.is_ok())));
            failure = failure.or(taken.err());
        }
        if let Some(message) = failure {
            let id = &self.log.id;
            self.log.write(
                Level::Error,
                || json!({"level": "error", "id": id, "queue": "events", "left": left, "message": message}),
            );
        }
        done
    }

    /// Reads a message, and what it names in the outbox. Another version may have written what cannot be parsed: it waits
    /// for that version.
    async fn read(&self, text: &str) -> Result<Read, Unread> {
        let again = |reason| Unread { reason, is_named_again: false };
        let message = serde_json::from_str(text);
        let Message { mut events, kept } =
            message.map_err(|error| again(format!("a message is not valid: {error}")))?;
        let mut size = 0;
        if let Some(name) = kept.as_ref().filter(|_| events.is_empty()) {
            let found = self.outbox.read(name).await.map_err(|error| again(error.to_string()))?;
            // They are delivered.
            let Some(found) = found else { return Ok(Read { events, kept: None, size: 0 }) };
            events = from_json(&found).map_err(|error| Unread {
                reason: format!("{name} in the outbox is not valid: {error}"),
                is_named_again: true,
            })?;
            size = found.len();
        }
        Ok(Read { size: text.len().max(size), events, kept })
    }

    async fn hand_over(&self, group: Vec<Read>) -> Result<(), String> {
        let kept: Vec<String> = group.iter().filter_map(|read| read.kept.clone()).collect();
        let events: Vec<Event> = group.into_iter().flat_map(|read| read.events).collect();
        if !events.is_empty() {
            self.sink.write(&events).await.map_err(|NotTaken(reason)| reason)?;
        }
        if kept.is_empty() {
            return Ok(());
        }
        // What stays is sent again, and delivered twice.
        self.outbox.remove(&kept).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        task::Poll,
    };

    use futures_executor::block_on;
    use futures_util::future::{LocalBoxFuture, pending, ready};
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::{
        events::{
            Action, Bridge, Content, Durable, Gatherer, Names, Origin, Queue, Reference, memory::MemoryQueue,
        },
        layout::Key,
        oci::Algorithm,
        platform::{self, Background, Body, Clock, Timestamp, memory::ManualClock},
        storage::{PutOptions, Store, memory::Memory},
    };

    /// Work for later.
    #[derive(Default)]
    struct Later(RefCell<Vec<LocalBoxFuture<'static, ()>>>);

    impl Background for Later {
        fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
            self.0.borrow_mut().push(work);
        }

        fn spawn_after(&self, _: u32, work: LocalBoxFuture<'static, ()>) {
            self.spawn(work);
        }
    }

    #[derive(Default)]
    struct Taken {
        events: RefCell<Vec<Event>>,
        refuses: Cell<bool>,
    }

    impl EventSink for Taken {
        fn write<'a>(&'a self, events: &'a [Event]) -> LocalBoxFuture<'a, Result<(), NotTaken>> {
            if self.refuses.get() {
                return Box::pin(ready(Err(NotTaken("no".to_owned()))));
            }
            self.events.borrow_mut().extend_from_slice(events);
            Box::pin(ready(Ok(())))
        }
    }

    /// An event of `size` bytes or more.
    fn event(n: u64, size: usize) -> Event {
        let (repository, digest) = ("a".parse().unwrap(), Algorithm::Sha256.digest(b"m"));
        let origin = Origin {
            change: Uuid::from_u128(n.into()),
            request: Default::default(),
            actor: Default::default(),
            base: String::new(),
        };
        let (instance, time) = (Uuid::nil(), Timestamp(n));
        let bridge = Bridge { repository: &repository, origin: &origin, instance, time, sequence: Some(n) };
        let references = (0..size / 100).map(|_| Reference {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            size: 1,
            digest: digest.clone(),
            urls: Vec::new(),
            annotations: Default::default(),
        });
        let content = Content { digest: &digest, size: 1, media_type: "application/x" };
        bridge.manifest(Action::Push, content, None, references.collect())
    }

    /// Recorded log lines.
    #[derive(Default)]
    struct Lines(RefCell<Vec<Value>>);

    impl platform::Sink for Lines {
        fn line(&self, line: Value) {
            self.0.borrow_mut().push(line);
        }
    }

    struct Place {
        lines: Rc<Lines>,
        queue: Rc<MemoryQueue>,
        outbox: Outbox,
        taken: Rc<Taken>,
    }

    impl Place {
        fn new() -> Self {
            let outbox = Outbox { store: Store::new(Memory::default()) };
            Self { lines: Rc::default(), queue: Rc::default(), outbox, taken: Rc::default() }
        }

        fn log(&self) -> Rc<RequestLog> {
            Rc::new(RequestLog::new(Level::Info, "r".to_owned(), self.lines.clone()))
        }

        /// The log lines since the last call.
        fn lines(&self) -> Vec<Value> {
            self.lines.0.take()
        }

        fn durable(&self, queue: Rc<dyn Queue>, clock: Rc<dyn Clock>) -> Durable {
            Durable { queue, outbox: self.outbox.clone(), clock, log: self.log() }
        }

        fn write(&self, events: &[Event]) -> Result<(), NotTaken> {
            block_on(self.durable(self.queue.clone(), Rc::new(ManualClock::default())).write(events))
        }

        fn consume(&self, messages: Vec<String>) -> Vec<bool> {
            let consumer =
                Consumer { outbox: self.outbox.clone(), sink: self.taken.clone(), log: self.log() };
            block_on(consumer.consume(messages))
        }

        fn kept(&self) -> usize {
            block_on(self.outbox.names(Timestamp(u64::MAX), None, 1000)).unwrap().names.len()
        }
    }

    #[test]
    fn events_of_any_number_and_size_fit_into_messages_and_arrive() {
        let place = Place::new();
        let sizes = [300, 300, 40_000, 40_000, 300, 45_000, 300];
        let events: Vec<Event> = (1..).zip(sizes).map(|(n, size)| event(n, size)).collect();
        place.write(&events).unwrap();
        let messages = place.queue.messages.take();
        assert!(messages.iter().all(|message| message.len() <= 128_000));
        assert_eq!((messages.len(), place.kept()), (3, 3));
        assert_eq!(place.consume(messages), [true; 3]);
        assert_eq!(place.taken.events.take(), events);
        assert_eq!(place.kept(), 0);
    }

    /// A queue that takes its time, and counts what is under way.
    #[derive(Default)]
    struct Slow {
        under_way: Cell<usize>,
        most: Cell<usize>,
        taken: Cell<usize>,
    }

    impl Queue for Slow {
        fn send(&self, _: Vec<String>) -> LocalBoxFuture<'_, Result<(), String>> {
            Box::pin(async move {
                self.under_way.set(self.under_way.get() + 1);
                self.most.set(self.most.get().max(self.under_way.get()));
                let mut is_polled = false;
                let next_poll = std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut is_polled, true) { Poll::Ready(()) } else { Poll::Pending }
                });
                next_poll.await;
                self.under_way.set(self.under_way.get() - 1);
                self.taken.set(self.taken.get() + 1);
                Ok(())
            })
        }
    }

    /// A clock by which no time is ever over.
    struct Patient;

    impl Clock for Patient {
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }

        fn sleep(&self, _: u64) -> LocalBoxFuture<'static, ()> {
            Box::pin(pending())
        }
    }

    #[test]
    fn the_messages_of_one_change_are_written_a_few_at_a_time() {
        let (place, queue) = (Place::new(), Rc::new(Slow::default()));
        let durable = place.durable(queue.clone(), Rc::new(Patient));
        let events: Vec<Event> = (1..=30).map(|n| event(n, 45_000)).collect();
        block_on(durable.write(&events)).unwrap();
        assert_eq!((queue.taken.get(), queue.most.get(), place.kept()), (30, 4, 30));
    }

    #[test]
    fn what_is_not_handed_over_stays_in_the_outbox_and_comes_again() {
        let place = Place::new();
        place.write(&[event(1, 0)]).unwrap();
        let messages = place.queue.messages.take();
        place.taken.refuses.set(true);
        assert_eq!(place.consume(messages.clone()), [false]);
        assert_eq!(place.kept(), 1);
        let line = json!({"level": "error", "id": "r", "queue": "events", "left": 1, "message": "no"});
        assert_eq!(place.lines(), [line]);
        place.taken.refuses.set(false);
        assert_eq!(place.consume(messages), [true]);
        assert_eq!((place.taken.events.borrow().len(), place.kept()), (1, 0));
    }

    #[test]
    fn a_message_that_only_names_what_was_delivered_is_dropped() {
        let place = Place::new();
        place.write(&[event(1, 0)]).unwrap();
        let Names { names, .. } = block_on(place.outbox.names(Timestamp(u64::MAX), None, 10)).unwrap();
        let again = serde_json::to_string(&Message { events: Vec::new(), kept: names.into_iter().next() });
        let again = again.unwrap();
        assert_eq!(place.consume(vec![again.clone()]), [true]);
        assert_eq!(place.taken.events.borrow().len(), 1);
    }

    #[test]
    fn what_another_version_has_written_waits_for_it() {
        let place = Place::new();
        place.write(&[event(1, 0)]).unwrap();
        let valid = place.queue.messages.take().remove(0);
        let path = Key::OutboxEntry("0000000000009-x").path();
        let content = r#"[{"action":"rename"}]"#;
        let put = place.outbox.store.put(&path, Body::Bytes(content.into()), PutOptions::default());
        block_on(put).unwrap();
        let named = r#"{"kept":"0000000000009-x"}"#.to_owned();
        let unknown = r#"{"events":[{"action":"rename"}]}"#.to_owned();
        // The queue repeats a message that has something. What is in the outbox stays, and a job names it again.
        assert_eq!(place.consume(vec![named, unknown, valid]), [true, false, true]);
        assert_eq!((place.taken.events.borrow().len(), place.kept()), (1, 1));
        let lines = place.lines();
        assert_eq!((lines.len(), &lines[0]["level"], &lines[0]["left"]), (1, &json!("error"), &json!(2)));
        let message = lines[0]["message"].as_str().unwrap();
        assert!(message.starts_with("0000000000009-x in the outbox is not valid"), "{message}");
    }

    #[test]
    fn gathered_pulls_fit_into_messages_and_into_memory() {
        let (place, later) = (Place::new(), Later::default());
        let gatherer = Gatherer::new(place.queue.clone(), Rc::new(ManualClock::default()));
        let run = || later.0.take().into_iter().for_each(block_on);
        gatherer.add((1..=200).map(|n| event(n, 300)).collect(), &later);
        gatherer.add(vec![event(201, 40_000), event(202, 40_000), event(203, 300)], &later);
        run();
        let messages = place.queue.messages.take();
        assert!(messages.iter().all(|message| message.len() <= 128_000));
        assert_eq!(place.consume(messages), [true; 4]);
        let taken = place.taken.events.take();
        assert_eq!(taken.len(), 203);
        assert!(!taken[201].target.references.is_empty());

        gatherer.add((1..=100).map(|n| event(n, 45_000)).collect(), &later);
        run();
        assert!((5..20).contains(&place.queue.events().len()), "what is too much is dropped");
    }

    #[test]
    fn the_queue_or_the_outbox_is_enough() {
        let place = Place::new();
        place.queue.refuses.set(true);
        place.write(&[event(1, 45_000), event(2, 45_000)]).unwrap();
        assert_eq!((place.kept(), place.queue.messages.borrow().len()), (2, 0));
        let message = "only the outbox has the events: the queue refuses";
        let line = json!({"level": "info", "id": "r", "queue": "events", "message": message});
        assert_eq!(place.lines(), [line]);
        assert!(block_on(place.queue.send(vec![String::new()])).is_err());
    }

    #[test]
    fn names_of_the_outbox_come_in_the_order_of_time_and_in_pages() {
        let place = Place::new();
        for n in [5, 20, 3_000] {
            place.write(&[event(n, 0)]).unwrap();
        }
        let page = |before, after: Option<&str>, limit| {
            block_on(place.outbox.names(Timestamp(before), after, limit)).unwrap()
        };
        let all = page(u64::MAX, None, 10);
        assert_eq!((all.names.len(), &all.next), (3, &None));
        assert!(all.names.is_sorted());
        let first = page(u64::MAX, None, 2);
        assert_eq!(first.names, all.names[..2]);
        let second = page(u64::MAX, first.next.as_deref(), 2);
        assert_eq!((&second.names[..], &second.next), (&all.names[2..], &None));
        // The younger ones are not looked at.
        assert_eq!(page(3_000, None, 10), Names { names: all.names[..2].to_vec(), next: None });
        assert_eq!(page(20, None, 2), Names { names: all.names[..1].to_vec(), next: None });
    }
}
