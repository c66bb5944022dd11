//! Capability sets as bit masks, in the kernel's numbering.

use cofferdam_protocol::plan::CapabilityPlan;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// Every capability in the order of `linux/capability.h`: the index is the number.
const IN_KERNEL_ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The five sets as masks; an absent set is empty. The kernel takes into the ambient set only what
/// is both permitted and inheritable; the rest is left out with a warning, as runc does.
pub(super) fn plan(sets: Option<&LinuxCapabilities>) -> CapabilityPlan {
    let Some(sets) = sets else { return CapabilityPlan::default() };
    let permitted = mask(sets.permitted().as_ref());
    let inheritable = mask(sets.inheritable().as_ref());
    let ambient = mask(sets.ambient().as_ref());
    for capability in named(ambient & !(permitted & inheritable)) {
        // The words are runc's.
        tracing::warn!(
            "can't raise ambient capability CAP_{capability}: not permitted and inheritable"
        );
    }
    CapabilityPlan {
        bounding: mask(sets.bounding().as_ref()),
        effective: mask(sets.effective().as_ref()),
        permitted,
        inheritable,
        ambient: ambient & permitted & inheritable,
    }
}

fn mask(set: Option<&Capabilities>) -> u64 {
    let Some(set) = set else { return 0 };
    let bit = |(number, capability)| if set.contains(capability) { 1u64 << number } else { 0 };
    IN_KERNEL_ORDER.iter().enumerate().map(bit).sum()
}

fn named(mask: u64) -> impl Iterator<Item = Capability> {
    let named = IN_KERNEL_ORDER.into_iter().enumerate();
    named.filter(move |(number, _)| mask >> number & 1 == 1).map(|(_, capability)| capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(capability: Capability) -> usize {
        IN_KERNEL_ORDER.iter().position(|known| *known == capability).unwrap()
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        // As `linux/capability.h` defines them.
        assert_eq!(number(Capability::Chown), 0);
        assert_eq!(number(Capability::NetBindService), 10);
        assert_eq!(number(Capability::SysAdmin), 21);
        assert_eq!(number(Capability::Mknod), 27);
        assert_eq!(number(Capability::Setfcap), 31);
        assert_eq!(number(Capability::AuditRead), 37);
        assert_eq!(number(Capability::CheckpointRestore), 40);
    }

    #[test]
    fn what_the_kernel_would_not_take_into_the_ambient_set_is_left_out() {
        let mut sets = LinuxCapabilities::default();
        let both = || Some([Capability::Chown, Capability::Kill].into());
        sets.set_permitted(both()).set_ambient(both());
        sets.set_inheritable(Some([Capability::Kill].into()));
        assert_eq!(plan(Some(&sets)).ambient, 0b10_0000);
    }

    #[test]
    fn a_set_is_the_sum_of_its_bits_and_an_absent_one_is_empty() {
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some([Capability::Chown, Capability::Kill].into()));
        sets.set_ambient(None);
        let plan = plan(Some(&sets));
        assert_eq!((plan.bounding, plan.ambient), (0b10_0001, 0));
    }
}
