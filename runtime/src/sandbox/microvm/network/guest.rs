//! A machine as its network is seen to: what its guest has is made what its namespace has.
//!
//! ```text
//!   added:    tap ─▶ redirections ─▶ monitor has the tap ─▶ guest has the interface
//!   changed:  tap ─▶ guest
//!   removed:  guest gives it up, or not ─▶ monitor lets go of the tap ─▶ redirection gone
//! ```
//!
//! Each step is written down in the record before it is taken, or undone when the next one fails.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use cofferdam_protocol::bounds::{MAX_MTU, MAX_QUEUE_PAIRS};
use cofferdam_protocol::control::AttachNetwork;
use cofferdam_protocol::network::InterfaceChange;
use oci_spec::runtime::Spec;

use super::record::{Attached, Given, NetworkRecord};
use super::tap::{self, Tap};
use super::{NetworkError, changing, devices, enter, read, redirect};
use crate::host::log::with_causes;
use crate::host::network_namespace::{self, NetworkNamespace};
use crate::host::process::ProcessIdentity;
use crate::host::user::User;
use crate::plan::network::{HostInterface, NetworkPlan};
use crate::plan::network_changes::{self, NetworkStep};
use crate::sandbox::microvm::agent::{Agent, AgentError, REQUEST_TIMEOUT};
use crate::sandbox::microvm::control;
use crate::sandbox::microvm::record::Record;

/// A machine and its namespace.
#[derive(Debug)]
pub(in super::super) struct Guest<'a> {
    /// Where its record and its socket are.
    pub(super) state_folder: &'a Path,
    pub(super) namespace: NetworkNamespace,
    /// It was restored, and knows of no interface.
    restored: bool,
}

/// What became of what was to be done.
pub(super) struct Followed {
    /// What was tried.
    pub(super) performed: Vec<(NetworkStep, Result<(), NetworkError>)>,
    /// What is still to be done and was not tried.
    pub(super) skipped: Vec<NetworkStep>,
}

impl<'a> Guest<'a> {
    /// The machine of a monitor; none, if it is an ordinary user's, which has no interfaces.
    pub(in super::super) fn of(
        state_folder: &'a Path,
        monitor: ProcessIdentity,
        restored: bool,
    ) -> Result<Option<Self>, NetworkError> {
        if User::current().is_ordinary() {
            return Ok(None);
        }
        let namespace = NetworkNamespace::of_process(monitor.pid).map_err(NetworkError::Enter)?;
        Ok(Some(Self { state_folder, namespace, restored }))
    }

    /// Moves the host's interfaces that the configuration names into the namespace.
    pub(in super::super) fn move_devices(&self, spec: &Spec) -> Result<(), NetworkError> {
        devices::move_into(spec, &self.namespace)
    }

    /// Does everything that is to be done since the last time, up to the first step that fails.
    pub(in super::super) fn follow(&self) -> Result<(), NetworkError> {
        let (mut record, steps) = self.look()?;
        steps.iter().try_for_each(|step| self.perform(step, &mut record))
    }

    /// Does what can be done since the last time but for some steps, whatever becomes of the others.
    pub(super) fn catch_up(&self, but: &[NetworkStep]) -> Result<Followed, NetworkError> {
        let (mut record, steps) = self.look()?;
        let (skipped, steps): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| but.contains(step));
        let perform = |step: NetworkStep| {
            let done = self.perform(&step, &mut record);
            (step, done)
        };
        Ok(Followed { performed: steps.into_iter().map(perform).collect(), skipped })
    }

    /// What is to be done, and what the guest has.
    fn look(&self) -> Result<(NetworkRecord, Vec<NetworkStep>), NetworkError> {
        let plan = enter(&self.namespace, read)?;
        let mut record = NetworkRecord::find(self.state_folder)?;
        self.tell(&plan, &mut record)?;
        let steps = network_changes::steps(&record.given(), &plan.interfaces);
        if self.restored && !steps.is_empty() {
            return Err(NetworkError::Restored);
        }
        Ok((record, steps))
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

    fn perform(&self, step: &NetworkStep, record: &mut NetworkRecord) -> Result<(), NetworkError> {
        match step {
            NetworkStep::Add(interface) => self.add(interface, record),
            NetworkStep::Change { interface, change } => self.change(interface, change, record),
            NetworkStep::Remove(index) => self.remove(*index, record),
        }
    }

    fn add(
        &self,
        interface: &HostInterface,
        record: &mut NetworkRecord,
    ) -> Result<(), NetworkError> {
        record.namespace = Some(self.namespace.id());
        let tap = enter(&self.namespace, || self.connect(interface, record));
        match tap.and_then(|tap| self.give(interface, &tap)) {
            Ok(given) => record.give(interface.index, given).save(self.state_folder),
            Err(error) => {
                self.take_back(interface.index, record);
                Err(error)
            }
        }
    }

    /// Makes a tap beside an interface, and a way between the two.
    fn connect(
        &self,
        interface: &HostInterface,
        record: &mut NetworkRecord,
    ) -> Result<Tap, NetworkError> {
        let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
        let tap = Tap::create(self.queues()?).map_err(NetworkError::Tap)?;
        tap.bring_up(&mut kernel, interface.plan.mtu)?;
        let index = interface.index;
        let shared = redirect::has_discipline(&mut kernel, index).map_err(NetworkError::Read)?;
        if !shared {
            // Before it is there, so that whoever deletes a container that was killed half-way
            // knows of it.
            record.attached.push(Attached { index, own_discipline: true, given: None });
            record.save(self.state_folder)?;
            redirect::add_discipline(&mut kernel, index).map_err(changing("a discipline"))?;
        }
        match redirect::add_filter(&mut kernel, index, tap.index) {
            Err(error) if error.is(std::io::ErrorKind::AlreadyExists) => {
                return Err(NetworkError::Taken(interface.plan.name.clone()));
            }
            added => added.map_err(changing("a redirection"))?,
        }
        if shared {
            record.attached.push(Attached { index, own_discipline: false, given: None });
            record.save(self.state_folder)?;
        }
        redirect::add_discipline(&mut kernel, tap.index).map_err(changing("a discipline"))?;
        redirect::add_filter(&mut kernel, tap.index, index).map_err(changing("a redirection"))?;
        Ok(tap)
    }

    /// One for each of the guest's processors, so that they send side by side. Those that come later
    /// share what there is.
    fn queues(&self) -> Result<usize, NetworkError> {
        let record = Record::load(self.state_folder).map_err(NetworkError::Record)?;
        Ok(usize::from(record.vm.size.vcpus).clamp(1, MAX_QUEUE_PAIRS))
    }

    /// Gives a tap to the monitor, and the interface to the guest.
    fn give(&self, interface: &HostInterface, tap: &Tap) -> Result<Given, NetworkError> {
        let plan = &interface.plan;
        let request = AttachNetwork { mac: plan.mac, mtu: MAX_MTU, uncut_udp: tap.uncut_udp };
        let folder = self.state_folder;
        let queues: Vec<_> = tap.queues.iter().map(File::as_fd).collect();
        let attached = control::attach_network(folder, request, &queues, REQUEST_TIMEOUT);
        let name = || plan.name.clone();
        let device = attached.map_err(|source| NetworkError::Attach { name: name(), source })?;
        let given = Given { device, tap: tap.index, plan: plan.clone() };
        if let Err(source) = self.ask(|agent| agent.add_interface(device, plan)) {
            warn_of(self.detach(&given));
            return Err(NetworkError::Configure { name: name(), source });
        }
        Ok(given)
    }

    /// What was made beside an interface leads nowhere: the error that matters is another.
    fn take_back(&self, index: u32, record: &mut NetworkRecord) {
        if let Some(attached) = record.remove(index) {
            warn_of(self.cut(&attached));
        }
        warn_of(record.save(self.state_folder));
    }

    fn change(
        &self,
        interface: &HostInterface,
        change: &InterfaceChange,
        record: &mut NetworkRecord,
    ) -> Result<(), NetworkError> {
        // There is a change of what it has alone.
        let Some(given) = record.given_mut(interface.index) else { return Ok(()) };
        if let Some(mtu) = change.mtu {
            enter(&self.namespace, || tap::set_mtu(given.tap, mtu))?;
        }
        let changed = self.ask(|agent| agent.change_interface(given.device, change));
        match &changed {
            Ok(()) => given.plan = interface.plan.clone(),
            // It may have some of what is new.
            Err(_) => given.plan.settings = given.plan.settings.and(&change.settings),
        }
        record.save(self.state_folder)?;
        let name = || interface.plan.name.clone();
        changed.map_err(|source| NetworkError::Reconfigure { name: name(), source })
    }

    /// Takes an interface away, whatever its guest says to that.
    fn remove(&self, index: u32, record: &mut NetworkRecord) -> Result<(), NetworkError> {
        let Some(attached) = record.attached(index) else { return Ok(()) };
        let given_up = match &attached.given {
            Some(given) => {
                let given_up = self.ask(|agent| agent.remove_interface(given.device));
                self.detach(given)?;
                let name = || given.plan.name.clone();
                given_up.map_err(|source| NetworkError::Remove { name: name(), source })
            }
            None => Ok(()),
        };
        self.cut(&attached)?;
        record.remove(index);
        record.save(self.state_folder)?;
        given_up
    }

    /// Has the monitor let go of a tap, which ends with that.
    fn detach(&self, given: &Given) -> Result<(), NetworkError> {
        let detached = control::detach_network(self.state_folder, given.device, REQUEST_TIMEOUT);
        let name = || given.plan.name.clone();
        detached.map_err(|source| NetworkError::Detach { name: name(), source })
    }

    /// Lets what comes in at an interface go where it would go without a guest.
    fn cut(&self, attached: &Attached) -> Result<(), NetworkError> {
        enter(&self.namespace, || {
            let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
            redirect::remove(&mut kernel, attached.index, attached.own_discipline)
                .map_err(changing("what is left"))
        })
    }

    fn ask(
        &self,
        request: impl FnOnce(&mut Agent) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let connection = control::connect_agent(self.state_folder, REQUEST_TIMEOUT);
        request(&mut Agent::new(connection.map_err(AgentError::Reach)?))
    }
}

/// Where another error matters more.
fn warn_of(undone: Result<(), NetworkError>) {
    if let Err(error) = undone {
        tracing::warn!("{}", with_causes(&error));
    }
}
