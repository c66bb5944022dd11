//! The guest's processors: each a thread that runs the guest until it leaves for a device.
//!
//! Hostile: every port, address and value. An access to what is not there reads as ones and writes
//! nothing, as on a PC.
//!
//! ```text
//!  created ──run──▶ in the guest ──exit──▶ handled ──▶ in the guest …
//!              ▲         │└── shutdown, error ──▶ lost (terminal): the sandbox ends
//!              └─ let go ─┴─ asked to park ─▶ parked, while the machine is saved
//! ```

use std::sync::{Arc, Mutex};

use cofferdam_protocol::monitor_metrics::{DeviceKind, DeviceMetrics, QueueMetrics};
use cofferdam_virtio::device::DeviceType;
use cofferdam_virtio::figures::QueueFigures;
use cofferdam_virtio::mmio::{MmioTransport, TransportFigures};
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::console::Console;
use crate::figures::{ExitFigures, Figures};
use crate::locking::lock;
use crate::machine::kvm::Vm;
use crate::machine::layout::{MMIO_ADDRESS, MMIO_WINDOW_BYTES, SERIAL_PORT};
use crate::machine::vcpu_state::VcpuState;
use crate::parking::Parking;
use crate::slots::Slots;

const SERIAL_REGISTERS: u16 = 8;
/// The keyboard controller's command port, through which a PC is reset.
const KEYBOARD_COMMAND_PORT: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// What a guest can reach by ports and addresses.
pub struct Bus {
    /// The serial port. Held for one register access only; no other lock is taken meanwhile.
    pub console: Mutex<Console>,
    /// The virtio-mmio devices, at one window each. As the console's.
    pub devices: Vec<Mutex<MmioTransport>>,
    /// What these count.
    pub device_figures: Vec<TransportFigures>,
    /// The windows after them, for devices that come later.
    pub slots: Slots,
    /// Where exits are counted.
    pub figures: Arc<Figures>,
}

/// Why a guest cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GuestLost {
    /// A reset, a power-off or a triple fault: a guest of ours says each in the same way.
    #[error("The guest shut down or reset")]
    Shutdown,
    /// KVM could not emulate an instruction, or worse.
    #[error("KVM gave up on vCPU {vcpu} (internal error)")]
    Internal {
        /// Which.
        vcpu: u8,
    },
    /// The processor refused the guest's state.
    #[error("The processor refused to enter vCPU {vcpu} (hardware reason {reason:#x})")]
    Entry {
        /// Which.
        vcpu: u8,
        /// The processor's own number for why.
        reason: u64,
    },
    /// An exit that a guest of ours does not cause.
    #[error("vCPU {vcpu} stopped unexpectedly: {exit}")]
    Unexpected {
        /// Which.
        vcpu: u8,
        /// KVM's name for the exit.
        exit: String,
    },
    /// `KVM_RUN` failed.
    #[error("vCPU {vcpu} cannot run")]
    Run {
        /// Which.
        vcpu: u8,
        /// Why.
        source: kvm_ioctls::Error,
    },
}

/// Runs one vCPU until the guest is lost.
pub fn run(id: u8, mut vcpu: VcpuFd, bus: &Arc<Bus>, saving: &Saving) -> GuestLost {
    loop {
        if saving.parking.is_asked() {
            if let Err(lost) = finish_access(id, &mut vcpu, bus) {
                return lost;
            }
            saving.parking.park(id, VcpuState::save(&vcpu, &saving.cpuid, saving.vm.msrs()));
        }
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(source) => return GuestLost::Run { vcpu: id, source },
        };
        if let Some(lost) = handle(id, exit, bus) {
            return lost;
        }
    }
}

/// What it takes to write a vCPU down.
pub struct Saving {
    /// Where it stands still.
    pub parking: Arc<Parking>,
    /// What its CPUID instruction says.
    pub cpuid: CpuId,
    /// Its machine.
    pub vm: Arc<Vm>,
}

/// KVM completes an access that was handled here when the guest is entered the next time: enters
/// for that alone, until nothing is left to complete.
fn finish_access(id: u8, vcpu: &mut VcpuFd, bus: &Bus) -> Result<(), GuestLost> {
    vcpu.set_kvm_immediate_exit(1);
    let finished = loop {
        match vcpu.run() {
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => break Ok(()),
            Err(source) => break Err(GuestLost::Run { vcpu: id, source }),
            Ok(VcpuExit::Intr) => break Ok(()),
            Ok(exit) => {
                if let Some(lost) = handle(id, exit, bus) {
                    break Err(lost);
                }
            }
        }
    };
    vcpu.set_kvm_immediate_exit(0);
    finished
}

fn handle(id: u8, exit: VcpuExit<'_>, bus: &Bus) -> Option<GuestLost> {
    count(&exit, &bus.figures.exits);
    match exit {
        VcpuExit::IoOut(KEYBOARD_COMMAND_PORT, [KEYBOARD_RESET]) => {
            return Some(GuestLost::Shutdown);
        }
        VcpuExit::IoOut(port, data) => bus.port_write(port, data),
        VcpuExit::IoIn(port, data) => bus.port_read(port, data),
        VcpuExit::MmioRead(address, data) => bus.memory_read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.memory_write(address, data),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
        VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => return Some(GuestLost::Shutdown),
        VcpuExit::InternalError => return Some(GuestLost::Internal { vcpu: id }),
        VcpuExit::FailEntry(reason, _) => return Some(GuestLost::Entry { vcpu: id, reason }),
        other => {
            return Some(GuestLost::Unexpected { vcpu: id, exit: format!("{other:?}") });
        }
    }
    None
}

fn count(exit: &VcpuExit<'_>, figures: &ExitFigures) {
    let figure = match exit {
        VcpuExit::IoIn(..) => &figures.port_read,
        VcpuExit::IoOut(..) => &figures.port_write,
        VcpuExit::MmioRead(..) => &figures.mmio_read,
        VcpuExit::MmioWrite(..) => &figures.mmio_write,
        _ => &figures.other,
    };
    figure.add(1);
}

impl Bus {
    /// What the devices count, in the order of their windows.
    #[must_use]
    pub fn device_metrics(&self) -> Vec<DeviceMetrics> {
        let fixed = self.device_figures.iter().cloned().enumerate();
        let first = self.devices.len();
        let slots = self.slots.figures().map(|(index, figures)| (first + index, figures));
        fixed.chain(slots).map(|(slot, figures)| device_metrics(slot, &figures)).collect()
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if let (Some(register), [value]) = (serial_register(port), data) {
            lock(&self.console).write(register, *value);
        }
    }

    fn port_read(&self, port: u16, data: &mut [u8]) {
        match (serial_register(port), data) {
            (Some(register), [value]) => *value = lock(&self.console).read(register),
            (_, data) => data.fill(0xff),
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        let Some((index, offset)) = window(address) else { return };
        match self.devices.get(index) {
            Some(device) => lock(device).write(offset, data),
            None => self.slots.write(index - self.devices.len(), offset, data),
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        let Some((index, offset)) = window(address) else { return data.fill(0xff) };
        match self.devices.get(index) {
            Some(device) => lock(device).read(offset, data),
            None => self.slots.read(index - self.devices.len(), offset, data),
        }
    }
}

fn device_metrics(slot: usize, device: &TransportFigures) -> DeviceMetrics {
    let kind = match device.device {
        DeviceType::Net => DeviceKind::Net,
        DeviceType::Blk => DeviceKind::Blk,
        DeviceType::Rng => DeviceKind::Rng,
        DeviceType::Vsock => DeviceKind::Vsock,
        DeviceType::Fs => DeviceKind::Fs,
    };
    let queue = |figures: &Arc<QueueFigures>| QueueMetrics {
        notifications: figures.notifications.get(),
        buffers: figures.buffers.get(),
        bytes_to_guest: figures.bytes_to_guest.get(),
        bytes_from_guest: figures.bytes_from_guest.get(),
    };
    let queues = device.queues.iter().map(queue).collect();
    // There are a few windows.
    DeviceMetrics { kind, slot: slot as u32, interrupts: device.interrupts(), queues }
}

/// In which window an address lies, and where in it.
fn window(address: u64) -> Option<(usize, u64)> {
    let offset = address.checked_sub(MMIO_ADDRESS)?;
    let index = usize::try_from(offset / MMIO_WINDOW_BYTES).ok()?;
    Some((index, offset % MMIO_WINDOW_BYTES))
}

fn serial_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(SERIAL_PORT).filter(|register| *register < SERIAL_REGISTERS)?;
    u8::try_from(register).ok()
}
