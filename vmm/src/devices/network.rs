//! Network devices that come and go while the guest runs: from a tap to a window that the guest's
//! kernel can look into, and back.
//!
//! ```text
//!  request, tap ─▶ device half ─▶ slot (interrupt, notifications)
//!             └──▶ worker, served by this thread
//!  request ─▶ worker and tap closed ─▶ slot emptied ─▶ its wires cut ─▶ a placeholder again
//! ```
//!
//! One that goes is gone whatever its guest does: a driver that still writes writes into nothing.
//!
//! No thread of its own: it would have to be there from the boot on, since none can be made behind the
//! filters, and costs each guest half a millisecond, with interfaces or without. A worker does so much
//! in one go, and then others have their turn.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_protocol::control::AttachNetwork;
use cofferdam_virtio::mmio::MmioTransport;
use cofferdam_virtio::net::{self, Net, NetConfig};
use cofferdam_virtio::poll::{Poller, Readiness, Token};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::machine::command_line;
use crate::machine::kvm::{KvmError, Vm};
use crate::machine::memory::Memory;
use crate::vcpu::Bus;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum AttachNetworkError {
    /// The slots.
    #[error("The machine has no room for another network device")]
    Full,
    /// The device.
    #[error("The network device cannot be made")]
    Device(#[from] net::OpenError),
    /// Its interrupt.
    #[error("The network device has no interrupt")]
    Interrupt(#[source] std::io::Error),
    /// KVM.
    #[error("The network device cannot be connected")]
    Kvm(#[from] KvmError),
}

/// The devices, and what it takes to make one.
pub struct Network {
    /// Where interrupts and notifications are wired.
    pub vm: Arc<Vm>,
    /// Where the slots are.
    pub bus: Arc<Bus>,
    /// The guest's memory.
    pub memory: Arc<Memory>,
    /// Where they wait.
    pub poller: Arc<Poller>,
    /// Whose events are the first's; the others' come after it.
    pub first_owner: u32,
    /// Those that there are, by their slots.
    pub plugged: BTreeMap<usize, Plugged>,
}

/// A device that there is.
pub struct Plugged {
    worker: Net,
    /// Where acknowledgements of interrupts end.
    unheard: EventFd,
}

impl Network {
    /// Deals with an event of one of them.
    pub fn handle(&mut self, token: Token, readiness: Readiness) {
        let index = token.owner.checked_sub(self.first_owner);
        // None: it has gone since it was told of.
        if let Some(plugged) = index.and_then(|index| self.plugged.get_mut(&(index as usize))) {
            plugged.worker.handle(token, readiness);
        }
    }

    /// Makes a device of a tap's queues; its number among the virtio-mmio devices.
    ///
    /// # Errors
    /// When there is no room, or something refuses. A slot that was not filled stays empty.
    pub fn attach(
        &mut self,
        request: AttachNetwork,
        tap: Vec<OwnedFd>,
    ) -> Result<u32, AttachNetworkError> {
        let (slot, page) = self.bus.slots.free().ok_or(AttachNetworkError::Full)?;
        // Both are at most a few.
        let number = (self.bus.devices.len() + slot) as u32;
        let AttachNetwork { mac, mtu, uncut_udp } = request;
        let owner = self.first_owner + slot as u32;
        let config = NetConfig { mac, mtu, uncut_udp };
        let (device, worker) = net::open(Arc::clone(&self.poller), owner, tap, config)?;
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let line = event().map_err(AttachNetworkError::Interrupt)?;
        self.vm.set_interrupt(&line, command_line::device_irq(number))?;
        let device = Box::new(device);
        let transport = MmioTransport::new(Arc::clone(&self.memory), device, line, page)
            .map_err(AttachNetworkError::Interrupt)?;
        let unheard = event().map_err(AttachNetworkError::Interrupt)?;
        self.vm.connect(&transport, command_line::device_address(number), &unheard)?;
        self.bus.slots.plug(slot, transport);
        self.plugged.insert(slot, Plugged { worker, unheard });
        Ok(number)
    }

    /// Takes the device of this number away. One that is not there is taken away already.
    ///
    /// # Errors
    /// When KVM keeps a wire of it; its tap is let go of all the same.
    pub fn detach(&mut self, number: u32) -> Result<(), AttachNetworkError> {
        let slot = (number as usize).checked_sub(self.bus.devices.len());
        let Some((slot, plugged)) = slot.and_then(|slot| Some((slot, self.plugged.remove(&slot)?)))
        else {
            return Ok(());
        };
        // First: a vCPU that is resetting the device holds its registers until the worker lets go.
        plugged.worker.close();
        let Some(transport) = self.bus.slots.unplug(slot) else { return Ok(()) };
        let place = (command_line::device_address(number), command_line::device_irq(number));
        let cut = self.vm.disconnect(&transport, place, &plugged.unheard);
        transport.vacate();
        Ok(cut?)
    }
}
