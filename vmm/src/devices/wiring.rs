//! Putting a device into a window that the guest's kernel can look into, and taking it out again.
//!
//! ```text
//!  device half ─▶ slot (interrupt, notifications)
//!  worker let go of ─▶ slot emptied ─▶ its wires cut ─▶ a placeholder again
//! ```
//!
//! One that goes is gone whatever its guest does: a driver that still writes writes into nothing.

use std::io;
use std::sync::Arc;

use cofferdam_virtio::device::VirtioDevice;
use cofferdam_virtio::interrupt::Pulse;
use cofferdam_virtio::mmio::{MmioTransport, RegisterPage};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::machine::command_line;
use crate::machine::kvm::{KvmError, Vm};
use crate::machine::memory::Memory;
use crate::vcpu::Bus;

/// Why a device is not in the machine.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// The slots.
    #[error("The machine has no room for another device")]
    Full,
    /// Its events.
    #[error("The device's events cannot be made")]
    Events(#[source] io::Error),
    /// KVM.
    #[error("The device cannot be connected")]
    Kvm(#[from] KvmError),
}

/// What it takes.
#[derive(Clone)]
pub struct Wiring {
    /// Where interrupts and notifications are wired.
    pub vm: Arc<Vm>,
    /// Where the slots are.
    pub bus: Arc<Bus>,
    /// The guest's memory.
    pub memory: Arc<Memory>,
}

/// How a device's worker interrupts the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupting {
    /// By an event, which any thread may raise. KVM leaves the interrupt to a worker of the kernel's: two
    /// switches between threads more.
    ByEvent,
    /// By a call to KVM where somebody waits for it. For the devices' thread, whose filter lets it.
    AtOnce,
}

/// A device's pin at the interrupt controller.
struct Pin {
    vm: Arc<Vm>,
    irq: u32,
}

impl Pulse for Pin {
    fn pulse(&self) -> bool {
        self.vm.pulse(self.irq).is_ok()
    }
}

/// A slot for a device that comes.
pub struct FreeSlot {
    /// Its number among the slots.
    pub index: usize,
    page: RegisterPage,
}

/// A device that is in its slot.
pub struct Plugged {
    /// Where acknowledgements of interrupts end.
    unheard: EventFd,
}

impl Wiring {
    /// A slot without a device.
    ///
    /// # Errors
    /// When there is none.
    pub fn free_slot(&self) -> Result<FreeSlot, PlugError> {
        let (index, page) = self.bus.slots.free().ok_or(PlugError::Full)?;
        Ok(FreeSlot { index, page })
    }

    /// A slot's number among the virtio-mmio devices, as the guest's kernel counts them.
    #[must_use]
    pub fn number_of(&self, slot: usize) -> u32 {
        // Both are at most a few.
        (self.bus.devices.len() + slot) as u32
    }

    /// The slot of a device with this number, if it is in one.
    #[must_use]
    pub fn slot_of(&self, number: u32) -> Option<usize> {
        (number as usize).checked_sub(self.bus.devices.len())
    }

    /// Puts a device into a slot.
    ///
    /// # Errors
    /// When something refuses. The slot stays empty then.
    pub fn plug(
        &self,
        slot: FreeSlot,
        device: Box<dyn VirtioDevice>,
        interrupting: Interrupting,
    ) -> Result<Plugged, PlugError> {
        let number = self.number_of(slot.index);
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(PlugError::Events);
        let line = event()?;
        let irq = command_line::device_irq(number);
        self.vm.set_interrupt(&line, irq)?;
        let mut transport = MmioTransport::new(Arc::clone(&self.memory), device, line, slot.page)
            .map_err(PlugError::Events)?;
        if interrupting == Interrupting::AtOnce {
            transport = transport.with_pulse(Arc::new(Pin { vm: Arc::clone(&self.vm), irq }));
        }
        let unheard = event()?;
        self.vm.connect(&transport, command_line::device_address(number), &unheard)?;
        self.bus.slots.plug(slot.index, transport);
        Ok(Plugged { unheard })
    }

    /// Empties a slot. The worker must have let go of the device before: a vCPU that is resetting it holds its
    /// registers until then.
    ///
    /// # Errors
    /// When KVM keeps a wire of it.
    pub fn unplug(&self, slot: usize, plugged: &Plugged) -> Result<(), KvmError> {
        let Some(transport) = self.bus.slots.unplug(slot) else { return Ok(()) };
        let number = self.number_of(slot);
        let place = (command_line::device_address(number), command_line::device_irq(number));
        let cut = self.vm.disconnect(&transport, place, &plugged.unheard);
        transport.vacate();
        cut
    }
}
