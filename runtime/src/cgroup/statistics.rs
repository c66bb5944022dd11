//! What a container uses, in the words of runc's `events`: from the files of its control groups, in
//! either version. For a microVM they are the guest's, read by its agent and parsed here.
//!
//! Hostile, when they are a guest's: bounded in number and length, never negative, and what makes
//! no sense is left out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::limits::Version;

/// A file's text by its name; absent: there is no such file.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The files of v2 that statistics are made from.
pub const V2_FILES: &[&str] = &[
    "cpu.stat",
    "cpu.pressure",
    "cpuset.cpus.effective",
    "cpuset.mems.effective",
    "memory.stat",
    "memory.current",
    "memory.max",
    "memory.peak",
    "memory.events",
    "memory.pressure",
    "memory.swap.current",
    "memory.swap.max",
    "memory.swap.peak",
    "memory.swap.events",
    "pids.current",
    "pids.max",
    "io.stat",
    "io.pressure",
    "hugetlb.2MB.current",
    "hugetlb.2MB.events",
    "hugetlb.1GB.current",
    "hugetlb.1GB.events",
];

/// Sizes of huge pages on x86-64.
const HUGE_PAGES: [&str; 2] = ["2MB", "1GB"];
/// A kernel has about sixty of them.
const MAX_MEMORY_COUNTERS: usize = 256;
/// A line for each disk and kind of operation.
const MAX_DISK_LINES: usize = 1024;
/// `NR_CPUS` of the largest kernels.
const MAX_CPUS: usize = 8192;
const NANOSECONDS_IN_MICROSECOND: u64 = 1000;
/// USER_HZ is 100 on every Linux that this runs on: a part of the system call interface.
const NANOSECONDS_IN_TICK: u64 = 10_000_000;

/// Everything, in runc's order and under its names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Processors.
    pub cpu: Cpu,
    /// Which of them.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Disks.
    pub blkio: BlockIo,
    /// Huge pages, by their size.
    pub hugetlb: BTreeMap<&'static str, HugePages>,
    /// Nothing: as runc has it where there is none.
    pub intel_rdt: BTreeMap<(), ()>,
    /// Nothing: as runc has it for interfaces that it did not make.
    pub network_interfaces: Option<()>,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Used.
    pub usage: CpuUsage,
    /// Withheld.
    pub throttling: Throttling,
    /// Waited for.
    #[serde(rename = "psi", skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// In nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

/// How often and how long a quota was used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// `cpuset.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    /// Memory.
    pub usage: MemoryUsage,
    /// Memory and swap.
    pub swap: MemoryUsage,
    kernel: MemoryUsage,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryUsage,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(rename = "psi", skip_serializing_if = "Option::is_none")]
    pressure: Option<Pressure>,
}

/// One kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUsage {
    /// The largest number for none.
    pub limit: u64,
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// At most so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most; zero for no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Disks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<DiskEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<DiskEntry>,
    #[serde(rename = "psi", skip_serializing_if = "Option::is_none")]
    pressure: Option<Pressure>,
}

/// One kind of operation on one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct DiskEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

/// Huge pages in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

/// How long some or all processes waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    some: Waiting,
    full: Waiting,
}

/// Parts of a hundred over three times, and microseconds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Waiting {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Statistics {
    /// From the files that `read` knows.
    #[must_use]
    pub fn from_files(version: Version, read: Read<'_>) -> Self {
        let hugetlb = HUGE_PAGES.iter().filter_map(|size| huge_pages(version, size, read));
        let common = Self {
            pids: Pids { current: number(read, "pids.current"), limit: number(read, "pids.max") },
            hugetlb: hugetlb.collect(),
            ..Self::default()
        };
        match version {
            Version::V1 => Self {
                cpu: cpu_v1(read),
                cpuset: cpuset_v1(read),
                memory: memory_v1(read),
                blkio: disks_v1(read),
                ..common
            },
            Version::V2 => Self {
                cpu: cpu_v2(read),
                cpuset: CpuSet {
                    cpus: list(read, "cpuset.cpus.effective"),
                    mems: list(read, "cpuset.mems.effective"),
                    ..CpuSet::default()
                },
                memory: memory_v2(read),
                blkio: disks_v2(read),
                ..common
            },
        }
    }
}

/// The number in a file; zero for anything else, `max` among it.
fn number(read: Read<'_>, file: &str) -> u64 {
    read(file).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A limit: the largest number for `max`, zero where there is no such file.
fn limit(read: Read<'_>, file: &str) -> u64 {
    match read(file).as_deref().map(str::trim) {
        Some("max") => u64::MAX,
        Some(text) => text.parse().unwrap_or(0),
        None => 0,
    }
}

/// Lines of a name and a number.
fn counters(read: Read<'_>, file: &str) -> BTreeMap<String, u64> {
    let plain = |name: &str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?)).filter(|(name, _)| plain(name))
    };
    read(file).unwrap_or_default().lines().take(MAX_MEMORY_COUNTERS).filter_map(line).collect()
}

fn counter(counters: &BTreeMap<String, u64>, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

/// `0-2,7`.
fn list(read: Read<'_>, file: &str) -> Vec<u16> {
    let text = read(file).unwrap_or_default();
    let mut found = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            found.extend((first..=last).take(MAX_CPUS - found.len().min(MAX_CPUS)));
        }
    }
    found
}

fn cpu_v1(read: Read<'_>) -> Cpu {
    let column = |text: &str, column: usize| -> Vec<u64> {
        let line = |line: &str| line.split(' ').nth(column)?.parse().ok();
        text.lines().skip(1).take(MAX_CPUS).filter_map(line).collect()
    };
    let numbers = |text: String| -> Vec<u64> {
        text.split_whitespace().take(MAX_CPUS).filter_map(|word| word.parse().ok()).collect()
    };
    let ticks = counters(read, "cpuacct.stat");
    let in_nanoseconds = |name: &str| counter(&ticks, name).saturating_mul(NANOSECONDS_IN_TICK);
    let all = read("cpuacct.usage_all").unwrap_or_default();
    let throttled = counters(read, "cpu.stat");
    Cpu {
        usage: CpuUsage {
            total: number(read, "cpuacct.usage"),
            percpu: numbers(read("cpuacct.usage_percpu").unwrap_or_default()),
            percpu_kernel: column(&all, 2),
            percpu_user: column(&all, 1),
            kernel: in_nanoseconds("system"),
            user: in_nanoseconds("user"),
        },
        throttling: Throttling {
            periods: counter(&throttled, "nr_periods"),
            throttled_periods: counter(&throttled, "nr_throttled"),
            throttled_time: counter(&throttled, "throttled_time"),
        },
        pressure: None,
    }
}

fn cpu_v2(read: Read<'_>) -> Cpu {
    let values = counters(read, "cpu.stat");
    let time = |name| counter(&values, name).saturating_mul(NANOSECONDS_IN_MICROSECOND);
    Cpu {
        usage: CpuUsage {
            total: time("usage_usec"),
            kernel: time("system_usec"),
            user: time("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: counter(&values, "nr_periods"),
            throttled_periods: counter(&values, "nr_throttled"),
            throttled_time: time("throttled_usec"),
        },
        pressure: pressure(read, "cpu.pressure"),
    }
}

fn cpuset_v1(read: Read<'_>) -> CpuSet {
    let value = |name: &str| number(read, &format!("cpuset.{name}"));
    let level = read("cpuset.sched_relax_domain_level");
    CpuSet {
        cpus: list(read, "cpuset.cpus"),
        cpu_exclusive: value("cpu_exclusive"),
        mems: list(read, "cpuset.mems"),
        mem_hardwall: value("mem_hardwall"),
        mem_exclusive: value("mem_exclusive"),
        memory_migrate: value("memory_migrate"),
        memory_spread_page: value("memory_spread_page"),
        memory_spread_slab: value("memory_spread_slab"),
        memory_pressure: value("memory_pressure"),
        sched_load_balance: value("sched_load_balance"),
        sched_relax_domain_level: level.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
    }
}

fn memory_v1(read: Read<'_>) -> Memory {
    let kind = |prefix: &str| MemoryUsage {
        limit: limit(read, &format!("{prefix}.limit_in_bytes")),
        usage: number(read, &format!("{prefix}.usage_in_bytes")),
        max: number(read, &format!("{prefix}.max_usage_in_bytes")),
        failcnt: number(read, &format!("{prefix}.failcnt")),
    };
    let raw = counters(read, "memory.stat");
    Memory {
        cache: counter(&raw, "cache"),
        usage: kind("memory"),
        swap: kind("memory.memsw"),
        kernel: kind("memory.kmem"),
        kernel_tcp: kind("memory.kmem.tcp"),
        raw,
        pressure: None,
    }
}

/// v2 counts swap alone; readers of this expect it together with memory.
fn memory_v2(read: Read<'_>) -> Memory {
    let raw = counters(read, "memory.stat");
    let memory = MemoryUsage {
        limit: limit(read, "memory.max"),
        usage: number(read, "memory.current"),
        max: number(read, "memory.peak"),
        failcnt: counter(&counters(read, "memory.events"), "max"),
    };
    let swap_limit = limit(read, "memory.swap.max");
    let unlimited = swap_limit == u64::MAX || memory.limit == u64::MAX;
    Memory {
        cache: counter(&raw, "file"),
        usage: memory,
        swap: MemoryUsage {
            limit: if unlimited { u64::MAX } else { swap_limit.saturating_add(memory.limit) },
            usage: number(read, "memory.swap.current").saturating_add(memory.usage),
            max: number(read, "memory.swap.peak").saturating_add(memory.max),
            failcnt: counter(&counters(read, "memory.swap.events"), "max"),
        },
        raw,
        pressure: pressure(read, "memory.pressure"),
        ..Memory::default()
    }
}

fn disks_v1(read: Read<'_>) -> BlockIo {
    let of = |name: &str| {
        let own = disk_lines(&read(&format!("blkio.bfq.{name}_recursive")).unwrap_or_default());
        if own.is_empty() {
            disk_lines(&read(&format!("blkio.throttle.{name}_recursive")).unwrap_or_default())
        } else {
            own
        }
    };
    BlockIo {
        io_service_bytes_recursive: of("io_service_bytes"),
        io_serviced_recursive: of("io_serviced"),
        pressure: None,
    }
}

/// `8:0 Read 4096`.
fn disk_lines(text: &str) -> Vec<DiskEntry> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let op = words.next()?.to_owned();
        let value = words.next()?.parse().ok()?;
        Some(DiskEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    };
    text.lines().take(MAX_DISK_LINES).filter_map(line).collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
fn disks_v2(read: Read<'_>) -> BlockIo {
    let mut disks = BlockIo { pressure: pressure(read, "io.pressure"), ..BlockIo::default() };
    for line in read("io.stat").unwrap_or_default().lines().take(MAX_DISK_LINES) {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|disk| disk.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (bytes, op) = match key {
                "rbytes" => (true, "Read"),
                "wbytes" => (true, "Write"),
                "rios" => (false, "Read"),
                "wios" => (false, "Write"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            let entry = DiskEntry { major, minor, op: op.to_owned(), value };
            let to = if bytes {
                &mut disks.io_service_bytes_recursive
            } else {
                &mut disks.io_serviced_recursive
            };
            to.push(entry);
        }
    }
    disks
}

fn huge_pages(
    version: Version,
    size: &'static str,
    read: Read<'_>,
) -> Option<(&'static str, HugePages)> {
    let file = |name: &str| format!("hugetlb.{size}.{name}");
    let pages = match version {
        Version::V1 => {
            read(&file("usage_in_bytes"))?;
            HugePages {
                usage: number(read, &file("usage_in_bytes")),
                max: number(read, &file("max_usage_in_bytes")),
                failcnt: number(read, &file("failcnt")),
            }
        }
        Version::V2 => {
            read(&file("current"))?;
            HugePages {
                usage: number(read, &file("current")),
                max: 0,
                failcnt: counter(&counters(read, &file("events")), "max"),
            }
        }
    };
    Some((size, pages))
}

/// Absent where the kernel does not count it.
fn pressure(read: Read<'_>, file: &str) -> Option<Pressure> {
    let text = read(file)?;
    let waiting = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| {
            line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let part = |name| {
            let part = value(name)?.parse::<f64>().ok()?;
            Some(if part.is_finite() { part.clamp(0.0, 100.0) } else { 0.0 })
        };
        Some(Waiting {
            avg10: part("avg10")?,
            avg60: part("avg60")?,
            avg300: part("avg300")?,
            total: value("total")?.parse().ok()?,
        })
    };
    Some(Pressure { some: waiting("some ")?, full: waiting("full ").unwrap_or_default() })
}

#[cfg(test)]
mod tests;
