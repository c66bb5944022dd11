//! The flags of `update` as the spec's limits.

use std::str::FromStr;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::cli::UpdateArgs;

/// A flag's value is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for {flag}: {value:?} is not {wanted}")]
pub struct InvalidFlag {
    /// Which.
    flag: &'static str,
    /// What was said.
    value: String,
    /// What could have been.
    wanted: &'static str,
}

/// What the flags ask for.
pub(super) fn resources(args: &UpdateArgs) -> Result<LinuxResources, InvalidFlag> {
    for (flag, value) in
        [("kernel-memory", &args.kernel_memory), ("kernel-memory-tcp", &args.kernel_memory_tcp)]
    {
        if size(flag, value)?.is_some() {
            tracing::warn!("Kernel memory settings are ignored and will be removed");
        }
    }
    let mut resources = LinuxResources::default();
    resources.set_memory(memory(args)?);
    resources.set_cpu(cpu(args)?);
    if let Some(limit) = integer("pids-limit", &args.pids_limit)? {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = integer("blkio-weight", &args.blkio_weight)? {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}

fn memory(args: &UpdateArgs) -> Result<Option<LinuxMemory>, InvalidFlag> {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(size("memory", &args.memory)?)
        .set_reservation(size("memory-reservation", &args.memory_reservation)?)
        .set_swap(size("memory-swap", &args.memory_swap)?);
    Ok(Some(memory).filter(|memory| *memory != LinuxMemory::default()))
}

fn cpu(args: &UpdateArgs) -> Result<Option<LinuxCpu>, InvalidFlag> {
    let mut cpu = LinuxCpu::default();
    cpu.set_period(integer("cpu-period", &args.cpu_period)?)
        .set_quota(integer("cpu-quota", &args.cpu_quota)?)
        .set_burst(integer("cpu-burst", &args.cpu_burst)?)
        .set_shares(integer("cpu-share", &args.cpu_share)?)
        .set_realtime_period(integer("cpu-rt-period", &args.cpu_rt_period)?)
        .set_realtime_runtime(integer("cpu-rt-runtime", &args.cpu_rt_runtime)?)
        .set_idle(integer("cpu-idle", &args.cpu_idle)?)
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());
    Ok(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
}

/// A number. As with runc an empty one is none.
fn integer<T: FromStr>(
    flag: &'static str,
    value: &Option<String>,
) -> Result<Option<T>, InvalidFlag> {
    let Some(text) = value.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let invalid = |_| InvalidFlag { flag, value: text.to_owned(), wanted: "a number in its range" };
    text.parse().map(Some).map_err(invalid)
}

/// Bytes, or -1.
fn size(flag: &'static str, value: &Option<String>) -> Result<Option<i64>, InvalidFlag> {
    let Some(text) = value.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let wanted = "a size, such as 67108864 or 64m, or -1";
    let invalid = || InvalidFlag { flag, value: text.to_owned(), wanted };
    if text == "-1" { Ok(Some(-1)) } else { bytes(text).ok_or_else(invalid).map(Some) }
}

/// `512`, `1.5g`, `64 MiB`: powers of 1024 whatever the unit is called.
fn bytes(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match unit.strip_suffix('i').filter(|unit| !unit.is_empty()).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let factor = 1_i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor);
    }
    fraction(number, factor)
}

/// A number with a point in it, times a factor, rounded down.
fn fraction(number: &str, factor: i64) -> Option<i64> {
    /// More digits make no byte.
    const MAX_DIGITS: usize = 15;
    let (whole, part) = number.split_once('.')?;
    let digits = part.get(..part.len().min(MAX_DIGITS))?;
    let denominator = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let numerator = whole.checked_mul(denominator)? + digits.parse::<i128>().ok()?;
    i64::try_from(numerator.checked_mul(i128::from(factor))? / denominator).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_become_the_fields_of_the_specification() {
        let say = |text: &str| Some(text.to_owned());
        let args = UpdateArgs {
            memory: say("64m"),
            memory_swap: say("-1"),
            cpu_quota: say("-1"),
            cpu_share: say("100"),
            cpu_burst: say("0"),
            cpu_idle: say("1"),
            cpuset_cpus: say("0-1"),
            pids_limit: say("-1"),
            blkio_weight: say("500"),
            ..UpdateArgs::default()
        };
        assert_eq!(
            serde_json::to_value(resources(&args).unwrap()).unwrap(),
            json!({
                "memory": { "limit": 67_108_864, "swap": -1 },
                "cpu": { "quota": -1, "shares": 100, "burst": 0, "idle": 1, "cpus": "0-1" },
                "pids": { "limit": -1 },
                "blockIO": { "weight": 500 },
            })
        );
        assert_eq!(resources(&UpdateArgs::default()).unwrap(), LinuxResources::default());
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512b", Some(512)),
            ("1k", Some(1024)),
            ("1.5g", Some(1_610_612_736)),
            ("64 MiB", Some(67_108_864)),
            ("2TB", Some(2_199_023_255_552)),
            (".5k", Some(512)),
            ("-2", None),
            ("x", None),
            ("1.2.3", None),
            ("1e3", None),
            ("", None),
            ("i", None),
            ("99999999p", None),
            ("é", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_value_that_is_none_is_named_by_its_flag() {
        let args = UpdateArgs { cpu_period: Some("x".to_owned()), ..UpdateArgs::default() };
        let text = resources(&args).unwrap_err().to_string();
        assert_eq!(text, "invalid value for cpu-period: \"x\" is not a number in its range");
        let args = UpdateArgs { memory: Some("many".to_owned()), ..UpdateArgs::default() };
        assert!(resources(&args).unwrap_err().to_string().contains("invalid value for memory"));
    }
}
