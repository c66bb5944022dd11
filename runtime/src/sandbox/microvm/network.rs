//! The network of a microVM: each interface of the container's network namespace on the host is
//! served by a tap beside it, and the guest has one like it.
//!
//! ```text
//!   the engine's               ┌── the container's network namespace ──┐      guest
//!   bridge ═══ veth pair ═══ eth0 ──ingress: redirect──▶ tap ══ monitor ══ eth0
//!                              ◀──redirect :ingress────
//! ```
//!
//! The namespace is the engine's, or made with the monitor, whose own it is then: hooks find it at
//! `/proc/PID/ns/net` and put interfaces into it. It is looked into after the hooks of `create`, at
//! `start`, and from then on whenever something in it changes ([`watcher`]).
//!
//! What this is not: it decides nothing about addresses ([`crate::plan::network`] does) or about what
//! is to be done ([`crate::plan::network_changes`]), and moves no frame (the monitor does).
//!
//! Hostile: what the agent answers. It says whether something was done, and nothing about the host.

mod devices;
mod forwards;
mod guest;
mod names;
mod record;
mod redirect;
mod remains;
mod sys;
mod tap;
mod watcher;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::bounds::{MAX_INTERFACES, SPARE_INTERFACES};
use cofferdam_protocol::netlink::numbers::{GET_ADDRESS, GET_LINK, GET_NEIGHBOUR, GET_ROUTE};
use cofferdam_protocol::netlink::{Netlink, NetlinkError};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::agent::AgentError;
use super::control::ControlError;
use crate::host::network_namespace::{self, NetworkNamespace};
use crate::host::user::User;
use crate::plan::network::{NamespaceFacts, NetworkPlan};
use crate::spec::SpecError;
use record::NetworkRecord;

pub(super) use forwards::{forward, is_possible as forwarding_is_possible};
pub(super) use guest::Guest;
pub(super) use remains::{Connected, Remains, of_live};
pub(super) use watcher::{wait_for_end, watch};

/// Why a guest has not the network that it should.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `linux.namespaces[].path`.
    #[error("Cannot open the network namespace {}", .path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is at the path is something else.
    #[error(
        "{} is no network namespace: it was deleted, or has never been one", .0.display()
    )]
    NotOne(PathBuf),
    /// It is the host's.
    #[error(
        "The network namespace {} is the host's own: a guest has a network stack of its own",
        .0.display()
    )]
    Hosts(PathBuf),
    /// It cannot be entered.
    #[error("Cannot enter the container's network namespace")]
    Enter(#[source] io::Error),
    /// It cannot be read.
    #[error("Cannot read the container's network namespace")]
    Read(#[source] NetlinkError),
    /// It cannot be changed.
    #[error("Cannot set up {what} in the container's network namespace")]
    Change {
        /// What of it.
        what: &'static str,
        /// Why not.
        source: NetlinkError,
    },
    /// `linux.netDevices`.
    #[error("linux.netDevices: there is no interface {0}")]
    NoDevice(String),
    /// There are too many.
    #[error(
        "The network namespace has {found} interfaces, and the microVM has room for {room}: \
         {SPARE_INTERFACES} more than at its start, and {MAX_INTERFACES} in all"
    )]
    TooMany {
        /// In the namespace.
        found: usize,
        /// In the machine.
        room: usize,
    },
    /// Another one's.
    #[error(
        "The interface {0} leads to another microVM: a network namespace can be that of one at a time"
    )]
    Taken(String),
    /// The tap.
    #[error("Cannot make a tap (/dev/net/tun)")]
    Tap(#[source] io::Error),
    /// The monitor.
    #[error("The monitor does not take the interface {name}")]
    Attach {
        /// Its name.
        name: String,
        /// Why not.
        source: ControlError,
    },
    /// The monitor.
    #[error("The monitor does not let go of the interface {name}")]
    Detach {
        /// Its name.
        name: String,
        /// Why not.
        source: ControlError,
    },
    /// The agent.
    #[error("The guest does not take the interface {name}")]
    Configure {
        /// Its name.
        name: String,
        /// Why not.
        source: AgentError,
    },
    /// The agent.
    #[error("The guest does not take a change of the interface {name}")]
    Reconfigure {
        /// Its name.
        name: String,
        /// Why not.
        source: AgentError,
    },
    /// The agent. The interface leads nowhere all the same.
    #[error("The guest does not give the interface {name} up, which is taken from it")]
    Remove {
        /// Its name.
        name: String,
        /// Why not.
        source: AgentError,
    },
    /// Whoever is to follow it.
    #[error("The container's network namespace cannot be watched")]
    Watch(#[source] io::Error),
    /// Whoever follows it.
    #[error("Who watches the container's network namespace does not end")]
    Watched,
    /// The container's configuration.
    #[error("The container's configuration cannot be read")]
    Spec(#[source] SpecError),
    /// The engine's name server.
    #[error("The name server in the container's network namespace cannot be asked")]
    Names(#[source] io::Error),
    /// The monitor.
    #[error("The monitor does not carry questions for names")]
    ServeNames(#[source] ControlError),
    /// The state folder.
    #[error("The record of the microVM's network cannot be written or read")]
    Record(#[source] io::Error),
    /// A restored one.
    #[error(
        "The container goes on from a microVM without network interfaces, and its network namespace \
         has some: restore it into one without"
    )]
    Restored,
}

/// The namespace that the configuration names, if it names one.
pub(super) fn named(spec: &Spec) -> Result<Option<NetworkNamespace>, NetworkError> {
    let Some(path) = path(spec) else { return Ok(None) };
    if network_namespace::is_hosts(&path) {
        return Err(NetworkError::Hosts(path));
    }
    match NetworkNamespace::open(&path) {
        // What is left at the path of one that was deleted is an empty file.
        Ok(namespace) if !namespace.is_one() => Err(NetworkError::NotOne(path)),
        opened => opened.map(Some).map_err(|source| NetworkError::Open { path, source }),
    }
}

fn path(spec: &Spec) -> Option<PathBuf> {
    let list = spec.linux().as_ref()?.namespaces().as_deref()?;
    let network = list.iter().find(|entry| entry.typ() == LinuxNamespaceType::Network)?;
    network.path().clone().filter(|path| !path.as_os_str().is_empty())
}

/// Whether the machine has interfaces before any hook or engine puts some there.
pub(super) fn is_connected(spec: &Spec) -> bool {
    path(spec).is_some() || devices::count(spec) > 0
}

/// How many interfaces a machine is to have room for. An ordinary user can have none.
pub(super) fn room(spec: &Spec, namespace: Option<&NetworkNamespace>) -> Result<u8, NetworkError> {
    if User::current().is_ordinary() {
        return Ok(0);
    }
    let there =
        namespace.map_or(Ok(0), |namespace| enter(namespace, read).map(|plan| plan.count()));
    let found = there? + devices::count(spec);
    let room = MAX_INTERFACES.into();
    if found > room {
        return Err(NetworkError::TooMany { found, room });
    }
    // At most MAX_INTERFACES.
    Ok((found as u8 + SPARE_INTERFACES).min(MAX_INTERFACES))
}

/// Whether a machine has interfaces.
pub(super) fn is_there(state_folder: &Path) -> Result<bool, NetworkError> {
    Ok(!NetworkRecord::find(state_folder)?.attached.is_empty())
}

fn enter<T>(
    namespace: &NetworkNamespace,
    act: impl FnOnce() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    namespace.inside(act).map_err(NetworkError::Enter)?
}

/// What the namespace that the caller is in has. Most have nothing, and are asked for no more.
fn read() -> Result<NetworkPlan, NetworkError> {
    let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
    let mut facts =
        NamespaceFacts { links: dump::<16>(&mut kernel, GET_LINK)?, ..NamespaceFacts::default() };
    if NetworkPlan::new(&facts).count() > 0 {
        facts.addresses = dump::<8>(&mut kernel, GET_ADDRESS)?;
        facts.routes = dump::<12>(&mut kernel, GET_ROUTE)?;
        facts.neighbours = dump::<12>(&mut kernel, GET_NEIGHBOUR)?;
    }
    Ok(NetworkPlan::new(&facts))
}

/// Everything of a kind, of every address family.
fn dump<const FIXED: usize>(
    kernel: &mut Netlink<File>,
    kind: u16,
) -> Result<Vec<cofferdam_protocol::netlink::Answer>, NetworkError> {
    kernel.dump(kind, &[0; FIXED]).map_err(NetworkError::Read)
}

fn changing(what: &'static str) -> impl Fn(NetlinkError) -> NetworkError {
    move |source| NetworkError::Change { what, source }
}
