//! The broadcaster: hands events over to the endpoints that want them.

use std::rc::Rc;

use futures_util::future::{LocalBoxFuture, join_all};

use super::{
    Event, EventSink, NotTaken,
    delivery::{Command, Endpoint, Lanes},
};

/// The endpoints of the registry, each with a lane of its own.
pub struct Broadcaster {
    /// The endpoints.
    pub endpoints: Rc<[Endpoint]>,
    /// The client of their lanes.
    pub lanes: Rc<dyn Lanes>,
}

impl EventSink for Broadcaster {
    /// Fails unless every endpoint has what it wants. The others have it twice, then: a lane drops what it has.
    fn write<'a>(&'a self, events: &'a [Event]) -> LocalBoxFuture<'a, Result<(), NotTaken>> {
        Box::pin(async move {
            let handed_over = self.endpoints.iter().map(async |endpoint| {
                let events: Vec<Event> =
                    events.iter().filter(|event| endpoint.wants(event)).cloned().collect();
                if events.is_empty() {
                    return Ok(());
                }
                let taken = self.lanes.call(&endpoint.name, Command::Take { events }).await;
                taken.map(drop).map_err(|error| NotTaken(format!("endpoint {}: {error}", endpoint.name)))
            });
            join_all(handed_over).await.into_iter().collect()
        })
    }
}
