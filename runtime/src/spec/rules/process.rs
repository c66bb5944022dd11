//! A process, be it the container's first or another.

use oci_spec::runtime::{
    ExecCPUAffinity, LinuxIOPriority, LinuxSchedulerPolicy, PosixRlimit, Process, Scheduler, User,
};

use super::InvalidSpec;
use super::value::{absolute, no_nul, no_nuls, number, refused, within};
use crate::spec::cpu_list;

/// Linux gives a process no more (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// A size of a terminal is two bytes.
const MAX_CONSOLE: u64 = 65_535;
/// No user and no group has this number: for system calls it means "no change".
const NO_ID: u32 = u32::MAX;

/// The rules for a process.
///
/// # Errors
/// The first property that is wrong.
pub fn check_process(process: &Process) -> Result<(), InvalidSpec> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(InvalidSpec::Empty { path: "process.args".to_owned() });
    }
    no_nuls("process.args", Some(args))?;
    no_nuls("process.env", process.env().as_deref())?;
    absolute("process.cwd", process.cwd())?;
    console_size(process)?;
    user(process.user())?;
    rlimits(process.rlimits().as_deref().unwrap_or_default())?;
    if let Some(score) = process.oom_score_adj() {
        let allowed = "-1000 to 1000";
        within("process.oomScoreAdj", score, (-1000..=1000).contains(&score), allowed)?;
    }
    labels(process)?;
    process.io_priority().as_ref().map_or(Ok(()), io_priority)?;
    process.scheduler().as_ref().map_or(Ok(()), scheduler)?;
    process.exec_cpu_affinity().as_ref().map_or(Ok(()), affinity)
}

fn console_size(process: &Process) -> Result<(), InvalidSpec> {
    let Some(size) = process.console_size() else { return Ok(()) };
    let allowed = "0 to 65535";
    let (height, width) = (size.height(), size.width());
    within("process.consoleSize.height", height, height <= MAX_CONSOLE, allowed)?;
    within("process.consoleSize.width", width, width <= MAX_CONSOLE, allowed)
}

fn user(user: &User) -> Result<(), InvalidSpec> {
    let allowed = "0 to 4294967294";
    within("process.user.uid", user.uid(), user.uid() != NO_ID, allowed)?;
    within("process.user.gid", user.gid(), user.gid() != NO_ID, allowed)?;
    if let Some(umask) = user.umask() {
        within("process.user.umask", umask, umask <= 0o777, "0 to 511 (0777)")?;
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    for (index, gid) in groups.iter().enumerate() {
        within(&format!("process.user.additionalGids[{index}]"), gid, *gid != NO_ID, allowed)?;
    }
    let count = groups.len();
    let path = "process.user.additionalGids";
    if count > MAX_GROUPS { Err(number(path, count, "at most 65536 groups")) } else { Ok(()) }
}

fn rlimits(limits: &[PosixRlimit]) -> Result<(), InvalidSpec> {
    for (index, limit) in limits.iter().enumerate() {
        let path = format!("process.rlimits[{index}]");
        if limits.iter().take(index).any(|earlier| earlier.typ() == limit.typ()) {
            let name = limit.typ().to_string();
            return Err(refused(&format!("{path}.type"), &name, "each limit once"));
        }
        let fits = limit.soft() <= limit.hard();
        within(&format!("{path}.soft"), limit.soft(), fits, "0 to the hard limit")?;
    }
    Ok(())
}

fn labels(process: &Process) -> Result<(), InvalidSpec> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    no_nul("process.apparmorProfile", &text(process.apparmor_profile()))?;
    no_nul("process.selinuxLabel", &text(process.selinux_label()))
}

fn io_priority(priority: &LinuxIOPriority) -> Result<(), InvalidSpec> {
    let level = priority.priority();
    within("process.ioPriority.priority", level, (0..=7).contains(&level), "0 to 7")
}

fn scheduler(scheduler: &Scheduler) -> Result<(), InvalidSpec> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedIso, SchedRr};
    let policy = *scheduler.policy();
    if policy == SchedIso {
        let allowed = "a policy that Linux has: SCHED_ISO is reserved and not implemented";
        return Err(refused("process.scheduler.policy", "SCHED_ISO", allowed));
    }
    let nice = scheduler.nice().unwrap_or_default();
    within("process.scheduler.nice", nice, (-20..=19).contains(&nice), "-20 to 19")?;
    let priority = scheduler.priority().unwrap_or_default();
    let (allowed, words) = match policy {
        SchedFifo | SchedRr => (1..=99, "1 to 99 with this policy"),
        _ => (0..=0, "0 but with SCHED_FIFO and SCHED_RR"),
    };
    within("process.scheduler.priority", priority, allowed.contains(&priority), words)?;
    match policy {
        SchedDeadline => deadline(scheduler),
        _ => no_deadline(scheduler),
    }
}

fn no_deadline(scheduler: &Scheduler) -> Result<(), InvalidSpec> {
    let times = [
        ("process.scheduler.runtime", scheduler.runtime()),
        ("process.scheduler.deadline", scheduler.deadline()),
        ("process.scheduler.period", scheduler.period()),
    ];
    times.into_iter().try_for_each(|(path, time)| {
        let time = time.unwrap_or_default();
        within(path, time, time == 0, "0 but with SCHED_DEADLINE")
    })
}

/// As the kernel demands: runtime <= deadline <= period, where no period is the deadline.
fn deadline(scheduler: &Scheduler) -> Result<(), InvalidSpec> {
    const MIN_RUNTIME: u64 = 1024;
    let runtime = scheduler.runtime().unwrap_or_default();
    let deadline = scheduler.deadline().unwrap_or_default();
    let period = scheduler.period().filter(|period| *period != 0).unwrap_or(deadline);
    let path = "process.scheduler.runtime";
    within(path, runtime, runtime >= MIN_RUNTIME, "at least 1024 nanoseconds")?;
    within("process.scheduler.deadline", deadline, deadline >= runtime, "at least the runtime")?;
    within("process.scheduler.period", period, period >= deadline, "at least the deadline")
}

/// The parser takes lists that go backwards.
fn affinity(affinity: &ExecCPUAffinity) -> Result<(), InvalidSpec> {
    let lists = [
        ("process.execCPUAffinity.initial", affinity.initial()),
        ("process.execCPUAffinity.final", affinity.cpu_affinity_final()),
    ];
    lists.into_iter().try_for_each(|(path, list)| match list.as_deref() {
        None | Some("") => Ok(()),
        Some(list) => cpu_list::parse(list).map(drop).ok_or_else(|| refused(path, list, CPUS)),
    })
}

/// What a list of processors, or of memory nodes, looks like.
pub(super) const CPUS: &str = "a list of numbers and ranges: 0-2,7";
