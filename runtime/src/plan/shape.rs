//! The size of the virtual machine, from the container's limits or the operator's defaults.

use cofferdam_protocol::bounds::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use oci_spec::runtime::{LinuxCpu, LinuxResources, Spec};

use super::announcement::{self, Announcement, InvalidAnnouncement};
use super::growth;
use super::memory_policy::{self, MemoryPolicyPlan};
use crate::spec::cpu_list;

/// Below this not even a shell starts; the same bound that container engines have.
const MIN_LIMIT_MIB: u64 = 6;

/// The period of the CPU controller where the configuration says none, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

const MIB: u64 = 1 << 20;

/// What the operator's configuration says about virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmDefaults {
    /// Virtual processors where the container has no CPU limit.
    pub vcpus: u8,
    /// Guest memory in MiB where the container has no memory limit.
    pub memory_mib: u32,
    /// What guest kernel and agent need beside a container's memory limit, in MiB.
    pub overhead_mib: u32,
    /// To how many virtual processors a machine that runs may grow.
    pub max_vcpus: u8,
    /// To how much memory a machine that runs may grow, in MiB; 0: not at all.
    pub max_memory_mib: u32,
    /// With how many virtual processors the announcement of a pod lets its machine begin, at most.
    pub announced_vcpus_max: u8,
    /// With how much memory, in MiB: more is refused.
    pub announced_memory_max_mib: u32,
}

/// A virtual machine's size.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct VmShape {
    /// Virtual processors.
    pub vcpus: u8,
    /// To how many they can grow.
    pub vcpus_max: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// By how many blocks it can grow.
    pub memory_blocks_max: u32,
    /// The host's processors that the monitor's threads stay on (`linux.resources.cpu.cpus`:
    /// the numbers are the host's, so the host keeps to them); empty: all.
    pub host_cpus: Vec<u32>,
    /// Which of the host's memory the guest gets (`linux.memoryPolicy`).
    pub memory_policy: Option<MemoryPolicyPlan>,
}

/// Why no virtual machine has the size asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The container's limit.
    #[error("linux.resources.memory.limit of {0} bytes is too small: at least {MIN_LIMIT_MIB} MiB")]
    LimitTooSmall(i64),
    /// The machine's memory.
    #[error("{0} MiB of memory are too small for a guest: at least {MIN_MEMORY_MIB} MiB")]
    MemoryTooSmall(u64),
    /// The machine's memory.
    #[error("{0} MiB of memory are too large for a guest: at most {MAX_MEMORY_MIB} MiB")]
    MemoryTooLarge(u64),
    /// The operator's default.
    #[error("{0} vCPUs: 1 to {MAX_VCPUS} are possible")]
    Vcpus(u8),
    /// What is said of a pod.
    #[error(transparent)]
    Announcement(#[from] InvalidAnnouncement),
    /// What is said of a pod.
    #[error(
        "The annotation {key} announces containers that need a machine of {wanted_mib} MiB, \
         and this host has {most_mib} MiB: lower the memory limits of the pod's containers",
        key = announcement::MEMORY
    )]
    TooMuchAnnounced {
        /// The guest's own need among it.
        wanted_mib: u64,
        /// The host's memory.
        most_mib: u32,
    },
    /// `linux.resources.cpu.cpus`.
    #[error("linux.resources.cpu.cpus {0:?} is not a list of processors")]
    Cpus(String),
}

impl VmShape {
    /// The machine for this container.
    ///
    /// # Errors
    /// When a limit or a default is out of bounds.
    pub fn new(spec: &Spec, defaults: VmDefaults) -> Result<Self, ShapeError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let host_cpus = match cpu.and_then(|cpu| cpu.cpus().as_deref()) {
            Some(list) if !list.trim().is_empty() => {
                cpu_list::parse(list).ok_or_else(|| ShapeError::Cpus(list.to_owned()))?
            }
            _ => Vec::new(),
        };
        let defaults = defaults.with_room_for(Announcement::of(spec)?)?;
        let vcpus = vcpus(cpu, host_cpus.len(), defaults)?;
        let memory_mib = memory_mib(resources, defaults)?;
        Ok(Self {
            vcpus,
            vcpus_max: defaults.max_vcpus.min(MAX_VCPUS).max(vcpus),
            memory_mib,
            memory_blocks_max: growth::blocks_between(memory_mib, defaults.max_memory_mib),
            host_cpus,
            memory_policy: memory_policy::plan(spec),
        })
    }
}

impl VmDefaults {
    /// A pod's machine begins with what its containers will need, so that it need not grow for them. A
    /// container without a limit takes what there is: it has no less than in another machine.
    fn with_room_for(self, announced: Announcement) -> Result<Self, ShapeError> {
        let wanted_mib = growth::memory_for(announced.memory_mib, self.overhead_mib);
        let most_mib = self.announced_memory_max_mib;
        let memory_mib = match u32::try_from(wanted_mib) {
            _ if announced.memory_mib == 0 => self.memory_mib,
            Ok(wanted) if wanted <= most_mib => wanted.max(self.memory_mib),
            _ => return Err(ShapeError::TooMuchAnnounced { wanted_mib, most_mib }),
        };
        // A limit of processor time is no promise.
        let vcpus = u8::try_from(announced.cpu_thousandths.div_ceil(1000)).unwrap_or(u8::MAX);
        let vcpus = vcpus.min(self.announced_vcpus_max).min(MAX_VCPUS).max(self.vcpus);
        Ok(Self { vcpus, memory_mib, ..self })
    }
}

/// As many as the quota can keep busy, no more than the processors allowed.
fn vcpus(cpu: Option<&LinuxCpu>, allowed: usize, defaults: VmDefaults) -> Result<u8, ShapeError> {
    if !(1..=MAX_VCPUS).contains(&defaults.vcpus) {
        return Err(ShapeError::Vcpus(defaults.vcpus));
    }
    let quota = cpu.and_then(LinuxCpu::quota).and_then(|quota| u64::try_from(quota).ok());
    let period = cpu.and_then(LinuxCpu::period).filter(|period| *period > 0);
    let period = period.unwrap_or(DEFAULT_PERIOD_US);
    let wanted = match quota {
        Some(quota) if quota > 0 => quota.div_ceil(period),
        _ => u64::from(defaults.vcpus),
    };
    let allowed = if allowed == 0 { u64::from(MAX_VCPUS) } else { allowed as u64 };
    let count = wanted.min(allowed).clamp(1, u64::from(MAX_VCPUS));
    Ok(u8::try_from(count).unwrap_or(MAX_VCPUS))
}

/// The container's limit and what the guest itself needs, or the default.
fn memory_mib(resources: Option<&LinuxResources>, defaults: VmDefaults) -> Result<u32, ShapeError> {
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let limit = memory.and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
    let total = match limit {
        Some(limit) => {
            let mib = limit.unsigned_abs().div_ceil(MIB);
            if mib < MIN_LIMIT_MIB {
                return Err(ShapeError::LimitTooSmall(limit));
            }
            growth::memory_for(mib, defaults.overhead_mib)
        }
        None => u64::from(defaults.memory_mib),
    };
    match u32::try_from(total) {
        Ok(total) if total < MIN_MEMORY_MIB => Err(ShapeError::MemoryTooSmall(total.into())),
        Ok(total) if total <= MAX_MEMORY_MIB => Ok(total),
        _ => Err(ShapeError::MemoryTooLarge(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: VmDefaults = VmDefaults {
        vcpus: 2,
        memory_mib: 256,
        overhead_mib: 48,
        max_vcpus: 4,
        max_memory_mib: 1024,
        announced_vcpus_max: 8,
        announced_memory_max_mib: 8192,
    };

    fn shape(resources: &str) -> Result<VmShape, ShapeError> {
        let text = format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{resources}}}}}"#);
        VmShape::new(&serde_json::from_str(&text).unwrap(), DEFAULTS)
    }

    #[test]
    fn without_limits_the_defaults_hold() {
        let shape = shape("{}").unwrap();
        assert_eq!((shape.vcpus, shape.memory_mib, shape.host_cpus), (2, 256, vec![]));
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_processors() {
        let vcpus = |quota, period| {
            let cpu = format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#);
            shape(&cpu).unwrap().vcpus
        };
        assert_eq!(vcpus(150_000, 100_000), 2);
        assert_eq!(vcpus(10_000, 100_000), 1);
        assert_eq!(vcpus(300_000, 0), 3);
        assert_eq!(vcpus(-1, 100_000), 2);
        assert_eq!(vcpus(9_000_000, 100_000), MAX_VCPUS);
    }

    #[test]
    fn the_processors_allowed_bound_the_virtual_ones() {
        let shape = shape(r#"{"cpu":{"cpus":"3,5-5"}}"#).unwrap();
        assert_eq!((shape.vcpus, shape.host_cpus), (2, vec![3, 5]));
    }

    #[test]
    fn a_machine_can_grow_to_the_most_that_it_may_be() {
        let larger = shape(r#"{"cpu":{"quota":600000},"memory":{"limit":2147483648}}"#).unwrap();
        assert_eq!((larger.vcpus_max, larger.memory_blocks_max), (6, 0));
        let usual = shape("{}").unwrap();
        assert_eq!((usual.vcpus_max, usual.memory_blocks_max), (4, 6));
    }

    #[test]
    fn a_memory_limit_gets_the_guests_own_need_on_top() {
        let shape = shape(r#"{"memory":{"limit":134217728}}"#).unwrap();
        assert_eq!(shape.memory_mib, 128 + 2 + 48);
    }

    fn announced(memory: u64, quota: u64, resources: &str) -> Result<(u32, u8), ShapeError> {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","linux":{{"resources":{resources}}},"annotations":{{
               "io.kubernetes.cri.container-type":"sandbox",
               "io.kubernetes.cri.sandbox-memory":"{memory}",
               "io.kubernetes.cri.sandbox-cpu-quota":"{quota}"}}}}"#
        );
        let shape = VmShape::new(&serde_json::from_str(&text).unwrap(), DEFAULTS)?;
        Ok((shape.memory_mib, shape.vcpus))
    }

    #[test]
    fn a_pod_s_machine_begins_with_what_was_announced_and_no_less_than_another() {
        assert_eq!(announced(4 << 30, 350_000, "{}"), Ok((4096 + 64 + 48, 4)));
        assert_eq!(announced(64 << 20, 50_000, "{}"), Ok((256, 2)));
        assert_eq!(announced(0, 350_000, "{}"), Ok((256, 4)));
        // What the sandbox has itself is for the whole machine.
        let own = r#"{"memory":{"limit":134217728},"cpu":{"quota":100000}}"#;
        assert_eq!(announced(4 << 30, 350_000, own), Ok((128 + 2 + 48, 1)));
    }

    #[test]
    fn an_announcement_gets_no_more_than_the_host_has() {
        assert_eq!(announced(0, 9_000_000, "{}"), Ok((256, 8)));
        let mib = 8192 - 48 - 126;
        assert_eq!(announced(mib << 20, 0, "{}"), Ok((8191, 2)));
        let refused = announced((mib + 2) << 20, 0, "{}").unwrap_err();
        let (wanted_mib, most_mib) = (8193, 8192);
        assert_eq!(refused, ShapeError::TooMuchAnnounced { wanted_mib, most_mib });
        let most = u64::try_from(i64::MAX).unwrap();
        let refused = announced(most, most, "{}").unwrap_err().to_string();
        assert!(
            refused.contains(announcement::MEMORY) && refused.contains("8192 MiB"),
            "{refused}"
        );
    }

    #[test]
    fn memory_out_of_bounds_is_refused() {
        assert_eq!(shape(r#"{"memory":{"limit":4096}}"#), Err(ShapeError::LimitTooSmall(4096)));
        let huge = shape(r#"{"memory":{"limit":9223372036854775807}}"#);
        assert!(matches!(huge, Err(ShapeError::MemoryTooLarge(_))));
        let tiny = VmDefaults { memory_mib: 16, ..DEFAULTS };
        let spec = serde_json::from_str(r#"{"ociVersion":"1.0.2"}"#).unwrap();
        assert_eq!(VmShape::new(&spec, tiny), Err(ShapeError::MemoryTooSmall(16)));
    }
}
