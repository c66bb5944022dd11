//! Changes to the limits of a container that exists: what the limits are then, and what of them is
//! to be written.

use oci_spec::runtime::{LinuxMemory, LinuxResources};
use serde_json::Value;

/// The limits after a change, and what it takes to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceChange {
    /// Every limit.
    pub merged: LinuxResources,
    /// Those that were asked for, and those that go with them: memory with swap, a quota with its
    /// period. Nothing else needs to be written.
    pub written: LinuxResources,
}

/// What an update asks for, over what there is. As with runc a zero changes nothing where it is no
/// value (all but burst, idle and the number of processes), and devices cannot be changed.
///
/// # Errors
/// When the documents are none: limits as large as no machine.
pub fn change(
    present: &LinuxResources,
    wanted: &LinuxResources,
) -> Result<ResourceChange, serde_json::Error> {
    let wanted = without_zeros(wanted);
    let mut document = serde_json::to_value(present)?;
    merge(&mut document, serde_json::to_value(&wanted)?);
    let mut merged: LinuxResources = serde_json::from_value(document)?;
    let asked = wanted.memory().unwrap_or_default();
    if let Some(memory) = merged.memory_mut()
        && asked.limit() == Some(-1)
        && asked.swap().is_none()
    {
        // No limit on memory is none on swap: the old one would contradict it.
        memory.set_swap(None);
    }
    let written = with_companions(wanted, &merged);
    Ok(ResourceChange { merged, written })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn without_zeros(wanted: &LinuxResources) -> LinuxResources {
    let mut wanted = wanted.clone();
    wanted.set_devices(None);
    if let Some(memory) = wanted.memory_mut() {
        let limit = memory.limit().filter(|value| *value != 0);
        let reservation = memory.reservation().filter(|value| *value != 0);
        let swap = memory.swap().filter(|value| *value != 0);
        memory.set_limit(limit).set_reservation(reservation).set_swap(swap);
    }
    if let Some(cpu) = wanted.cpu_mut() {
        let quota = cpu.quota().filter(|value| *value != 0);
        let period = cpu.period().filter(|value| *value != 0);
        let shares = cpu.shares().filter(|value| *value != 0);
        let runtime = cpu.realtime_runtime().filter(|value| *value != 0);
        let rt_period = cpu.realtime_period().filter(|value| *value != 0);
        let cpus = cpu.cpus().clone().filter(|list| !list.is_empty());
        let mems = cpu.mems().clone().filter(|list| !list.is_empty());
        cpu.set_quota(quota).set_period(period).set_shares(shares);
        cpu.set_realtime_runtime(runtime).set_realtime_period(rt_period);
        cpu.set_cpus(cpus).set_mems(mems);
    }
    if let Some(block) = wanted.block_io_mut() {
        let weight = block.weight().filter(|value| *value != 0);
        block.set_weight(weight);
    }
    wanted
}

fn with_companions(mut wanted: LinuxResources, merged: &LinuxResources) -> LinuxResources {
    let all_memory: LinuxMemory = merged.memory().unwrap_or_default();
    if let Some(memory) = wanted.memory_mut()
        && (memory.limit().is_some() || memory.swap().is_some())
    {
        memory.set_limit(all_memory.limit()).set_swap(all_memory.swap());
    }
    let all_cpu = merged.cpu().clone().unwrap_or_default();
    if let Some(cpu) = wanted.cpu_mut()
        && (cpu.quota().is_some() || cpu.period().is_some())
    {
        cpu.set_quota(all_cpu.quota()).set_period(all_cpu.period());
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(present: &str, wanted: &str) -> (Value, Value) {
        let parse = |text| serde_json::from_str::<LinuxResources>(text).unwrap();
        let ResourceChange { merged, written } = change(&parse(present), &parse(wanted)).unwrap();
        (serde_json::to_value(merged).unwrap(), serde_json::to_value(written).unwrap())
    }

    #[test]
    fn what_is_asked_for_replaces_what_there_was_and_the_rest_stays() {
        let present = r#"{"devices":[{"allow":false}],"memory":{"limit":10,"reservation":5},
            "pids":{"limit":3}}"#;
        let (merged, written) = changed(present, r#"{"memory":{"reservation":6}}"#);
        assert_eq!(merged["memory"], serde_json::json!({"limit": 10, "reservation": 6}));
        assert_eq!(merged["pids"]["limit"], 3);
        assert_eq!(merged["devices"][0]["allow"], false);
        assert_eq!(written, serde_json::json!({"memory": {"reservation": 6}}));
    }

    #[test]
    fn what_goes_together_is_written_together() {
        let present = r#"{"memory":{"limit":10,"swap":20},"cpu":{"quota":5,"shares":7}}"#;
        let (_, written) = changed(present, r#"{"memory":{"limit":15},"cpu":{"period":9}}"#);
        assert_eq!(written["memory"], serde_json::json!({"limit": 15, "swap": 20}));
        assert_eq!(written["cpu"], serde_json::json!({"quota": 5, "period": 9}));
    }

    #[test]
    fn a_zero_is_no_change_where_it_is_no_value() {
        let present = r#"{"memory":{"limit":10},"cpu":{"quota":5,"burst":2},"pids":{"limit":3}}"#;
        let wanted = r#"{"memory":{"limit":0},"cpu":{"quota":0,"burst":0,"cpus":""},
            "pids":{"limit":0},"blockIO":{"weight":0}}"#;
        let (merged, written) = changed(present, wanted);
        assert_eq!(merged["memory"]["limit"], 10);
        assert_eq!(merged["cpu"], serde_json::json!({"quota": 5, "burst": 0}));
        assert_eq!(merged["pids"]["limit"], 0);
        assert_eq!(written["cpu"], serde_json::json!({"burst": 0}));
    }

    #[test]
    fn no_limit_on_memory_forgets_that_of_swap() {
        let (merged, written) =
            changed(r#"{"memory":{"limit":10,"swap":20}}"#, r#"{"memory":{"limit":-1}}"#);
        assert_eq!(merged["memory"], serde_json::json!({"limit": -1}));
        assert_eq!(written["memory"], serde_json::json!({"limit": -1}));
    }
}
