//! KVM's part: is everything there that a guest needs, and one VM of it.

use std::os::fd::OwnedFd;

use cofferdam_virtio::mmio::{
    INTERRUPT_ACK_OFFSET, MmioTransport, QUEUE_NOTIFY_OFFSET, RegisterPages, USED_BUFFER_ACK,
};
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::{Cap, Error, IoEventAddress, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::layout::{KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS, MMIO_ADDRESS};
use super::memory::Memory;
use super::quirks::Quirks;
use super::{cpuid, registers, sys};

/// What a guest of ours needs of KVM, and what for.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "guest memory"),
    (Cap::ReadonlyMem, "device registers that are read without leaving the guest"),
    (Cap::SetTssAddr, "real mode on Intel"),
    (Cap::Irqchip, "interrupt controllers in the kernel"),
    (Cap::Irqfd, "interrupts by event descriptor"),
    (Cap::Ioeventfd, "device notifications by event descriptor"),
    (Cap::ExtCpuid, "processor features"),
    (Cap::MpState, "more than one processor"),
    (Cap::TscDeadlineTimer, "the deadline timer"),
];

/// The memory slot of the devices' registers: beyond those of guest memory, which count from 0.
const REGISTERS_SLOT: u32 = 10_000;

/// Why KVM cannot serve, or a step with it failed.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// Another version of the interface than the one that has been frozen since Linux 2.6.22.
    #[error("KVM speaks version {0} of its interface, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// Something that a guest needs is missing.
    #[error("KVM lacks {what} ({capability})")]
    Missing {
        /// What a guest would use it for.
        what: &'static str,
        /// The capability's name.
        capability: String,
    },
    /// The VM could not be made.
    #[error("KVM makes no VM")]
    CreateVm(#[source] Error),
    /// Its interrupt controllers could not be made.
    #[error("KVM makes no interrupt controllers")]
    CreateInterruptControllers(#[source] Error),
    /// Its interrupt controllers do not tell their state.
    #[error("KVM does not tell or take the state of an interrupt controller")]
    InterruptController(#[source] Error),
    /// The clock.
    #[error("KVM does not tell or take the guest's clock")]
    Clock(#[source] Error),
    /// The list of registers is not to be had.
    #[error("KVM does not list the processor's model-specific registers")]
    RegisterList(#[source] Error),
    /// A place for KVM's own pages was refused.
    #[error("KVM refuses the addresses of its own pages")]
    OwnPages(#[source] Error),
    /// Guest memory was refused.
    #[error("KVM refuses the guest's memory")]
    Memory(#[source] Error),
    /// The host's processor features are not to be had.
    #[error("KVM does not say what the processor supports")]
    SupportedCpuid(#[source] Error),
    /// A vCPU could not be made.
    #[error("KVM makes no vCPU {id}")]
    CreateVcpu {
        /// Its number.
        id: u8,
        /// Why.
        source: Error,
    },
    /// A vCPU's state was refused.
    #[error("KVM refuses a vCPU's {what}")]
    SetVcpu {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Error,
    },
    /// The list of registers could not be made.
    #[error("The list of model-specific registers cannot be made")]
    Registers(#[source] vmm_sys_util::fam::Error),
    /// An interrupt was refused.
    #[error("KVM does not raise interrupt {irq}")]
    Pulse {
        /// Which.
        irq: u32,
        /// Why.
        source: Error,
    },
    /// An event descriptor was refused.
    #[error("KVM refuses an event descriptor for {what}")]
    EventDescriptor {
        /// What it is for.
        what: &'static str,
        /// Why.
        source: Error,
    },
}

/// `/dev/kvm` of a host where everything is there.
#[derive(Debug)]
pub struct CapableKvm {
    kvm: Kvm,
}

impl CapableKvm {
    /// Checks what is behind a descriptor of `/dev/kvm`.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn check(descriptor: OwnedFd) -> Result<Self, KvmError> {
        let kvm = sys::kvm_from(descriptor);
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmError::ApiVersion(version));
        }
        for (capability, what) in NEEDED {
            if !kvm.check_extension(capability) {
                let capability = format!("{capability:?}");
                return Err(KvmError::Missing { what, capability });
            }
        }
        Ok(Self { kvm })
    }

    /// Makes a VM with interrupt controllers, and nothing else in it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        let vm = self.kvm.create_vm().map_err(KvmError::CreateVm)?;
        vm.set_identity_map_address(KVM_IDENTITY_MAP_ADDRESS).map_err(KvmError::OwnPages)?;
        vm.set_tss_address(KVM_TSS_ADDRESS).map_err(KvmError::OwnPages)?;
        vm.create_irq_chip().map_err(KvmError::CreateInterruptControllers)?;
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::SupportedCpuid)?;
        let msrs = self.kvm.get_msr_index_list().map_err(KvmError::RegisterList)?;
        Ok(Vm { vm, supported, msrs: msrs.as_slice().to_vec() })
    }
}

/// A virtual machine in KVM.
#[derive(Debug)]
pub struct Vm {
    vm: VmFd,
    supported: CpuId,
    msrs: Vec<u32>,
}

/// What of a VM is none of its vCPUs': the interrupt controllers that they share, and the clock.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    /// The two PICs and the IOAPIC, in the order of [`CHIPS`].
    chips: [kvm_irqchip; CHIPS.len()],
    clock: kvm_clock_data,
}

/// The interrupt controllers of a PC.
const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl Vm {
    /// Gives the guest the first regions of its memory, which must live as long as the VM.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_memory(&self, memory: &Memory, regions: usize) -> Result<(), KvmError> {
        sys::register_memory(&self.vm, memory, regions).map_err(KvmError::Memory)
    }

    /// Gives the guest a part of its memory that it did not begin with.
    ///
    /// # Errors
    /// When it is no part, or KVM refuses it.
    pub fn add_memory(
        &self,
        slot: u32,
        address: u64,
        bytes: u64,
        memory: &Memory,
    ) -> Result<(), KvmError> {
        sys::add_memory(&self.vm, slot, address, bytes, memory).map_err(KvmError::Memory)
    }

    /// Takes such a part away.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn remove_memory(&self, slot: u32) -> Result<(), KvmError> {
        sys::remove_memory(&self.vm, slot).map_err(KvmError::Memory)
    }

    /// Lets the guest read the devices' registers by itself, from the first window on. Writes
    /// leave the guest as before.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_registers(&self, pages: &RegisterPages) -> Result<(), KvmError> {
        sys::add_registers(&self.vm, REGISTERS_SLOT, MMIO_ADDRESS, pages).map_err(KvmError::Memory)
    }

    /// An event on `line` raises the interrupt.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_interrupt(&self, line: &EventFd, irq: u32) -> Result<(), KvmError> {
        let failed = |source| KvmError::EventDescriptor { what: "an interrupt", source };
        self.vm.register_irqfd(line, irq).map_err(failed)
    }

    /// Raises an interrupt and lets go of its line, as an event on it does.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn pulse(&self, irq: u32) -> Result<(), KvmError> {
        let failed = |source| KvmError::Pulse { irq, source };
        self.vm.set_irq_line(irq, true).map_err(failed)?;
        self.vm.set_irq_line(irq, false).map_err(failed)
    }

    /// A write of `value` to an address raises the event instead of leaving the guest.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_notification(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        let failed = |source| KvmError::EventDescriptor { what: "a notification", source };
        self.vm.register_ioevent(event, &IoEventAddress::Mmio(address), value).map_err(failed)
    }

    /// Wires what a device's driver writes most: notifications, to their queues, and the
    /// acknowledgement of a queue's interrupt, to an event that nobody hears.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn connect(
        &self,
        transport: &MmioTransport,
        address: u64,
        unheard: &EventFd,
    ) -> Result<(), KvmError> {
        for (queue, event) in transport.notifiers() {
            self.set_notification(event, address + QUEUE_NOTIFY_OFFSET, queue)?;
        }
        self.set_notification(unheard, address + INTERRUPT_ACK_OFFSET, USED_BUFFER_ACK)
    }

    /// Undoes [`Self::set_interrupt`] and [`Self::connect`] for a device that goes.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn disconnect(
        &self,
        transport: &MmioTransport,
        (address, irq): (u64, u32),
        unheard: &EventFd,
    ) -> Result<(), KvmError> {
        let failed = |source| KvmError::EventDescriptor { what: "a device that goes", source };
        let mut events: Vec<_> = transport
            .notifiers()
            .map(|(queue, event)| (event, QUEUE_NOTIFY_OFFSET, queue))
            .collect();
        events.push((unheard, INTERRUPT_ACK_OFFSET, USED_BUFFER_ACK));
        for (event, offset, value) in events {
            let address = IoEventAddress::Mmio(address + offset);
            self.vm.unregister_ioevent(event, &address, value).map_err(failed)?;
        }
        self.vm.unregister_irqfd(transport.line(), irq).map_err(failed)
    }

    /// The interrupts that wait in the first controller, one bit for each line.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn pending_interrupts(&self) -> Result<u8, KvmError> {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_PIC_MASTER, ..Default::default() };
        self.vm.get_irqchip(&mut chip).map_err(KvmError::InterruptController)?;
        Ok(sys::pending_of(&chip))
    }

    /// Writes down what the vCPUs share, while none of them runs.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn save(&self) -> Result<VmState, KvmError> {
        let mut chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut chips {
            self.vm.get_irqchip(chip).map_err(KvmError::InterruptController)?;
        }
        Ok(VmState { chips, clock: self.vm.get_clock().map_err(KvmError::Clock)? })
    }

    /// Takes over what [`Self::save`] gave, once the vCPUs are there. The guest's clock goes on
    /// from where it was.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        for (chip, chip_id) in state.chips.iter().zip(CHIPS) {
            let chip = kvm_irqchip { chip_id, ..*chip };
            self.vm.set_irqchip(&chip).map_err(KvmError::InterruptController)?;
        }
        let clock = kvm_clock_data { clock: state.clock.clock, ..Default::default() };
        self.vm.set_clock(&clock).map_err(KvmError::Clock)
    }

    /// The registers of the processor's model that make up a vCPU's state.
    #[must_use]
    pub fn msrs(&self) -> &[u32] {
        &self.msrs
    }

    /// What a vCPU's CPUID instruction says.
    #[must_use]
    pub fn cpuid(&self, id: u8, vcpus: u8) -> CpuId {
        cpuid::for_vcpu(&self.supported, id, vcpus, Quirks::of_this_host())
    }

    /// Makes one vCPU of `vcpus`; it waits to be started by the first.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, id: u8, vcpus: u8) -> Result<VcpuFd, KvmError> {
        let vcpu = self
            .vm
            .create_vcpu(u64::from(id))
            .map_err(|source| KvmError::CreateVcpu { id, source })?;
        vcpu.set_cpuid2(&self.cpuid(id, vcpus)).map_err(setting("features"))?;
        let msrs = registers::firmware_msrs().map_err(KvmError::Registers)?;
        vcpu.set_msrs(&msrs).map_err(setting("model-specific registers"))?;
        self.enable_extended_state(&vcpu)?;
        Ok(vcpu)
    }

    /// Turns on all that `XSAVE` can save. A kernel does that itself; but where KVM does not see
    /// it (an emulated host processor), CPUID goes on to tell the size of the reset state.
    fn enable_extended_state(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        let Some(supported) = cpuid::extended_state(&self.supported) else { return Ok(()) };
        let mut registers = vcpu.get_xcrs().map_err(setting("extended control registers"))?;
        registers.xcrs[0].value = supported;
        vcpu.set_xcrs(&registers).map_err(setting("extended control registers"))
    }
}

/// Sets a processor to run probes in ring 0: as a kernel would, with an interrupt table and the
/// extended state on.
///
/// # Errors
/// When KVM refuses a register.
pub fn set_ring0(vcpu: &VcpuFd, idt_address: u64, idt_bytes: usize) -> Result<(), KvmError> {
    let mut system = vcpu.get_sregs().map_err(setting("system registers"))?;
    registers::set_long_mode(&mut system);
    registers::set_kernel_features(&mut system);
    system.idt.base = idt_address;
    system.idt.limit = (idt_bytes - 1) as u16;
    vcpu.set_sregs(&system).map_err(setting("system registers"))
}

/// Sets the boot processor to the kernel's first instruction.
///
/// # Errors
/// When KVM refuses a register.
pub fn set_entry(vcpu: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut system = vcpu.get_sregs().map_err(setting("system registers"))?;
    registers::set_long_mode(&mut system);
    vcpu.set_sregs(&system).map_err(setting("system registers"))?;
    vcpu.set_regs(&registers::general(entry)).map_err(setting("registers"))
}

fn setting(what: &'static str) -> impl Fn(Error) -> KvmError {
    move |source| KvmError::SetVcpu { what, source }
}
