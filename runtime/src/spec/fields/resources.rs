//! `linux.resources`: limits.

use super::Treatment::{Guest, Host, Refused, Void, Where};
use super::{Field, HOST_HARDWARE, NOT_IN_VERSION_TWO, field};

const NO_SWAP: &str = "a guest has no swap, so that every limit on it is kept";
const OBSOLETE: &str = "Linux has no such limit any more: the kernel's memory counts as memory";
const ALWAYS: &str = "cgroups count what is below them, always";
const V2_ONLY: &str = "invalid configuration: the values are of cgroup v2, and this host has v1";
const V1_ONLY: &str = "a weight of leaves is of cgroup v1, and this host has v2";
const ONLY_UPDATE: &str = "a new container uses nothing yet";
const NOT_IMPLEMENTED: &str = "not implemented";

pub(super) const FIELDS: &[Field] = &[
    field("linux.resources.devices[].allow", Guest, Host),
    field("linux.resources.devices[].type", Guest, Host),
    field("linux.resources.devices[].major", Guest, Host),
    field("linux.resources.devices[].minor", Guest, Host),
    field("linux.resources.devices[].access", Guest, Host),
    field("linux.resources.memory.limit", Guest, Host),
    field("linux.resources.memory.reservation", Guest, Host),
    field("linux.resources.memory.swap", Void(NO_SWAP), Host),
    field("linux.resources.memory.kernel", Void(OBSOLETE), Void(OBSOLETE)),
    field("linux.resources.memory.kernelTCP", Void(OBSOLETE), Void(OBSOLETE)),
    field("linux.resources.memory.swappiness", Void(NO_SWAP), Host),
    field("linux.resources.memory.disableOOMKiller", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.memory.useHierarchy", Void(ALWAYS), Void(ALWAYS)),
    field("linux.resources.memory.checkBeforeUpdate", Void(ONLY_UPDATE), Void(ONLY_UPDATE)),
    field("linux.resources.cpu.shares", Guest, Host),
    field("linux.resources.cpu.quota", Guest, Host),
    field("linux.resources.cpu.burst", Guest, Host),
    field("linux.resources.cpu.period", Guest, Host),
    field("linux.resources.cpu.realtimeRuntime", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.cpu.realtimePeriod", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.cpu.cpus", Host, Host),
    field("linux.resources.cpu.mems", Host, Host),
    field("linux.resources.cpu.idle", Guest, Host),
    field("linux.resources.pids.limit", Guest, Host),
    field("linux.resources.blockIO.weight", Host, Host),
    field("linux.resources.blockIO.leafWeight", Where(V1_ONLY), Where(V1_ONLY)),
    field("linux.resources.blockIO.weightDevice[].major", Host, Host),
    field("linux.resources.blockIO.weightDevice[].minor", Host, Host),
    field("linux.resources.blockIO.weightDevice[].weight", Host, Host),
    field("linux.resources.blockIO.weightDevice[].leafWeight", Where(V1_ONLY), Where(V1_ONLY)),
    field("linux.resources.blockIO.throttleReadBpsDevice[].major", Host, Host),
    field("linux.resources.blockIO.throttleReadBpsDevice[].minor", Host, Host),
    field("linux.resources.blockIO.throttleReadBpsDevice[].rate", Host, Host),
    field("linux.resources.blockIO.throttleWriteBpsDevice[].major", Host, Host),
    field("linux.resources.blockIO.throttleWriteBpsDevice[].minor", Host, Host),
    field("linux.resources.blockIO.throttleWriteBpsDevice[].rate", Host, Host),
    field("linux.resources.blockIO.throttleReadIOPSDevice[].major", Host, Host),
    field("linux.resources.blockIO.throttleReadIOPSDevice[].minor", Host, Host),
    field("linux.resources.blockIO.throttleReadIOPSDevice[].rate", Host, Host),
    field("linux.resources.blockIO.throttleWriteIOPSDevice[].major", Host, Host),
    field("linux.resources.blockIO.throttleWriteIOPSDevice[].minor", Host, Host),
    field("linux.resources.blockIO.throttleWriteIOPSDevice[].rate", Host, Host),
    field("linux.resources.hugepageLimits[].pageSize", Guest, Host),
    field("linux.resources.hugepageLimits[].limit", Guest, Host),
    field("linux.resources.network.classID", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.network.priorities[].name", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.network.priorities[].priority", Refused(NOT_IN_VERSION_TWO), Host),
    field("linux.resources.rdma.*.hcaHandles", Refused(HOST_HARDWARE), Refused(NOT_IMPLEMENTED)),
    field("linux.resources.rdma.*.hcaObjects", Refused(HOST_HARDWARE), Refused(NOT_IMPLEMENTED)),
    field("linux.resources.unified", Guest, Where(V2_ONLY)),
];
