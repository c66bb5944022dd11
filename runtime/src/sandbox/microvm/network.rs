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
//! `/proc/PID/ns/net` and put interfaces into it. It is looked into after the hooks of `create`, and
//! again at `start`, since an engine may come with them at any time until then.
//!
//! What this is not: it decides nothing about addresses ([`crate::plan::network`] does), and moves
//! no frame (the monitor does).

mod devices;
mod forwards;
mod names;
mod record;
mod redirect;
mod sys;
mod tap;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use cofferdam_protocol::bounds::{MAX_INTERFACES, SPARE_INTERFACES};
use cofferdam_protocol::control::AttachNetwork;
use cofferdam_protocol::netlink::numbers::{GET_ADDRESS, GET_LINK, GET_NEIGHBOUR, GET_ROUTE};
use cofferdam_protocol::netlink::{Netlink, NetlinkError};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::agent::{Agent, AgentError, REQUEST_TIMEOUT};
use super::control::{self, ControlError};
use crate::host::log::with_causes;
use crate::host::network_namespace::{self, NetworkNamespace};
use crate::host::process::ProcessIdentity;
use crate::host::user::User;
use crate::plan::network::{HostInterface, NamespaceFacts, NetworkPlan};
use crate::spec::SpecError;
pub(super) use forwards::is_possible as forwarding_is_possible;
use record::{Attached, NetworkRecord};
use tap::Tap;

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
    /// The agent.
    #[error("The guest does not take the interface {name}")]
    Configure {
        /// Its name.
        name: String,
        /// Why not.
        source: AgentError,
    },
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
    let opened = NetworkNamespace::open(&path);
    opened.map(Some).map_err(|source| NetworkError::Open { path, source })
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

/// A machine as its network is seen to.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    /// Where its record and its socket are.
    pub(super) state_folder: &'a Path,
    /// Its monitor.
    pub(super) process: ProcessIdentity,
    /// It was restored, and knows of no interface.
    pub(super) restored: bool,
}

impl Guest<'_> {
    /// Moves the host's interfaces that the configuration names into the namespace.
    pub(super) fn move_devices(&self, spec: &Spec) -> Result<(), NetworkError> {
        devices::move_into(spec, &self.namespace()?)
    }

    fn namespace(&self) -> Result<NetworkNamespace, NetworkError> {
        NetworkNamespace::of_process(self.process.pid).map_err(NetworkError::Enter)
    }

    /// Gives the guest what has come into its namespace since the last time.
    pub(super) fn follow(&self) -> Result<(), NetworkError> {
        if User::current().is_ordinary() {
            return Ok(());
        }
        let namespace = self.namespace()?;
        let plan = enter(&namespace, read)?;
        let mut record = NetworkRecord::find(self.state_folder)?;
        self.tell(&plan, &mut record)?;
        let new: Vec<_> =
            plan.interfaces.iter().filter(|interface| !record.has(interface.index)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.restored {
            return Err(NetworkError::Restored);
        }
        record.namespace = Some(namespace.id());
        let before = record.attached.len();
        let added = new.into_iter().try_for_each(|interface| {
            let tap = enter(&namespace, || self.connect(interface, &mut record))?;
            self.give(interface, &tap)
        });
        if added.is_err() {
            self.take_back(namespace, record, before);
        }
        added
    }

    /// Tells the operator once what the guest does not get.
    fn tell(&self, plan: &NetworkPlan, record: &mut NetworkRecord) -> Result<(), NetworkError> {
        if plan.left_out == record.left_out {
            return Ok(());
        }
        for reason in &plan.left_out {
            tracing::warn!("The guest does not get {reason}");
        }
        record.left_out.clone_from(&plan.left_out);
        record.save(self.state_folder)
    }

    /// What was attached after the first ones leads nowhere: the error that matters is another.
    fn take_back(&self, namespace: NetworkNamespace, mut record: NetworkRecord, first: usize) {
        let kept = NetworkRecord { attached: record.attached[..first].to_vec(), ..record.clone() };
        record.attached.drain(..first);
        let removed = Remains { namespace, record }.remove();
        if let Err(error) = removed.and_then(|()| kept.save(self.state_folder)) {
            tracing::warn!("{}", with_causes(&error));
        }
    }

    /// Makes a tap beside an interface, and a way between the two.
    fn connect(
        &self,
        interface: &HostInterface,
        record: &mut NetworkRecord,
    ) -> Result<Tap, NetworkError> {
        let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
        let tap = Tap::create().map_err(NetworkError::Tap)?;
        tap.bring_up(&mut kernel, interface.plan.mtu)?;
        let index = interface.index;
        let shared = redirect::has_discipline(&mut kernel, index).map_err(NetworkError::Read)?;
        if !shared {
            // Before it is there, so that whoever deletes a container that was killed half-way
            // knows of it.
            record.attached.push(Attached { index, own_discipline: true });
            record.save(self.state_folder)?;
            redirect::add_discipline(&mut kernel, index).map_err(changing("a discipline"))?;
        }
        match redirect::add_filter(&mut kernel, index, tap.index) {
            Err(error) if error.is(io::ErrorKind::AlreadyExists) => {
                return Err(NetworkError::Taken(interface.plan.name.clone()));
            }
            added => added.map_err(changing("a redirection"))?,
        }
        if shared {
            record.attached.push(Attached { index, own_discipline: false });
            record.save(self.state_folder)?;
        }
        redirect::add_discipline(&mut kernel, tap.index).map_err(changing("a discipline"))?;
        redirect::add_filter(&mut kernel, tap.index, index).map_err(changing("a redirection"))?;
        Ok(tap)
    }

    /// Gives a tap to the monitor, and the interface to the guest.
    fn give(&self, interface: &HostInterface, tap: &Tap) -> Result<(), NetworkError> {
        let plan = &interface.plan;
        let request = AttachNetwork { mac: plan.mac, mtu: plan.mtu, uncut_udp: tap.uncut_udp };
        let folder = self.state_folder;
        let attached = control::attach_network(folder, request, tap.file.as_fd(), REQUEST_TIMEOUT);
        let name = || plan.name.clone();
        let refused = |source| NetworkError::Attach { name: name(), source };
        let device = attached.map_err(refused)?;
        let connection = control::connect_agent(folder, REQUEST_TIMEOUT).map_err(refused)?;
        Agent::new(connection)
            .add_interface(device, plan)
            .map_err(|source| NetworkError::Configure { name: name(), source })
    }
}

/// What is to be taken away of a namespace, once the monitor has ended and its taps with it.
#[derive(Debug)]
pub(super) struct Remains {
    namespace: NetworkNamespace,
    record: NetworkRecord,
}

impl Remains {
    /// What there is. To be called while the monitor may live: a namespace that nobody else keeps
    /// goes with it.
    pub(super) fn find(
        state_folder: &Path,
        process: Option<ProcessIdentity>,
        spec: impl FnOnce() -> Option<Spec>,
    ) -> Result<Option<Self>, NetworkError> {
        let record = NetworkRecord::find(state_folder)?;
        if record.attached.is_empty() {
            return Ok(None);
        }
        let of_monitor = process.and_then(|process| NetworkNamespace::of_process(process.pid).ok());
        let is_it = |found: &NetworkNamespace| Some(found.id()) == record.namespace;
        let of_path = || NetworkNamespace::open(&path(&spec()?)?).ok();
        let namespace = of_monitor.filter(is_it).or_else(|| of_path().filter(is_it));
        Ok(namespace.map(|namespace| Self { namespace, record }))
    }

    /// Takes it away.
    pub(super) fn remove(self) -> Result<(), NetworkError> {
        enter(&self.namespace, || {
            let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
            for attached in &self.record.attached {
                redirect::remove(&mut kernel, attached.index, attached.own_discipline)
                    .map_err(changing("what is left"))?;
            }
            Ok(())
        })
    }
}

/// A network that is taken away when this is dropped before its release.
#[derive(Debug, Default)]
pub(super) struct Connected {
    remains: Option<Remains>,
}

impl Connected {
    /// What [`Guest::follow`] has made so far.
    pub(super) fn of(guest: &Guest<'_>) -> Result<Self, NetworkError> {
        let remains = Remains::find(guest.state_folder, Some(guest.process), || None)?;
        Ok(Self { remains })
    }

    /// Lets it stay.
    pub(super) fn release(mut self) {
        self.remains = None;
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.remains.take().map(Remains::remove) {
            tracing::warn!("{}", with_causes(&error));
        }
    }
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
