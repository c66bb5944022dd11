//! `--systemd-cgroup`: a control group that systemd makes (v2), a scope around a process that is there
//! already.
//!
//! ```text
//!   SLICE:PREFIX:NAME ──start──▶ PREFIX-NAME.scope in SLICE, with the process in it
//!                                  └─▶ a group like any other: entered and limited as files
//!                      the last process has ended ──stop──▶ systemd removes it
//! ```
//! It is asked on its own socket ([`bus`]), D-Bus daemon or not.
//!
//! What this is not: it starts no process, and takes none from a scope that somebody else has.

mod bus;
mod message;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use super::limits::{self, LimitError, Present, Version};
use super::writes::Write;
use crate::host::log::with_causes;
use crate::spec::cpu_list;
use bus::Bus;
use message::{Arguments, Property, Value};

pub use bus::BusError;

/// systemd says that it will, and then does: it has this long.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

/// systemd has a unit of that name.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// It has none.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// systemd does not manage the control groups.
    #[error("--systemd-cgroup needs a host that systemd has booted, with cgroup v2 only")]
    NoSystemd,
    /// A path that is none of systemd's.
    #[error("linux.cgroupsPath is {0}: for systemd it is SLICE:PREFIX:NAME")]
    Path(PathBuf),
    /// systemd is not to be asked.
    #[error("systemd, which is to make the container's control group, cannot be asked")]
    Bus(#[source] BusError),
    /// Somebody else's processes are in it. The words are runc's.
    #[error("container's cgroup is not empty: there are processes in the scope {0}")]
    InUse(PathBuf),
    /// systemd refused.
    #[error("systemd does not make the container's control group")]
    Refused(#[source] BusError),
    /// The group that systemd made is not to be found.
    #[error("The control group that systemd has made cannot be found")]
    Group(#[source] io::Error),
    /// It was made for nobody.
    #[error("systemd has not put the container's process into {0}")]
    Late(String),
    /// The limits contradict each other.
    #[error("The limits cannot be kept")]
    Limits(#[from] LimitError),
    /// systemd refused a limit.
    #[error("systemd does not limit the container's control group")]
    Limit(#[source] BusError),
    /// systemd keeps it.
    #[error("systemd does not stop the unit of the container's control group")]
    Stop(#[source] BusError),
}

/// A unit that systemd makes, by the path that the configuration has for it.
#[derive(Clone, Debug)]
pub struct Unit {
    path: PathBuf,
    id: String,
}

impl Unit {
    /// What systemd is to make, looked at before anything is made.
    ///
    /// # Errors
    /// When there is no systemd, or the path is not one of its.
    pub fn planned(said: Option<PathBuf>, id: &str) -> Result<Self, ScopeError> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if !(unified && Path::new("/run/systemd/system").is_dir()) {
            return Err(ScopeError::NoSystemd);
        }
        let path = said.unwrap_or_else(|| format!("system.slice:cofferdam:{id}").into());
        match path.to_string_lossy().matches(':').count() {
            2 => Ok(Self::known(path, id)),
            _ => Err(ScopeError::Path(path)),
        }
    }

    /// One that was planned.
    #[must_use]
    pub fn known(path: PathBuf, id: &str) -> Self {
        Self { path, id: id.to_owned() }
    }

    /// The path that the configuration has for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has systemd make it, with a process in it: the group's path from the top of the hierarchy.
    ///
    /// # Errors
    /// When it does not, or when somebody has it already.
    pub fn start(&self, pid: i32) -> Result<PathBuf, ScopeError> {
        let mut bus = Bus::open().map_err(ScopeError::Bus)?;
        let name = self.name();
        let start = Arguments::default()
            .text(&name)
            .text("fail")
            .properties(&self.properties(pid))
            .no_units();
        let mut started = bus.call("StartTransientUnit", &start);
        if started.as_ref().is_err_and(|error| error.is(UNIT_EXISTS)) {
            // One that has failed is kept for whoever wants to know why, and is in nobody's way.
            let _ = bus.call("ResetFailedUnit", &Arguments::default().text(&name));
            started = bus.call("StartTransientUnit", &start);
        }
        match started {
            Ok(()) => wait_until_inside(pid, &name),
            Err(error) if error.is(UNIT_EXISTS) => Err(ScopeError::InUse(self.path.clone())),
            Err(error) => Err(ScopeError::Refused(error)),
        }
    }

    /// Tells systemd of what is written to the files of the group, as far as it has a name for it: else it
    /// would undo that when it sets the limits of its units anew (`systemctl daemon-reload`).
    ///
    /// # Errors
    /// When it refuses one.
    pub fn tell(&self, writes: &[Write]) -> Result<(), ScopeError> {
        let limits: Vec<Property> = writes.iter().flat_map(known).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let arguments = Arguments::default().text(&self.name()).flag(RUNTIME).properties(&limits);
        let mut bus = Bus::open().map_err(ScopeError::Bus)?;
        bus.call("SetUnitProperties", &arguments).map_err(ScopeError::Limit)
    }

    /// Tells systemd of limits that others write.
    ///
    /// # Errors
    /// When they contradict each other, or it refuses one.
    pub fn tell_limits(&self, resources: &LinuxResources) -> Result<(), ScopeError> {
        self.tell(&limits::writes(Version::V2, resources, Present::default())?)
    }

    /// Has systemd end it, whose processes have ended, and waits until its groups are gone. That it is
    /// not possible is said, and keeps nobody from removing them.
    ///
    /// A group that is removed before its unit ends is made again by whatever has systemd set the
    /// limits of its units: a reload, another unit beside it.
    pub fn stop(&self, folders: &[PathBuf], deadline: Instant) {
        if let Err(error) = self.end(folders, deadline) {
            let reason = with_causes(&error);
            tracing::warn!("The container's control group may be made again by systemd: {reason}");
        }
    }

    fn end(&self, folders: &[PathBuf], deadline: Instant) -> Result<(), ScopeError> {
        let name = Arguments::default().text(&self.name());
        let mut bus = Bus::open().map_err(ScopeError::Bus)?;
        match bus.call("StopUnit", &name.clone().text("replace")) {
            // It has ended with its last process.
            Err(error) if error.is(NO_SUCH_UNIT) => return Ok(()),
            stopped => stopped.map_err(ScopeError::Stop)?,
        }
        while folders.iter().any(|folder| folder.exists()) && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        // One that has failed (for want of memory, say) is kept until somebody has seen it.
        let _ = bus.call("ResetFailedUnit", &name);
        Ok(())
    }

    /// Slice, prefix and name.
    fn parts(&self) -> [String; 3] {
        let text = self.path.to_string_lossy();
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        [(); 3].map(|()| parts.next().unwrap_or_default())
    }

    /// As runc names it.
    fn name(&self) -> String {
        let [_, prefix, name] = self.parts();
        if is_slice(&name) {
            name
        } else if prefix.is_empty() {
            format!("{name}.scope")
        } else {
            format!("{prefix}-{name}.scope")
        }
    }

    fn properties(&self, pid: i32) -> Vec<Property> {
        let [slice, ..] = self.parts();
        let slice = if slice.is_empty() { "system.slice".to_owned() } else { slice };
        let mut properties = vec![
            ("Description", Value::Text(format!("cofferdam container {}", self.id))),
            ("DefaultDependencies", Value::Flag(false)),
            ("MemoryAccounting", Value::Flag(true)),
            ("CPUAccounting", Value::Flag(true)),
            ("IOAccounting", Value::Flag(true)),
            ("TasksAccounting", Value::Flag(true)),
            ("PIDs", Value::Numbers(vec![pid.unsigned_abs()])),
        ];
        if is_slice(&self.name()) {
            properties.push(("Wants", Value::Text(slice)));
        } else {
            properties.push(("Slice", Value::Text(slice)));
            // What is below it is the container's to arrange.
            properties.push(("Delegate", Value::Flag(true)));
        }
        properties
    }
}

/// `SetUnitProperties`: until the unit ends, and not for the next boot.
const RUNTIME: bool = true;

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

/// Files of the group whose number systemd has a name for.
const NUMBERS: [(&str, &str); 6] = [
    ("pids.max", "TasksMax"),
    ("memory.max", "MemoryMax"),
    ("memory.high", "MemoryHigh"),
    ("memory.low", "MemoryLow"),
    ("memory.swap.max", "MemorySwapMax"),
    ("cpu.weight", "CPUWeight"),
];
/// Files of the group whose list of processors or memory nodes systemd has a name for.
const SETS: [(&str, &str); 2] =
    [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")];

/// What a write to the group's files is to systemd. The others it leaves alone.
fn known(write: &Write) -> Vec<Property> {
    let number = |(file, name)| Some((name, Value::Number(number_of(write.value_of(file)?)?)));
    let set = |(file, name)| Some((name, Value::Bytes(bits_of(write.value_of(file)?)?)));
    let mut properties: Vec<Property> = NUMBERS.into_iter().filter_map(number).collect();
    properties.extend(SETS.into_iter().filter_map(set));
    properties.extend(write.value_of("cpu.max").map(quota_of).into_iter().flatten());
    properties
}

/// `max` is the largest.
fn number_of(value: &str) -> Option<u64> {
    if value == "max" { Some(u64::MAX) } else { value.parse().ok() }
}

/// A list as bits, the first one the lowest of the first byte.
fn bits_of(list: &str) -> Option<Vec<u8>> {
    let numbers = cpu_list::parse(list)?;
    let mut bits = vec![0; numbers.last().map_or(0, |last| *last as usize / 8 + 1)];
    for number in numbers {
        bits[number as usize / 8] |= 1 << (number % 8);
    }
    Some(bits)
}

/// `QUOTA PERIOD` in microseconds; `max` is no quota.
fn quota_of(value: &str) -> Vec<Property> {
    let mut words = value.split_ascii_whitespace().map(number_of);
    let Some(Some(quota)) = words.next() else { return Vec::new() };
    let period = words.next().flatten().filter(|period| *period != 0).unwrap_or(DEFAULT_PERIOD_US);
    let share = if quota == u64::MAX { quota } else { quota_per_second(quota, period) };
    vec![
        ("CPUQuotaPeriodUSec", Value::Number(period)),
        ("CPUQuotaPerSecUSec", Value::Number(share)),
    ]
}

/// The kernel's, and systemd's.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// systemd knows a share of a second, in whole hundredths: the next one up, as runc does it.
fn quota_per_second(quota: u64, period: u64) -> u64 {
    const SECOND_US: u128 = 1_000_000;
    const HUNDREDTH_US: u128 = 10_000;
    let share = (u128::from(quota) * SECOND_US).div_ceil(u128::from(period));
    u64::try_from(share.next_multiple_of(HUNDREDTH_US)).unwrap_or(u64::MAX)
}

/// systemd's answer is that it will: the group's path, when the process is in it.
fn wait_until_inside(pid: i32, unit: &str) -> Result<PathBuf, ScopeError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let group = group_of(pid).map_err(ScopeError::Group)?;
        if group.ends_with(unit) {
            return Ok(group);
        }
        if Instant::now() > end {
            return Err(ScopeError::Late(unit.to_owned()));
        }
        thread::sleep(PAUSE);
    }
}

/// The group (v2) that a process is in.
fn group_of(pid: i32) -> io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(path.ok_or(io::ErrorKind::NotFound)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<Property> {
        let resources = serde_json::from_str(text).unwrap();
        let writes = limits::writes(Version::V2, &resources, Present::default()).unwrap();
        writes.iter().flat_map(known).collect()
    }

    #[test]
    fn systemd_is_told_of_what_it_has_a_name_for() {
        let resources = r#"{"memory":{"limit":1000,"swap":2500,"reservation":500},"pids":{"limit":9},
            "cpu":{"shares":1024,"quota":50000,"cpus":"0-1,9","mems":"0","burst":1},
            "blockIO":{"weight":10},"unified":{"io.max":"1","memory.high":"800"}}"#;
        let expected = [
            ("MemorySwapMax", Value::Number(1500)),
            ("MemoryMax", Value::Number(1000)),
            ("MemoryLow", Value::Number(500)),
            ("AllowedCPUs", Value::Bytes(vec![3, 2])),
            ("AllowedMemoryNodes", Value::Bytes(vec![1])),
            ("CPUWeight", Value::Number(100)),
            ("CPUQuotaPeriodUSec", Value::Number(100_000)),
            ("CPUQuotaPerSecUSec", Value::Number(500_000)),
            ("TasksMax", Value::Number(9)),
            ("MemoryHigh", Value::Number(800)),
        ];
        assert_eq!(told(resources), expected);
    }

    #[test]
    fn what_is_no_limit_is_not_told_or_is_infinite() {
        assert_eq!(told(r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0}}"#), []);
        let infinite = |name| (name, Value::Number(u64::MAX));
        let none = r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1}}"#;
        let period = ("CPUQuotaPeriodUSec", Value::Number(100_000));
        let names = ["MemorySwapMax", "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax"];
        let mut expected: Vec<Property> = names.map(infinite).into();
        expected.insert(2, period);
        assert_eq!(told(none), expected);
    }

    #[test]
    fn a_quota_is_a_share_of_a_second_in_hundredths() {
        assert_eq!(quota_per_second(50_000, 100_000), 500_000);
        assert_eq!(quota_per_second(1_000, 3_000), 340_000);
        assert_eq!(quota_per_second(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn a_unit_is_named_as_runc_names_it() {
        let name = |path: &str| Unit::known(path.into(), "id").name();
        assert_eq!(name("system.slice:cofferdam:a"), "cofferdam-a.scope");
        assert_eq!(name("a.slice::b"), "b.scope");
        assert_eq!(name("-.slice:x:own.slice"), "own.slice");
        let slice = |path: &str| Unit::known(path.into(), "id").properties(1).pop();
        assert_eq!(slice("a.slice::b"), Some(("Delegate", Value::Flag(true))));
        assert_eq!(slice(":x:own.slice"), Some(("Wants", Value::Text("system.slice".to_owned()))));
    }

    #[test]
    fn the_group_of_a_process_is_read_from_proc() {
        assert!(group_of(std::process::id().cast_signed()).unwrap().is_absolute());
    }
}
