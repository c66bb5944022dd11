//! Events, as containerd expects them: each once, in order, and again when containerd was away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc;
use tokio::sync::{mpsc, oneshot};

/// As many as wait while containerd is away: a shim has a handful of containers.
const QUEUE: usize = 2048;
/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often one is sent again: containerd's restart takes seconds.
const ATTEMPTS: u32 = 60;
/// Between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends events to containerd.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    namespace: String,
    /// None: nobody is told.
    queue: Option<mpsc::Sender<Item>>,
}

/// What stands in line.
#[derive(Debug)]
enum Item {
    Event(Box<Envelope>),
    /// Everything before it is sent.
    Flush(oneshot::Sender<()>),
}

/// The moment, as containerd writes it.
pub(crate) fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp {
        seconds: since.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    })
    .into()
}

/// A message with its type, as containerd names types.
pub(crate) fn any<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Only a message without a required field's value fails, and these have none.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

impl Publisher {
    /// Sends to an address of containerd's, from a task of its own. Without one nobody wants to be told.
    pub(crate) fn start(address: String, namespace: String) -> Self {
        if address.is_empty() {
            return Self::silent();
        }
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(address, items));
        Self { namespace, queue: Some(queue) }
    }

    /// Tells nobody.
    pub(crate) fn silent() -> Self {
        Self { namespace: String::new(), queue: None }
    }

    /// Puts an event in line.
    pub(crate) fn publish<M: MessageFull>(&self, topic: &str, event: &M) {
        let Some(queue) = &self.queue else { return };
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(any(event)).into(),
            ..Default::default()
        };
        if queue.try_send(Item::Event(Box::new(envelope))).is_err() {
            tracing::error!("{topic} is lost: containerd takes no events");
        }
    }

    /// Waits until everything is sent, or given up.
    pub(crate) async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (sender, done) = oneshot::channel();
        if queue.send(Item::Flush(sender)).await.is_ok() {
            let _ = done.await;
        }
    }
}

async fn send_all(address: String, mut items: mpsc::Receiver<Item>) {
    let mut client = None;
    while let Some(item) = items.recv().await {
        let envelope = match item {
            Item::Event(envelope) => *envelope,
            Item::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
        if !send(&address, &mut client, &request).await {
            tracing::error!("{topic} is lost: containerd does not answer");
        }
    }
}

async fn send(address: &str, client: &mut Option<EventsClient>, request: &ForwardRequest) -> bool {
    for _ in 0..ATTEMPTS {
        let sent = async {
            let connected = match client.take() {
                Some(client) => client,
                None => EventsClient::new(connect(address).await?),
            };
            let timeout = TIMEOUT.as_nanos().try_into().unwrap_or(i64::MAX);
            connected.forward(ttrpc::context::with_timeout(timeout), request).await?;
            *client = Some(connected);
            Ok::<(), ttrpc::Error>(())
        };
        match sent.await {
            Ok(()) => return true,
            Err(error) => tracing::warn!("containerd did not take an event: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

async fn connect(address: &str) -> ttrpc::Result<Client> {
    let url = match address.contains("://") {
        true => address.to_owned(),
        false => format!("unix://{address}"),
    };
    Client::connect(&url).await
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::events::task::TaskOOM;

    use super::*;

    #[test]
    fn an_event_has_the_type_that_containerd_knows() {
        let event = TaskOOM { container_id: "a".into(), ..Default::default() };
        assert_eq!(any(&event).type_url, "containerd.events.TaskOOM");
    }

    #[test]
    fn a_moment_is_seconds_and_nanoseconds() {
        let at = UNIX_EPOCH + Duration::new(7, 8);
        let stamp = timestamp(at).unwrap();
        assert_eq!((stamp.seconds, stamp.nanos), (7, 8));
    }
}
