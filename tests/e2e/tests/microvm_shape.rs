//! The size of a microVM: how many processors, and how much memory, the container's limits make.

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

const LOOK: &str = "grep -c ^processor /proc/cpuinfo; awk '/MemTotal/ { print $2 }' /proc/meminfo";

/// Processors, and KiB of memory.
fn shape(bundle: &Bundle) -> (u32, u64) {
    let outcome = Runtime::cofferdam().run(bundle);
    outcome.exits(0);
    let mut lines = outcome.stdout.lines();
    let mut next = || lines.next().unwrap_or_default();
    (next().parse().unwrap_or_default(), next().parse().unwrap_or_default())
}

#[test]
fn a_cpu_quota_of_three_makes_three_processors_that_all_work() {
    // Each one's own count of time grows: a processor that never came up has none.
    let work = "for cpu in 0 1 2; do taskset $((1 << cpu)) sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done' || exit 3; done";
    let bundle = Bundle::script(&format!("{LOOK}; {work}")).edit(|config| {
        config["linux"]["resources"] = json!({ "cpu": { "quota": 250_000, "period": 100_000 } });
    });
    assert_eq!(shape(&bundle).0, 3);
}

#[test]
fn a_container_without_limits_gets_one_processor_and_the_default_memory() {
    let (processors, kib) = shape(&Bundle::script(LOOK));
    assert_eq!(processors, 1);
    assert!((200 << 10..256 << 10).contains(&kib), "{kib} KiB");
}

#[test]
fn a_memory_limit_makes_a_guest_that_has_the_limit_and_what_the_kernel_takes() {
    let bundle = Bundle::script(LOOK).edit(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": 1 << 30 } });
    });
    let (_, kib) = shape(&bundle);
    assert!((1 << 20..1280 << 10).contains(&kib), "{kib} KiB");
}
