//! The queue of events: its producer, and its consumer.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use serde_json::json;
use wasm_bindgen::JsValue;
use worker::{
    BatchMessageBuilder, Context, Env, MessageBatch, MessageExt, QueueContentType, QueueRetryOptionsBuilder,
    RawMessageBuilder, event,
};

use super::{
    bindings::{Console, WaitUntil},
    entry::isolate,
};
use crate::{
    auth::Principal,
    events::{Consumer, Queue},
    platform::Sink,
};

/// Time until a message that was not handed over comes again, in seconds.
const RETRY: u32 = 10;

/// The producer.
pub struct EventQueue(worker::Queue);

impl EventQueue {
    /// Wraps the binding.
    pub fn new(queue: worker::Queue) -> Self {
        Self(queue)
    }
}

impl Queue for EventQueue {
    fn send(&self, messages: Vec<String>) -> LocalBoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let message = |text: &String| {
                RawMessageBuilder::new(JsValue::from_str(text))
                    .build_with_content_type(QueueContentType::Text)
            };
            let sent = match messages.as_slice() {
                [text] => self.0.send_raw(message(text)).await,
                texts => {
                    let batch = BatchMessageBuilder::new().messages(texts.iter().map(message)).build();
                    self.0.send_raw_batch(batch).await
                }
            };
            sent.map_err(|error| format!("the queue refuses: {error}"))
        })
    }
}

/// Hands a batch over. What is not handed over comes again.
#[event(queue)]
async fn queue(batch: MessageBatch<JsValue>, env: Env, context: Context) -> worker::Result<()> {
    let later = QueueRetryOptionsBuilder::new().with_delay_seconds(RETRY).build();
    let app = match isolate(&env) {
        Ok(isolate) => isolate.app,
        Err(error) => {
            Console.line(json!({"level": "error", "queue": "events", "message": error.log_line()}));
            batch.retry_all_with_options(&later);
            return Ok(());
        }
    };
    let id = uuid::Uuid::new_v4().to_string();
    let context = app.context(Principal::Job("deliver"), id, Rc::new(WaitUntil(context)));
    let messages: Vec<_> = batch.raw_iter().collect();
    let texts = messages.iter().map(|message| message.body().as_string().unwrap_or_default()).collect();
    let (outbox, sink) = (app.outbox(&context), Rc::new(app.broadcaster()));
    let consumer = Consumer { outbox, sink, log: context.log.clone() };
    let done = consumer.consume(texts).await;
    for (message, is_done) in messages.iter().zip(done) {
        if is_done {
            message.ack();
        } else {
            message.retry_with_options(&later);
        }
    }
    Ok(())
}
