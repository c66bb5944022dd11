//! The throw-away VM: one vCPU, 2 MiB of memory, the code of [`super::program`].

use std::arch::x86_64::__cpuid;
use std::hint::black_box;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::program;
use crate::machine::kvm::{CapableKvm, KvmError, Vm, set_ring0};
use crate::machine::memory::{self, Memory, MemoryError};
use crate::machine::registers;

// The processor's features, in ecx.
const FEATURES: u32 = 1;
const CMPXCHG16B: u32 = 1 << 13;

const MEMORY_BYTES: u64 = 2 << 20;
/// A line of the interrupt controller that nothing else in the VM uses.
const IRQ: u32 = 5;
/// An interrupt comes through a work queue of the host.
const INTERRUPT_TIME: Duration = Duration::from_millis(500);
/// Turns of the timed loop: few enough that 2 microseconds for each instruction make a tenth of a
/// second.
const FEW_TURNS: u64 = 20_000;
/// Where those took less than this, so many that entering and leaving the guest does not count.
const SHORT: Duration = Duration::from_millis(10);
const MANY_TURNS: u64 = 200_000;
/// The best of so many counts: a machine has other things to do as well.
const ROUNDS: usize = 3;

/// What a VM should do and this one does not.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    /// KVM refused a step.
    #[error("KVM refuses a step of the probe")]
    Kvm(#[from] KvmError),
    /// No memory for the guest.
    #[error("The probe has no memory")]
    Memory(#[from] MemoryError),
    /// No event descriptor.
    #[error("The probe has no event descriptor")]
    Event(#[source] std::io::Error),
    /// KVM_RUN failed.
    #[error("The guest cannot be entered at {at}")]
    Run {
        /// What it was doing.
        at: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// The guest ended where it should have gone on.
    #[error("The guest stopped at {at} ({exit})")]
    Stopped {
        /// What it was doing.
        at: &'static str,
        /// KVM's name for how.
        exit: String,
    },
    /// The interrupt did not come.
    #[error("An interrupt by event descriptor does not arrive")]
    NoInterrupt,
    /// The notification did not come.
    #[error("A device notification by event descriptor does not arrive")]
    NoNotification,
}

/// The VM, ready to run.
pub(super) struct Bench {
    vcpu: VcpuFd,
    vm: Vm,
    notification: EventFd,
    // Unmapped after the VM is gone: fields are dropped in this order.
    _memory: Memory,
}

impl Bench {
    pub(super) fn set_up(kvm: &CapableKvm) -> Result<Self, BenchError> {
        let memory = memory::allocate_small(MEMORY_BYTES)?;
        registers::write_tables(&memory)?;
        memory::write(&memory, program::CODE_ADDRESS, &program::code())?;
        memory::write(&memory, program::HANDLER_ADDRESS, &program::HANDLER)?;
        let table = program::interrupt_table(registers::CODE_SELECTOR);
        memory::write(&memory, program::IDT_ADDRESS, &table)?;
        let vm = kvm.create_vm()?;
        vm.set_memory(&memory, 1)?;
        let notification = event()?;
        vm.set_notification(&notification, program::DEVICE_ADDRESS, 0)?;
        let vcpu = vm.create_vcpu(0, 1)?;
        set_ring0(&vcpu, program::IDT_ADDRESS, table.len())?;
        Ok(Self { vcpu, vm, notification, _memory: memory })
    }

    /// An event becomes a pending interrupt of the controller.
    pub(super) fn check_interrupt(&self) -> Result<(), BenchError> {
        let line = event()?;
        self.vm.set_interrupt(&line, IRQ)?;
        line.write(1).map_err(BenchError::Event)?;
        let deadline = Instant::now() + INTERRUPT_TIME;
        while Instant::now() < deadline {
            if self.vm.pending_interrupts()? & 1 << IRQ != 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(BenchError::NoInterrupt)
    }

    /// Nanoseconds for an instruction in ring 0, times 100.
    pub(super) fn ring0_ns_x100(&mut self) -> Result<u64, BenchError> {
        let turns = if self.time_loop(FEW_TURNS)? < SHORT { MANY_TURNS } else { FEW_TURNS };
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(self.time_loop(turns)?);
        }
        Ok(per_instruction(best, turns))
    }

    fn time_loop(&mut self, turns: u64) -> Result<Duration, BenchError> {
        let registers = kvm_regs { rcx: turns, ..start() };
        let set = |source| KvmError::SetVcpu { what: "registers", source };
        self.vcpu.set_regs(&registers).map_err(set)?;
        let started = Instant::now();
        self.run_to(program::LOOP_DONE, "a counting loop")?;
        Ok(started.elapsed())
    }

    /// Each instruction that a kernel needs, after the loop.
    pub(super) fn check_instructions(&mut self) -> Result<(), BenchError> {
        self.time_loop(1)?;
        let has_cmpxchg16b = __cpuid(FEATURES).ecx & CMPXCHG16B != 0;
        for (index, step) in program::steps(has_cmpxchg16b).iter().enumerate() {
            self.run_to(program::mark(index), step.name)?;
        }
        self.notification.read().map(drop).map_err(|_| BenchError::NoNotification)
    }

    /// Runs the guest up to a mark.
    fn run_to(&mut self, mark: u8, at: &'static str) -> Result<(), BenchError> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(program::MARK_PORT, [seen])) if *seen == mark => return Ok(()),
                Ok(exit) => return Err(BenchError::Stopped { at, exit: format!("{exit:?}") }),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(source) => return Err(BenchError::Run { at, source }),
            }
        }
    }
}

/// The registers at the first instruction.
fn start() -> kvm_regs {
    kvm_regs {
        rsp: program::STACK_ADDRESS,
        rdi: program::WIDE_ADDRESS,
        rsi: program::STATE_ADDRESS,
        r8: program::DEVICE_ADDRESS,
        ..registers::general(program::CODE_ADDRESS)
    }
}

fn event() -> Result<EventFd, BenchError> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(BenchError::Event)
}

/// Nanoseconds for each instruction of the loop, times 100.
fn per_instruction(took: Duration, turns: u64) -> u64 {
    let instructions = turns * program::LOOP_INSTRUCTIONS;
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(100) / instructions
}

/// The same loop in this process.
pub(super) fn host_ns_x100() -> u64 {
    let started = Instant::now();
    let mut count = MANY_TURNS;
    while count > 0 {
        count = black_box(count) - 1;
    }
    per_instruction(started.elapsed(), MANY_TURNS)
}
