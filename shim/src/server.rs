//! The shim proper: serves the Task and Sandbox services on its socket until containerd says that it is over.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use containerd_shim_protos::ttrpc::r#async::{Server, Service as Methods};
use rustix::process::set_child_subreaper;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::arguments::Flags;
use crate::events::Publisher;
use crate::log;
use crate::reaper::Reaper;
use crate::shared::Shared;
use crate::socket::Address;
use crate::task::Service;

/// The service under its two names: the messages are the same, and containerd asks for version 3 only
/// where the shim announced it.
const SERVICE_V3: &str = "containerd.task.v3.Task";
const SERVICE_V2: &str = "containerd.task.v2.Task";

/// Why the server ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// Standard input is no socket.
    #[error("Standard input is no listening socket: start is what containerd calls")]
    Socket(#[source] io::Error),
    /// The process cannot be what it has to be.
    #[error("Cannot prepare the server")]
    Prepare(#[from] io::Error),
    /// The connection.
    #[error("Cannot serve the shim's services")]
    Serve(#[from] ttrpc::Error),
}

/// Serves on the socket that is standard input.
///
/// # Errors
/// It cannot be served.
pub(crate) fn serve(flags: &Flags) -> Result<(), ServeError> {
    log::start(flags.debug);
    let listener = take_listener().map_err(ServeError::Socket)?;
    let path = listener.local_addr().map_err(ServeError::Socket)?;
    let address = path.as_pathname().map(|path| Address::from_url(&path.display().to_string()));
    // The bundle that it was started in is taken away before it ends.
    std::env::set_current_dir("/")?;
    set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)?;
    let events = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = events.block_on(run(flags, listener));
    if let Some(address) = address {
        address.remove();
    }
    served
}

fn take_listener() -> io::Result<UnixListener> {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(listener)
}

async fn run(flags: &Flags, listener: UnixListener) -> Result<(), ServeError> {
    let reaper = Arc::new(Reaper::default());
    collect_on_signals(reaper.clone())?;
    let events_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Publisher::start(events_address, flags.namespace.clone());
    let (shared, over) = (
        Arc::new(Shared { namespace: flags.namespace.clone(), reaper, events }),
        Arc::new(Notify::new()),
    );
    let service = Arc::new(Service::new(shared.clone(), over.clone()));
    let mut server = Server::new()
        .add_listener(Listener::try_from(listener)?)
        .register_service(under_both_names(service.clone()))
        .register_service(create_sandbox(service));
    server.start().await?;
    over.notified().await;
    // The answer to the last call is on its way.
    server.shutdown().await?;
    shared.events.flush().await;
    Ok(())
}

fn under_both_names(service: Arc<dyn Task + Send + Sync>) -> HashMap<String, Methods> {
    let mut services = HashMap::new();
    for name in [SERVICE_V2, SERVICE_V3] {
        services
            .extend(create_task(service.clone()).into_values().map(|one| (name.to_owned(), one)));
    }
    services
}

/// SIGTERM is not for the shim to decide on: a machine that shuts down sends it, and the containers are
/// stopped by their engine.
fn collect_on_signals(reaper: Arc<Reaper>) -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    let mut ignored = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    tokio::spawn(async move {
        let [terminate, interrupt] = &mut ignored;
        loop {
            tokio::select! {
                _ = children.recv() => reaper.collect(),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    });
    Ok(())
}
