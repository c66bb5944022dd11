//! One vCPU, written down and set going again.
//!
//! The order in which KVM is asked and told matters: what a later call would change is read before
//! it, and set after it (the interrupt controller after the base that the system registers have,
//! the deadline after the time that it is measured by).
//!
//! Hostile: all of it, once it comes from a file. KVM checks what it is given, and a guest that
//! goes on from nonsense is lost as one that jumps into it.

use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Error, VcpuFd};
use serde::{Deserialize, Serialize};

use super::sys;

/// Set after all others: it is compared with the time-stamp counter.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Linux lists fewer than 200; a list with more is no list of ours.
const MAX_MSRS: usize = 1024;

/// A vCPU that stands still.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// The speed of its time-stamp counter.
    pub tsc_khz: u32,
    /// What its CPUID instruction says.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    registers: kvm_regs,
    system: kvm_sregs,
    extended: kvm_xsave,
    extended_control: kvm_xcrs,
    debug: kvm_debugregs,
    interrupts: kvm_lapic_state,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
}

/// Why a vCPU was not written down, or not set going again.
#[derive(Debug, thiserror::Error)]
pub enum VcpuStateError {
    /// KVM does not tell.
    #[error("KVM does not tell a vCPU's {what}")]
    Get {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Error,
    },
    /// KVM does not take it.
    #[error("KVM refuses a vCPU's {what}")]
    Set {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Error,
    },
    /// A register of the processor's model.
    #[error("KVM refuses the value {value:#x} of the model-specific register {register:#x}")]
    Msr {
        /// Which.
        register: u32,
        /// What it was to hold.
        value: u64,
    },
    /// Another processor, or another KVM.
    #[error(
        "The snapshot was taken on another processor: CPUID leaf {leaf:#x}.{index} differs from what KVM offers here"
    )]
    Features {
        /// Which leaf.
        leaf: u32,
        /// Its index.
        index: u32,
    },
    /// A list without an end.
    #[error("A list of the snapshot's vCPU is too long")]
    TooLong,
}

fn get(what: &'static str) -> impl Fn(Error) -> VcpuStateError {
    move |source| VcpuStateError::Get { what, source }
}

fn set(what: &'static str) -> impl Fn(Error) -> VcpuStateError {
    move |source| VcpuStateError::Set { what, source }
}

impl VcpuState {
    /// Writes down a vCPU that is not in the guest and has no access of the guest's pending.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn save(vcpu: &VcpuFd, cpuid: &CpuId, msrs: &[u32]) -> Result<Self, VcpuStateError> {
        let mp_state = vcpu.get_mp_state().map_err(get("run state"))?;
        let registers = vcpu.get_regs().map_err(get("registers"))?;
        let system = vcpu.get_sregs().map_err(get("system registers"))?;
        let extended = vcpu.get_xsave().map_err(get("extended state"))?;
        let extended_control = vcpu.get_xcrs().map_err(get("extended control registers"))?;
        let debug = vcpu.get_debug_regs().map_err(get("debug registers"))?;
        let interrupts = vcpu.get_lapic().map_err(get("interrupt controller"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(get("clock speed"))?;
        let msrs = msrs.iter().filter_map(|register| read_msr(vcpu, *register)).collect();
        let events = vcpu.get_vcpu_events().map_err(get("events"))?;
        Ok(Self {
            tsc_khz,
            cpuid: cpuid.as_slice().to_vec(),
            mp_state,
            registers,
            system,
            extended,
            extended_control,
            debug,
            interrupts,
            events,
            msrs,
        })
    }

    /// Whether a vCPU with these features can go on from here.
    ///
    /// # Errors
    /// Names the first difference.
    pub fn check(&self, offered: &CpuId) -> Result<(), VcpuStateError> {
        if self.msrs.len() > MAX_MSRS {
            return Err(VcpuStateError::TooLong);
        }
        let (saved, offered) = (&self.cpuid, offered.as_slice());
        let lines = saved.len().max(offered.len());
        let differs = |line: &usize| saved.get(*line) != offered.get(*line);
        let Some(line) = (0..lines).find(differs) else { return Ok(()) };
        let entry = offered.get(line).or_else(|| saved.get(line));
        let (leaf, index) = entry.map_or((0, 0), |entry| (entry.function, entry.index));
        Err(VcpuStateError::Features { leaf, index })
    }

    /// Sets a new vCPU to go on from here.
    ///
    /// # Errors
    /// When KVM refuses a part.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), VcpuStateError> {
        vcpu.set_mp_state(self.mp_state).map_err(set("run state"))?;
        vcpu.set_regs(&self.registers).map_err(set("registers"))?;
        vcpu.set_sregs(&self.system).map_err(set("system registers"))?;
        sys::set_extended_state(vcpu, &self.extended).map_err(set("extended state"))?;
        vcpu.set_xcrs(&self.extended_control).map_err(set("extended control registers"))?;
        vcpu.set_debug_regs(&self.debug).map_err(set("debug registers"))?;
        if vcpu.get_tsc_khz().map_err(get("clock speed"))? != self.tsc_khz {
            vcpu.set_tsc_khz(self.tsc_khz).map_err(set("clock speed"))?;
        }
        let (deadline, others): (Vec<(u32, u64)>, Vec<_>) =
            self.msrs.iter().copied().partition(|(register, _)| *register == MSR_TSC_DEADLINE);
        others.into_iter().try_for_each(|msr| write_msr(vcpu, msr))?;
        vcpu.set_lapic(&self.interrupts).map_err(set("interrupt controller"))?;
        deadline.into_iter().try_for_each(|msr| write_msr(vcpu, msr))?;
        vcpu.set_vcpu_events(&self.events).map_err(set("events"))
    }
}

/// A register's value; none of one that KVM lists and does not have.
fn read_msr(vcpu: &VcpuFd, register: u32) -> Option<(u32, u64)> {
    let entry = kvm_msr_entry { index: register, ..Default::default() };
    let mut list = Msrs::from_entries(&[entry]).ok()?;
    let read = vcpu.get_msrs(&mut list).ok()?;
    list.as_slice().first().filter(|_| read == 1).map(|entry| (register, entry.data))
}

/// A register that KVM does not let us set is at zero, or the machine would differ.
fn write_msr(vcpu: &VcpuFd, (register, value): (u32, u64)) -> Result<(), VcpuStateError> {
    let refused = VcpuStateError::Msr { register, value };
    let entry = kvm_msr_entry { index: register, data: value, ..Default::default() };
    let Ok(list) = Msrs::from_entries(&[entry]) else { return Err(refused) };
    match vcpu.set_msrs(&list) {
        Ok(1) => Ok(()),
        _ if value == 0 => Ok(()),
        _ => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn blank(cpuid: &[kvm_cpuid_entry2]) -> VcpuState {
        VcpuState {
            tsc_khz: 1000,
            cpuid: cpuid.to_vec(),
            mp_state: kvm_mp_state::default(),
            registers: kvm_regs::default(),
            system: kvm_sregs::default(),
            extended: kvm_xsave::default(),
            extended_control: kvm_xcrs::default(),
            debug: kvm_debugregs::default(),
            interrupts: kvm_lapic_state::default(),
            events: kvm_vcpu_events::default(),
            msrs: vec![(1, 2)],
        }
    }

    fn leaf(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..Default::default() }
    }

    #[test]
    fn a_vcpu_survives_the_journey_through_a_file() {
        let mut state = blank(&[leaf(1, 7)]);
        (state.registers.rip, state.interrupts.regs[3]) = (0x1234, -1);
        state.extended.region[1000] = 0xdead_beef;
        let text = serde_json::to_string(&state).unwrap();
        let read: VcpuState = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!((read.registers.rip, read.extended.region[1000]), (0x1234, 0xdead_beef));
    }

    #[test]
    fn another_processor_is_refused_by_the_leaf_that_differs() {
        let table = |entries: &[_]| CpuId::from_entries(entries).unwrap();
        let state = blank(&[leaf(1, 7), leaf(7, 1)]);
        state.check(&table(&[leaf(1, 7), leaf(7, 1)])).unwrap();
        for other in [vec![leaf(1, 7), leaf(7, 3)], vec![leaf(1, 7)]] {
            let error = state.check(&table(&other)).unwrap_err();
            assert!(matches!(error, VcpuStateError::Features { leaf: 7, index: 0 }), "{error}");
        }
    }
}
