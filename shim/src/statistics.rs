//! What a container uses, in the messages that engines read: from what `events --stats` prints.
//!
//! Which of the two messages it is follows the numbers: a microVM's are its guest's, which has
//! cgroup v2, whatever the host has.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::reflect::{
    FieldDescriptor, ReflectValueBox, RuntimeFieldType, RuntimeType,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde_json::Value;

use crate::events::any;

const NANOSECONDS_IN_MICROSECOND: u64 = 1000;

/// The message for an event of the type `stats`.
pub(crate) fn message(event: &Value) -> Any {
    let data = &event["data"];
    // A counter that only v2 has.
    match data.pointer("/memory/raw/anon") {
        Some(_) => any(&of_v2(data)),
        None => any(&of_v1(data)),
    }
}

/// A number that is there, or zero: what is zero is not printed.
fn number(data: &Value, path: &str) -> u64 {
    data.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

fn of_v2(data: &Value) -> v2::Metrics {
    let microseconds = |path: &str| number(data, path) / NANOSECONDS_IN_MICROSECOND;
    let mut memory = v2::MemoryStat {
        usage: number(data, "/memory/usage/usage"),
        usage_limit: number(data, "/memory/usage/limit"),
        max_usage: number(data, "/memory/usage/max"),
        swap_usage: number(data, "/memory/swap/usage"),
        swap_limit: number(data, "/memory/swap/limit"),
        swap_max_usage: number(data, "/memory/swap/max"),
        ..Default::default()
    };
    fill(&mut memory, &data["memory"]["raw"]);
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: number(data, "/pids/current"),
            limit: number(data, "/pids/limit"),
            ..Default::default()
        })
        .into(),
        cpu: Some(v2::CPUStat {
            usage_usec: microseconds("/cpu/usage/total"),
            user_usec: microseconds("/cpu/usage/user"),
            system_usec: microseconds("/cpu/usage/kernel"),
            nr_periods: number(data, "/cpu/throttling/periods"),
            nr_throttled: number(data, "/cpu/throttling/throttledPeriods"),
            throttled_usec: microseconds("/cpu/throttling/throttledTime"),
            ..Default::default()
        })
        .into(),
        memory: Some(memory).into(),
        io: Some(v2::IOStat { usage: disks_v2(data), ..Default::default() }).into(),
        hugetlb: huge_pages(data, |pagesize, pages| v2::HugeTlbStat {
            current: number(pages, "/usage"),
            max: number(pages, "/max"),
            failcnt: number(pages, "/failcnt"),
            pagesize,
            ..Default::default()
        }),
        memory_events: Some(v2::MemoryEvents {
            max: number(data, "/memory/usage/failcnt"),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// A line for each disk.
fn disks_v2(data: &Value) -> Vec<v2::IOEntry> {
    let mut disks: Vec<v2::IOEntry> = Vec::new();
    let lists = [("/blkio/ioServiceBytesRecursive", true), ("/blkio/ioServicedRecursive", false)];
    for (path, is_bytes) in lists {
        for entry in data.pointer(path).and_then(Value::as_array).into_iter().flatten() {
            let (major, minor) = (number(entry, "/major"), number(entry, "/minor"));
            let place = disks.iter().position(|disk| (disk.major, disk.minor) == (major, minor));
            let place = place.unwrap_or_else(|| {
                disks.push(v2::IOEntry { major, minor, ..Default::default() });
                disks.len() - 1
            });
            let (disk, value) = (&mut disks[place], number(entry, "/value"));
            match (entry["op"].as_str().unwrap_or_default(), is_bytes) {
                (op, true) if op.eq_ignore_ascii_case("read") => disk.rbytes = value,
                (op, true) if op.eq_ignore_ascii_case("write") => disk.wbytes = value,
                (op, false) if op.eq_ignore_ascii_case("read") => disk.rios = value,
                (op, false) if op.eq_ignore_ascii_case("write") => disk.wios = value,
                _ => {}
            }
        }
    }
    disks
}

fn of_v1(data: &Value) -> v1::Metrics {
    let entry = |kind: &str| {
        let kind = format!("/memory/{kind}");
        Some(v1::MemoryEntry {
            limit: number(data, &format!("{kind}/limit")),
            usage: number(data, &format!("{kind}/usage")),
            max: number(data, &format!("{kind}/max")),
            failcnt: number(data, &format!("{kind}/failcnt")),
            ..Default::default()
        })
        .into()
    };
    let mut memory = v1::MemoryStat {
        usage: entry("usage"),
        swap: entry("swap"),
        kernel: entry("kernel"),
        kernel_tcp: entry("kernelTCP"),
        ..Default::default()
    };
    fill(&mut memory, &data["memory"]["raw"]);
    v1::Metrics {
        pids: Some(v1::PidsStat {
            current: number(data, "/pids/current"),
            limit: number(data, "/pids/limit"),
            ..Default::default()
        })
        .into(),
        cpu: Some(cpu_v1(data)).into(),
        memory: Some(memory).into(),
        blkio: Some(v1::BlkIOStat {
            io_service_bytes_recursive: disks_v1(data, "/blkio/ioServiceBytesRecursive"),
            io_serviced_recursive: disks_v1(data, "/blkio/ioServicedRecursive"),
            ..Default::default()
        })
        .into(),
        hugetlb: huge_pages(data, |pagesize, pages| v1::HugetlbStat {
            usage: number(pages, "/usage"),
            max: number(pages, "/max"),
            failcnt: number(pages, "/failcnt"),
            pagesize,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cpu_v1(data: &Value) -> v1::CPUStat {
    let each = data.pointer("/cpu/usage/percpu").and_then(Value::as_array);
    v1::CPUStat {
        usage: Some(v1::CPUUsage {
            total: number(data, "/cpu/usage/total"),
            kernel: number(data, "/cpu/usage/kernel"),
            user: number(data, "/cpu/usage/user"),
            per_cpu: each.into_iter().flatten().filter_map(Value::as_u64).collect(),
            ..Default::default()
        })
        .into(),
        throttling: Some(v1::Throttle {
            periods: number(data, "/cpu/throttling/periods"),
            throttled_periods: number(data, "/cpu/throttling/throttledPeriods"),
            throttled_time: number(data, "/cpu/throttling/throttledTime"),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

fn disks_v1(data: &Value, path: &str) -> Vec<v1::BlkIOEntry> {
    let entries = data.pointer(path).and_then(Value::as_array);
    let of = |entry: &Value| v1::BlkIOEntry {
        op: entry["op"].as_str().unwrap_or_default().to_owned(),
        major: number(entry, "/major"),
        minor: number(entry, "/minor"),
        value: number(entry, "/value"),
        ..Default::default()
    };
    entries.into_iter().flatten().map(of).collect()
}

fn huge_pages<M>(data: &Value, of: impl Fn(String, &Value) -> M) -> Vec<M> {
    let sizes = data["hugetlb"].as_object().into_iter().flatten();
    sizes.map(|(size, pages)| of(size.clone(), pages)).collect()
}

/// Sets the fields that have the kernel's names: `pgfault` is `pg_fault` in one of the messages.
fn fill<M: MessageFull>(message: &mut M, counters: &Value) {
    let plain = |name: &str| name.replace('_', "");
    let descriptor = M::descriptor();
    for (name, value) in counters.as_object().into_iter().flatten() {
        // `swap` is a counter of the kernel's and a message of containerd's.
        let field = descriptor
            .fields()
            .find(|field| plain(field.name()) == plain(name) && is_number(field));
        if let (Some(field), Some(value)) = (field, value.as_u64()) {
            field.set_singular_field(message, ReflectValueBox::U64(value));
        }
    }
}

fn is_number(field: &FieldDescriptor) -> bool {
    matches!(field.runtime_field_type(), RuntimeFieldType::Singular(RuntimeType::U64))
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::Message;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_v2_counts_is_v2_s_message() {
        let event = json!({ "type": "stats", "data": {
            "cpu": { "usage": { "total": 5000, "user": 3000, "kernel": 2000 } },
            "memory": { "usage": { "usage": 7, "limit": 9 }, "raw": { "anon": 4, "pgfault": 6 } },
            "pids": { "current": 2 },
            "blkio": { "ioServiceBytesRecursive": [
                { "major": 8, "op": "Read", "value": 11 }, { "major": 8, "op": "Write", "value": 12 }
            ] },
        }});
        let any = message(&event);
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec), (5, 3));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (7, 9));
        assert_eq!((metrics.memory.anon, metrics.memory.pgfault), (4, 6));
        assert_eq!(metrics.pids.current, 2);
        let disk = &metrics.io.usage[0];
        assert_eq!((disk.major, disk.rbytes, disk.wbytes), (8, 11, 12));
    }

    #[test]
    fn what_v1_counts_is_v1_s_message() {
        let event = json!({ "data": {
            "cpu": { "usage": { "total": 5, "percpu": [2, 3] } },
            "memory": { "cache": 1, "usage": { "usage": 7, "max": 8 },
                        "raw": { "total_rss": 4, "pgfault": 6, "cache": 1, "swap": 3 } },
        }});
        let any = message(&event);
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage.per_cpu, [2, 3]);
        let memory = &metrics.memory;
        assert_eq!((memory.usage.usage, memory.usage.max), (7, 8));
        assert_eq!((memory.total_rss, memory.pg_fault, memory.cache), (4, 6, 1));
    }
}
