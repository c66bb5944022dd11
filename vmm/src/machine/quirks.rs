//! What the processor under this host's KVM gets wrong, as far as a guest has to be kept from it.
//!
//! Found by the processor's own name, not by trying: these are races that a trial would miss.

use std::arch::x86_64::__cpuid;

const PROCESSOR: u32 = 1;
const HYPERVISOR_PRESENT: u32 = 1 << 31;
const HYPERVISOR_NAME: u32 = 0x4000_0000;
const QEMU_IN_SOFTWARE: &[u8; 12] = b"TCGTCGTCGTCG";

/// The faults of this host's virtualisation that a guest of ours would meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// An interrupt that KVM injects may come twice, the second time although the guest has
    /// interrupts disabled, until the next exit to KVM.
    ///
    /// QEMU's software processor keeps the injected vector as if it were an exception that still
    /// has to be delivered (`helper_vmrun`, seen in 7.2). Whenever its own loop is interrupted
    /// before the guest's next exit, it delivers that. A guest that holds the lock of its timers
    /// then waits for itself for ever: about one boot in fifty with instruction counting. So the
    /// guest is made to exit at once, when it acknowledges the interrupt.
    pub repeats_interrupts: bool,
}

impl Quirks {
    /// Those of the processor that this runs on.
    #[must_use]
    pub fn of_this_host() -> Self {
        if __cpuid(PROCESSOR).ecx & HYPERVISOR_PRESENT == 0 {
            return Self::default();
        }
        let name = __cpuid(HYPERVISOR_NAME);
        Self::of_hypervisor([name.ebx, name.ecx, name.edx])
    }

    fn of_hypervisor(name: [u32; 3]) -> Self {
        let name = name.map(u32::to_le_bytes);
        Self { repeats_interrupts: name.as_flattened() == QEMU_IN_SOFTWARE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &[u8; 12]) -> Quirks {
        let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        Quirks::of_hypervisor([word(0), word(4), word(8)])
    }

    #[test]
    fn only_a_processor_in_software_repeats_interrupts() {
        assert!(of(b"TCGTCGTCGTCG").repeats_interrupts);
        assert_eq!(of(b"KVMKVMKVM\0\0\0"), Quirks::default());
        assert_eq!(of(b"Microsoft Hv"), Quirks::default());
    }
}
