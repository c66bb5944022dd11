//! What the guest's CPUID instruction says: what KVM supports on this host, with the topology of
//! this guest, and without what a guest of ours has no use for (nested virtualisation, performance
//! counters).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::quirks::Quirks;

const FEATURES: u32 = 1;
const PERFORMANCE_MONITORING: u32 = 0xa;
const EXTENDED_STATE: u32 = 0xd;
const TOPOLOGIES: [u32; 2] = [0xb, 0x1f];
const KVM_FEATURES: u32 = 0x4000_0001;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const EXTENDED_SIZES: u32 = 0x8000_0008;
const SVM_FEATURES: u32 = 0x8000_000a;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE_MONITORING: u32 = 0x8000_0022;

// FEATURES, ecx.
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
// FEATURES, ecx: reads of performance counters' capabilities.
const PDCM: u32 = 1 << 15;
// FEATURES, edx.
const MULTI_THREADING: u32 = 1 << 28;
// KVM_FEATURES, eax: an interrupt is acknowledged in memory, without an exit.
const ACKNOWLEDGE_IN_MEMORY: u32 = 1 << 6;
// EXTENDED_FEATURES, ecx.
const SVM: u32 = 1 << 2;
const AMD_CORE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The table for one vCPU. `supported` is what `KVM_GET_SUPPORTED_CPUID` gave.
#[must_use]
pub fn for_vcpu(supported: &CpuId, vcpu: u8, vcpus: u8, quirks: Quirks) -> CpuId {
    let mut table = supported.clone();
    for entry in table.as_mut_slice() {
        adapt(entry, u32::from(vcpu), u32::from(vcpus));
        if quirks.repeats_interrupts && entry.function == KVM_FEATURES {
            entry.eax &= !ACKNOWLEDGE_IN_MEMORY;
        }
    }
    table
}

/// The parts of the processor's state that `XSAVE` can save here, as `XCR0` names them.
#[must_use]
pub fn extended_state(supported: &CpuId) -> Option<u64> {
    let is_main = |entry: &&kvm_cpuid_entry2| entry.function == EXTENDED_STATE && entry.index == 0;
    let entry = supported.as_slice().iter().find(is_main)?;
    Some(u64::from(entry.edx) << 32 | u64::from(entry.eax)).filter(|state| *state != 0)
}

fn adapt(entry: &mut kvm_cpuid_entry2, vcpu: u32, vcpus: u32) {
    match entry.function {
        FEATURES => {
            // CLFLUSH stays as it is; the ids are ours.
            let sharing = vcpus.next_power_of_two();
            entry.ebx = entry.ebx & 0x0000_ffff | sharing << 16 | vcpu << 24;
            entry.ecx = (entry.ecx | X2APIC | TSC_DEADLINE | HYPERVISOR) & !(VMX | PDCM);
            entry.edx &= !MULTI_THREADING;
            if vcpus > 1 {
                entry.edx |= MULTI_THREADING;
            }
        }
        PERFORMANCE_MONITORING | SVM_FEATURES | AMD_PERFORMANCE_MONITORING => clear(entry),
        function if TOPOLOGIES.contains(&function) => set_topology_level(entry, vcpu, vcpus),
        EXTENDED_FEATURES => entry.ecx &= !(SVM | AMD_CORE_COUNTERS),
        EXTENDED_SIZES => {
            // Cores of the package less one, and the bits of the id that number them.
            entry.ecx = entry.ecx & !0xf0ff | (vcpus - 1) | id_bits(vcpus) << 12;
        }
        AMD_TOPOLOGY => {
            // The id; one thread in each core; one node.
            (entry.eax, entry.ebx, entry.ecx) = (vcpu, vcpu, 0);
        }
        _ => {}
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

/// One package whose cores have one thread each.
fn set_topology_level(entry: &mut kvm_cpuid_entry2, vcpu: u32, vcpus: u32) {
    entry.flags |= KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    let level = entry.index & 0xff;
    (entry.eax, entry.ebx, entry.ecx) = match level {
        0 => (0, 1, LEVEL_THREAD),
        1 => (id_bits(vcpus), vcpus, LEVEL_CORE | 1),
        _ => (0, 0, level),
    };
    entry.edx = vcpu;
}

/// How many bits number the cores.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let ones = u32::MAX;
        kvm_cpuid_entry2 {
            function,
            index,
            eax: ones,
            ebx: ones,
            ecx: ones,
            edx: ones,
            ..Default::default()
        }
    }

    fn adapted(function: u32, index: u32, vcpu: u8, vcpus: u8) -> kvm_cpuid_entry2 {
        let table = CpuId::from_entries(&[entry(function, index)]).unwrap();
        for_vcpu(&table, vcpu, vcpus, Quirks::default()).as_slice()[0]
    }

    #[test]
    fn nested_virtualisation_is_hidden() {
        assert_eq!(adapted(FEATURES, 0, 0, 1).ecx & VMX, 0);
        assert_eq!(adapted(EXTENDED_FEATURES, 0, 0, 1).ecx & SVM, 0);
        assert_eq!(adapted(SVM_FEATURES, 0, 0, 1).edx, 0);
    }

    #[test]
    fn where_interrupts_are_repeated_each_is_acknowledged_by_an_exit() {
        let table = CpuId::from_entries(&[entry(KVM_FEATURES, 0)]).unwrap();
        let features = |repeats_interrupts| {
            for_vcpu(&table, 0, 1, Quirks { repeats_interrupts }).as_slice()[0].eax
        };
        assert_eq!(features(false), u32::MAX);
        assert_eq!(features(true), !ACKNOWLEDGE_IN_MEMORY);
    }

    #[test]
    fn the_deadline_timer_and_the_hypervisor_are_announced() {
        let features = adapted(FEATURES, 0, 0, 1);
        assert_eq!(features.ecx & (TSC_DEADLINE | HYPERVISOR), TSC_DEADLINE | HYPERVISOR);
    }

    #[test]
    fn every_processor_has_its_own_id_everywhere() {
        assert_eq!(adapted(FEATURES, 0, 5, 6).ebx >> 24, 5);
        assert_eq!(adapted(0xb, 0, 5, 6).edx, 5);
        assert_eq!(adapted(AMD_TOPOLOGY, 0, 5, 6).eax, 5);
    }

    #[test]
    fn six_cores_need_three_bits() {
        let cores = adapted(0xb, 1, 0, 6);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, 0x201));
        let amd = adapted(EXTENDED_SIZES, 0, 0, 6);
        assert_eq!((amd.ecx & 0xff, amd.ecx >> 12 & 0xf), (5, 3));
    }
}
