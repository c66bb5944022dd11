//! From what was found to metrics: names, units, help and labels. Pure.

use std::path::PathBuf;

use cofferdam_protocol::id::ContainerId;
use cofferdam_protocol::monitor_metrics::{
    DeviceKind, DeviceMetrics, KvmExits, MonitorExits, QueueMetrics,
};
use serde::{Serialize, Serializer};

use super::snapshot::{Monitor, Snapshot};
use crate::figures::{
    AgentMethod, Counted, Distribution, Ending, FailedVerb, FailureReason, KINDS, NetworkOutcome,
    Phase, Timed,
};
use crate::kind::SandboxKind;
use crate::state::status::Status;

const KIB: u64 = 1024;

/// A metric with all its samples.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    /// Without the unit, and without the suffix of a counter.
    pub name: &'static str,
    /// Behind the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// A sentence.
    pub help: &'static str,
    /// What kind of values it has.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The values.
    pub samples: Vec<Sample>,
}

/// The units that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// The kinds of metrics that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only grows.
    Counter,
    /// What is so now.
    Gauge,
    /// How often something was how long.
    Histogram,
}

/// One value with its labels.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// What tells it from the others of its metric.
    #[serde(serialize_with = "as_map")]
    pub labels: Vec<(&'static str, Label)>,
    /// The value.
    #[serde(flatten)]
    pub value: Value,
}

/// A value. There is no other kind of number in here than unsigned integers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Of a counter or a gauge.
    Value(u64),
    /// Of a histogram.
    #[serde(serialize_with = "as_buckets")]
    Histogram(Distribution),
}

/// What a label can be.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Label {
    /// A name of ours.
    Name(&'static str),
    /// A number.
    Number(usize),
    /// A container's id: the engine's word, 255 letters, digits and `_+-.` at most.
    Id(ContainerId),
    /// A folder that the operator or an engine chose.
    Folder(PathBuf),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
            Self::Id(id) => id.fmt(f),
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

type Labels = Vec<(&'static str, Label)>;

/// All metrics, in a fixed order. Those of closed sets are there with a zero; those of monitors as
/// long as the monitor is.
#[must_use]
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut all = vec![build()];
    all.extend(of_containers(snapshot));
    all.extend(of_commands(snapshot));
    all.extend(of_machines(snapshot));
    all.extend(of_devices(snapshot));
    all
}

fn family(name: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, unit: None, help, kind, samples: Vec::new() }
}

impl Family {
    fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    fn of(self, samples: impl Iterator<Item = (Labels, Value)>) -> Self {
        let samples = samples.map(|(labels, value)| Sample { labels, value }).collect();
        Self { samples, ..self }
    }
}

const fn named(key: &'static str, name: &'static str) -> (&'static str, Label) {
    (key, Label::Name(name))
}

fn build() -> Family {
    let labels = vec![named("version", env!("CARGO_PKG_VERSION"))];
    family("cofferdam_build", Kind::Gauge, "1, with the version of the runtime that answers")
        .of([(labels, Value::Value(1))].into_iter())
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Creating => "creating",
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    }
}

fn of_containers(snapshot: &Snapshot) -> [Family; 3] {
    let count = |isolation: SandboxKind, status: Status, members: bool| {
        let matching = snapshot.containers.iter().filter(|container| {
            (container.isolation, container.status) == (isolation, status)
                && container.is_member == members
        });
        Value::Value(matching.count() as u64)
    };
    let labels = |isolation: SandboxKind, status| {
        vec![named("isolation", isolation.name()), named("status", status_name(status))]
    };
    let both = KINDS.into_iter().flat_map(|kind| Status::ALL.map(|status| (kind, status)));
    let sandboxes = both.map(|(kind, status)| (labels(kind, status), count(kind, status, false)));
    let members = Status::ALL.into_iter().map(|status| {
        (vec![named("status", status_name(status))], count(SandboxKind::Microvm, status, true))
    });
    let answers = [
        ("answered", snapshot.monitors.len()),
        ("silent", snapshot.monitors_silent),
        ("not_asked", snapshot.monitors_not_asked),
    ];
    let answers =
        answers.map(|(name, count)| (vec![named("outcome", name)], Value::Value(count as u64)));
    [
        family("cofferdam_sandboxes", Kind::Gauge, "Containers that have a sandbox of their own")
            .of(sandboxes),
        family("cofferdam_pod_members", Kind::Gauge, "Containers in the microVM of another one")
            .of(members),
        family("cofferdam_monitors", Kind::Gauge, "Monitors of microVMs, by what came of asking")
            .of(answers.into_iter()),
    ]
}

fn of_commands(snapshot: &Snapshot) -> [Family; 7] {
    let counts = &snapshot.counts;
    let took = |timed| Value::Histogram(counts.distribution(timed));
    let phases = KINDS.into_iter().flat_map(|kind| Phase::ALL.iter().map(move |p| (kind, *p)));
    // A guest's boot has no meaning elsewhere.
    let is_meant = |(kind, phase): &(SandboxKind, Phase)| {
        let everywhere = [Phase::Check, Phase::Sandbox, Phase::Start];
        *kind == SandboxKind::Microvm || everywhere.contains(phase)
    };
    let phases = phases.filter(is_meant).map(|(kind, phase)| {
        let labels = vec![named("isolation", kind.name()), named("phase", phase.name())];
        (labels, took(Timed::Phase(kind, phase)))
    });
    let calls = AgentMethod::ALL
        .iter()
        .map(|method| (vec![named("method", method.name())], took(Timed::Agent(*method))));
    let count = |counted| Value::Value(counts.count(counted));
    let both = FailedVerb::ALL
        .iter()
        .flat_map(|verb| FailureReason::ALL.iter().map(move |reason| (*verb, *reason)));
    let failures = both.map(|(verb, reason)| {
        let labels = vec![named("verb", verb.name()), named("reason", reason.name())];
        (labels, count(Counted::Failure(verb, reason)))
    });
    let restarts = KINDS
        .into_iter()
        .map(|kind| (vec![named("isolation", kind.name())], count(Counted::Restart(kind))));
    let ends = Ending::ALL
        .iter()
        .map(|ending| (vec![named("cause", ending.name())], count(Counted::End(*ending))));
    let network = NetworkOutcome::ALL
        .iter()
        .map(|outcome| (vec![named("outcome", outcome.name())], count(Counted::Network(*outcome))));
    let unreadable = Value::Value(snapshot.unreadable as u64);
    [
        family("cofferdam_start_phase", Kind::Histogram, "What the phases of a start took")
            .in_unit(Unit::Seconds)
            .of(phases),
        family("cofferdam_agent_call", Kind::Histogram, "What calls of guests' agents took")
            .in_unit(Unit::Seconds)
            .of(calls),
        family("cofferdam_failures", Kind::Counter, "Verbs that failed").of(failures),
        family(
            "cofferdam_restarts",
            Kind::Counter,
            "Containers that were made again after they had been deleted",
        )
        .of(restarts),
        family("cofferdam_microvm_ends", Kind::Counter, "MicroVMs that were deleted, by their end")
            .of(ends),
        family(
            "cofferdam_network_changes",
            Kind::Counter,
            "Changes of running microVMs' interfaces, by what became of them",
        )
        .of(network),
        family("cofferdam_unreadable", Kind::Gauge, "Folders and files that could not be read")
            .of([(Vec::new(), unreadable)].into_iter()),
    ]
}

fn of(monitor: &Monitor, more: &[(&'static str, Label)]) -> Labels {
    let mut labels = vec![
        ("root", Label::Folder(monitor.root.clone())),
        ("sandbox", Label::Id(monitor.sandbox.clone())),
    ];
    labels.extend(more.iter().cloned());
    labels
}

fn of_machines(snapshot: &Snapshot) -> [Family; 5] {
    let memory = |kib: fn(&Monitor) -> u64| {
        snapshot
            .monitors
            .iter()
            .map(move |monitor| (of(monitor, &[]), Value::Value(kib(monitor).saturating_mul(KIB))))
    };
    let to_monitor = snapshot.monitors.iter().flat_map(|monitor| {
        let reasons = by_access(&monitor.metrics.monitor_exits);
        reasons
            .map(|(reason, count)| (of(monitor, &[named("reason", reason)]), Value::Value(count)))
    });
    let counted = || snapshot.monitors.iter().filter_map(|m| Some((m, m.metrics.kvm_exits?)));
    let all = counted().map(|(monitor, kvm)| (of(monitor, &[]), Value::Value(kvm.exits)));
    let by_reason = counted().flat_map(|(monitor, kvm)| {
        by_reason(&kvm)
            .map(|(reason, count)| (of(monitor, &[named("reason", reason)]), Value::Value(count)))
    });
    [
        family("cofferdam_monitor_memory", Kind::Gauge, "Resident memory of the monitor itself")
            .in_unit(Unit::Bytes)
            .of(memory(|monitor| monitor.metrics.monitor_kib)),
        family("cofferdam_guest_memory", Kind::Gauge, "Guest memory that is resident on the host")
            .in_unit(Unit::Bytes)
            .of(memory(|monitor| monitor.metrics.guest_kib)),
        family("cofferdam_vcpu_monitor_exits", Kind::Counter, "Exits of vCPUs to the monitor")
            .of(to_monitor),
        family("cofferdam_kvm_exits", Kind::Counter, "Exits of vCPUs, as KVM counts them").of(all),
        family(
            "cofferdam_kvm_exits_by_reason",
            Kind::Counter,
            "The same by reason; KVM has one exit in none, one or two of them",
        )
        .of(by_reason),
    ]
}

fn by_access(exits: &MonitorExits) -> [(&'static str, u64); 5] {
    let MonitorExits { port_read, port_write, mmio_read, mmio_write, other } = *exits;
    [
        ("port_read", port_read),
        ("port_write", port_write),
        ("mmio_read", mmio_read),
        ("mmio_write", mmio_write),
        ("other", other),
    ]
}

fn by_reason(exits: &KvmExits) -> [(&'static str, u64); 10] {
    [
        ("io", exits.io_exits),
        ("mmio", exits.mmio_exits),
        ("halt", exits.halt_exits),
        ("irq", exits.irq_exits),
        ("irq_window", exits.irq_window_exits),
        ("nmi_window", exits.nmi_window_exits),
        ("request_irq", exits.request_irq_exits),
        ("signal", exits.signal_exits),
        ("hypercall", exits.hypercalls),
        ("emulation", exits.insn_emulation),
    ]
}

fn of_devices(snapshot: &Snapshot) -> [Family; 4] {
    let devices = || {
        snapshot.monitors.iter().flat_map(|monitor| {
            let devices = monitor.metrics.devices.iter();
            devices.map(move |device| (monitor, device))
        })
    };
    let interrupts = devices().map(|(monitor, device)| {
        (of(monitor, &device_labels(device)), Value::Value(device.interrupts))
    });
    let of_queues = |figure: fn(&QueueMetrics) -> u64| {
        devices().flat_map(move |(monitor, device)| {
            device.queues.iter().enumerate().map(move |(number, queue)| {
                let mut labels = of(monitor, &device_labels(device));
                labels.push(("queue", Label::Number(number)));
                (labels, Value::Value(figure(queue)))
            })
        })
    };
    let towards = |direction, figure| {
        of_queues(figure).map(move |(mut labels, value)| {
            labels.push(named("direction", direction));
            (labels, value)
        })
    };
    let bytes = towards("to_guest", |queue: &QueueMetrics| queue.bytes_to_guest)
        .chain(towards("from_guest", |queue: &QueueMetrics| queue.bytes_from_guest));
    [
        family("cofferdam_virtio_interrupts", Kind::Counter, "Interrupts that a device raised")
            .of(interrupts),
        family(
            "cofferdam_virtio_notifications",
            Kind::Counter,
            "How often a device was woken to serve a queue",
        )
        .of(of_queues(|queue| queue.notifications)),
        family("cofferdam_virtio_buffers", Kind::Counter, "Buffers that a queue gave back")
            .of(of_queues(|queue| queue.buffers)),
        family("cofferdam_virtio_transferred", Kind::Counter, "Bytes that went through a queue")
            .in_unit(Unit::Bytes)
            .of(bytes),
    ]
}

fn device_labels(device: &DeviceMetrics) -> [(&'static str, Label); 2] {
    let kind = match device.kind {
        DeviceKind::Vsock => "vsock",
        DeviceKind::Rng => "rng",
        DeviceKind::Fs => "fs",
        DeviceKind::Net => "net",
        DeviceKind::Blk => "blk",
    };
    [named("device", kind), ("slot", Label::Number(device.slot as usize))]
}

fn as_map<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(key, label)| (key, label)))
}

/// Each bucket on its own: how many in it, and up to which time.
fn as_buckets<S: Serializer>(value: &Distribution, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shown<'a> {
        bounds_us: &'a [u64],
        buckets: &'a [u64],
        sum_us: u64,
    }
    let bounds_us = &crate::figures::BUCKET_BOUNDS_US;
    Shown { bounds_us, buckets: &value.buckets, sum_us: value.sum_us }.serialize(serializer)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use cofferdam_protocol::monitor_metrics::MonitorMetrics;

    use super::*;
    use crate::metrics::snapshot::Container;

    /// A machine with a bit of everything.
    pub(crate) fn snapshot() -> Snapshot {
        let container = |isolation, status, is_member| Container { isolation, status, is_member };
        let queue = QueueMetrics { bytes_to_guest: 5, ..QueueMetrics::default() };
        let device =
            |kind, slot| DeviceMetrics { kind, slot, interrupts: 2, queues: vec![queue, queue] };
        let metrics = MonitorMetrics {
            monitor_kib: 3,
            guest_kib: u64::MAX,
            kvm_exits: Some(KvmExits { exits: 9, halt_exits: 4, ..KvmExits::default() }),
            devices: vec![
                device(DeviceKind::Fs, 0),
                device(DeviceKind::Net, 1),
                device(DeviceKind::Net, 2),
            ],
            ..MonitorMetrics::default()
        };
        Snapshot {
            containers: vec![
                container(SandboxKind::Microvm, Status::Running, false),
                container(SandboxKind::Microvm, Status::Running, true),
                container(SandboxKind::Namespace, Status::Stopped, false),
            ],
            monitors: vec![Monitor {
                root: "/run/a \"b\"\n\\c".into(),
                sandbox: "abc".parse().unwrap(),
                metrics,
            }],
            ..Snapshot::default()
        }
    }

    fn value(families: &[Family], name: &str, wanted: &[(&str, &str)]) -> Vec<u64> {
        let family = families.iter().find(|family| family.name == name).unwrap();
        let has = |sample: &&Sample| {
            let label = |key: &str| sample.labels.iter().find(|(other, _)| *other == key);
            wanted
                .iter()
                .all(|(key, text)| label(key).is_some_and(|(_, label)| label.to_string() == *text))
        };
        let values = family.samples.iter().filter(has).map(|sample| match &sample.value {
            Value::Value(value) => *value,
            Value::Histogram(distribution) => distribution.sum_us,
        });
        values.collect()
    }

    #[test]
    fn sandboxes_are_counted_by_isolation_and_status_and_members_apart() {
        let families = families(&snapshot());
        let count = |isolation, status| {
            let labels = [("isolation", isolation), ("status", status)];
            value(&families, "cofferdam_sandboxes", &labels)
        };
        assert_eq!(count("microvm", "running"), [1]);
        assert_eq!(count("namespace", "stopped"), [1]);
        assert_eq!(count("namespace", "running"), [0]);
        assert_eq!(value(&families, "cofferdam_pod_members", &[("status", "running")]), [1]);
    }

    #[test]
    fn memory_is_in_bytes_and_too_much_of_it_does_not_wrap() {
        let families = families(&snapshot());
        assert_eq!(value(&families, "cofferdam_monitor_memory", &[("sandbox", "abc")]), [3072]);
        assert_eq!(value(&families, "cofferdam_guest_memory", &[]), [u64::MAX]);
    }

    #[test]
    fn no_two_samples_have_the_same_labels() {
        for family in families(&snapshot()) {
            let labels = family.samples.iter().map(|sample| format!("{:?}", sample.labels));
            let different: BTreeSet<_> = labels.collect();
            assert_eq!(different.len(), family.samples.len(), "{}", family.name);
        }
    }

    #[test]
    fn what_a_host_does_not_count_is_absent_and_not_zero() {
        let mut snapshot = snapshot();
        snapshot.monitors[0].metrics.kvm_exits = None;
        let families = families(&snapshot);
        assert!(value(&families, "cofferdam_kvm_exits", &[]).is_empty());
        assert!(value(&families, "cofferdam_kvm_exits_by_reason", &[]).is_empty());
    }
}
