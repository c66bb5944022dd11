//! The listeners: requests and streams. Only the host is served.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cofferdam_protocol::agent::service::create_agent;
use cofferdam_protocol::bounds::HOST_CID;
use cofferdam_protocol::stream::{STREAM_HEADER_BYTES, StreamHeader};
use futures_core::Stream;
use tokio::io::AsyncReadExt;
use tokio_vsock::{VsockListener, VsockStream};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::agent::Agent;
use crate::changes;
use crate::forwards;
use crate::layout::Layout;
use crate::names;
use crate::service::Service;

/// Between two attempts to take a connection when the first failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Connections from the host. Those from within the guest, over the vsock loopback, are closed:
/// that would be a container.
struct FromHost(VsockListener);

impl FromHost {
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<VsockStream>> {
        loop {
            match self.0.poll_accept(context) {
                Poll::Ready(Ok((stream, peer))) if u64::from(peer.cid()) == HOST_CID => {
                    return Poll::Ready(Ok(stream));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Stream for FromHost {
    type Item = io::Result<VsockStream>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<VsockStream>>> {
        self.poll(context).map(Some)
    }
}

/// Begins to serve requests in the background.
///
/// # Errors
/// When the server cannot begin.
pub(crate) async fn rpc(listener: VsockListener, agent: Agent) -> io::Result<()> {
    let service = create_agent(Arc::new(Service(agent)));
    let listener = Listener::new(FromHost(listener));
    let mut server = Server::new().add_listener(listener).register_service(service);
    server.start().await.map_err(io::Error::other)?;
    // It stops what it serves when it is dropped, and this one serves to the end.
    std::mem::forget(server);
    Ok(())
}

/// Takes stream connections for as long as the guest lives.
pub(crate) async fn streams(listener: VsockListener, agent: Agent) {
    let listener = FromHost(listener);
    loop {
        let accepted = std::future::poll_fn(|context| listener.poll(context)).await;
        match accepted {
            Ok(connection) => {
                tokio::spawn(take(connection, agent.clone()));
            }
            // Out of descriptors, say: others may be closed by the time of the next one.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Takes the connection on which the host tells what it changes; there is one at most.
pub(crate) async fn changes(listener: VsockListener, layout: Layout) {
    let listener = FromHost(listener);
    let accepted = std::future::poll_fn(|context| listener.poll(context)).await;
    // Without it nothing is missed but news: programs see changes when they look.
    let _ = accepted.and_then(|connection| changes::start(connection, &layout));
}

/// Takes the connections over which names can be asked, one after the other.
pub(crate) async fn names(listener: VsockListener) {
    let listener = FromHost(listener);
    loop {
        match std::future::poll_fn(|context| listener.poll(context)).await {
            Ok(connection) => {
                // Somebody else serves there, or the host hung up: the next may be luckier.
                let _ = names::serve(Box::new(connection)).await;
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Takes connections to the guest's loopback interface for as long as the guest lives. The host makes so
/// many at once and no more.
pub(crate) async fn forwards(listener: VsockListener) {
    let listener = FromHost(listener);
    loop {
        match std::future::poll_fn(|context| listener.poll(context)).await {
            Ok(connection) => drop(tokio::spawn(forwards::carry(connection))),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Reads the header that says what a connection is for. Without one it is closed.
async fn take(mut connection: VsockStream, agent: Agent) {
    let mut header = [0; STREAM_HEADER_BYTES];
    if connection.read_exact(&mut header).await.is_err() {
        return;
    }
    if let Ok(header) = StreamHeader::parse(header) {
        agent.connect(header, Box::new(connection));
    }
}
