//! What an engine announces of a pod: how much its containers will need together, said before the
//! first of them is there.
//!
//! containerd writes it on a pod's sandbox as the kubelet tells it. Where the operator has it pass a
//! tenant's annotations through (`pod_annotations`), theirs take the place of its own: so this is no
//! limit and takes none away, and [`super::shape`] bounds what it gets.

use oci_spec::runtime::Spec;

const MIB: u64 = 1 << 20;
/// The period of the CPU controller where none is said, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Which kind of container it is.
pub(super) const KIND: &str = "io.kubernetes.cri.container-type";
/// The kind that announcements are on.
pub(super) const SANDBOX: &str = "sandbox";

/// Bytes of memory.
pub(super) const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
/// Microseconds of processor time in each period.
const QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// In microseconds.
const PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// The limits of a pod's containers together; zero: nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announcement {
    /// Memory, in MiB.
    pub(super) memory_mib: u64,
    /// Processor time, in thousandths of a processor.
    pub(super) cpu_thousandths: u64,
}

/// An announcement that is not to be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The annotation {key} is {value:?}, which is no number of 64 bits")]
pub struct InvalidAnnouncement {
    key: &'static str,
    value: String,
}

impl Announcement {
    /// That of a pod, on its sandbox. What is zero or less says nothing: a quota of -1 is none.
    ///
    /// # Errors
    /// When it is no number.
    pub(super) fn of(spec: &Spec) -> Result<Self, InvalidAnnouncement> {
        if said(spec, KIND) != Some(SANDBOX) {
            return Ok(Self::default());
        }
        let period = match amount(spec, PERIOD)? {
            0 => DEFAULT_PERIOD_US,
            period => period,
        };
        Ok(Self {
            memory_mib: amount(spec, MEMORY)?.div_ceil(MIB),
            cpu_thousandths: amount(spec, QUOTA)?.saturating_mul(1000).div_ceil(period),
        })
    }
}

fn said<'s>(spec: &'s Spec, key: &str) -> Option<&'s str> {
    spec.annotations().as_ref()?.get(key).map(String::as_str)
}

fn amount(spec: &Spec, key: &'static str) -> Result<u64, InvalidAnnouncement> {
    let Some(value) = said(spec, key) else { return Ok(0) };
    let number: Result<i64, _> = value.parse();
    let number = number.map_err(|_| InvalidAnnouncement { key, value: value.to_owned() })?;
    Ok(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn announced(annotations: Value) -> Result<Announcement, InvalidAnnouncement> {
        let spec = json!({ "ociVersion": "1.2.0", "annotations": annotations });
        Announcement::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_sandbox_says_what_its_pod_will_need() {
        let said = |kind: &str, memory: &str, quota: &str| {
            announced(json!({ KIND: kind, MEMORY: memory, QUOTA: quota, PERIOD: "50000" }))
        };
        let both = Announcement { memory_mib: 3, cpu_thousandths: 1500 };
        assert_eq!(said("sandbox", "3145728", "75000"), Ok(both));
        assert_eq!(said("sandbox", "2097153", "74999"), Ok(both));
        assert_eq!(said("sandbox", "0", "-1"), Ok(Announcement::default()));
        assert_eq!(said("sandbox", "-1", "0"), Ok(Announcement::default()));
        assert_eq!(announced(json!({ KIND: "sandbox" })), Ok(Announcement::default()));
    }

    #[test]
    fn a_period_that_is_not_said_is_the_kernels() {
        let quota = Ok(Announcement { memory_mib: 0, cpu_thousandths: 1500 });
        assert_eq!(announced(json!({ KIND: "sandbox", QUOTA: "150000" })), quota);
        let zero = json!({ KIND: "sandbox", QUOTA: "150000", PERIOD: "0" });
        assert_eq!(announced(zero), quota);
    }

    #[test]
    fn only_a_sandbox_is_listened_to() {
        for other in [json!({ KIND: "container", MEMORY: "much" }), json!({ MEMORY: "much" })] {
            assert_eq!(announced(other), Ok(Announcement::default()));
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        for key in [MEMORY, QUOTA, PERIOD] {
            for value in ["much", "", "1Gi", "1.5", "9223372036854775808"] {
                let error = announced(json!({ KIND: "sandbox", key: value })).unwrap_err();
                let text = error.to_string();
                assert!(text.contains(key) && text.contains(&format!("{value:?}")), "{text}");
            }
        }
    }

    #[test]
    fn the_most_that_can_be_said_is_a_number() {
        let most = i64::MAX.to_string();
        let all = announced(json!({ KIND: "sandbox", MEMORY: most, QUOTA: most, PERIOD: "1" }));
        let cpu_thousandths = u64::MAX;
        assert_eq!(all, Ok(Announcement { memory_mib: 1 << 43, cpu_thousandths }));
    }
}
