//! One process: who it is, what it may do, what it is connected to.

use cofferdam_protocol::plan::{ProcessPlan, RlimitPlan, StdioPlan};
use oci_spec::runtime::{Linux, LinuxPersonalityDomain, PosixRlimit, PosixRlimitType, Process};

use super::environment::last_of_each_name;
use super::scheduling::{self, SchedulingError};
use super::seccomp::{self, SeccompError};
use super::{capability, mounts};

/// Why a process cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nothing to run.
    #[error("process.args is empty")]
    NoArguments,
    /// A path that is not text.
    #[error("process.cwd is not UTF-8")]
    Encoding,
    /// Where to run.
    #[error("process.cwd {0:?} is not absolute")]
    RelativeFolder(String),
    /// The specification wants an error.
    #[error("process.rlimits names {0} twice")]
    DuplicateRlimit(PosixRlimitType),
    /// Where it is to run.
    #[error("The process cannot be scheduled so")]
    Scheduling(#[source] SchedulingError),
    /// The filter.
    #[error("The seccomp filter cannot be made")]
    Seccomp(#[source] SeccompError),
}

/// The plan of a process.
pub(super) fn plan(
    process: &Process,
    linux: Option<&Linux>,
    stdio: StdioPlan,
) -> Result<ProcessPlan, ProcessError> {
    let args = process.args().clone().filter(|args| !args.is_empty());
    let user = process.user();
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    let personality = linux.and_then(|linux| linux.personality().as_ref());
    Ok(ProcessPlan {
        args: args.ok_or(ProcessError::NoArguments)?,
        env: last_of_each_name(process.env().as_deref().unwrap_or_default()),
        cwd: working_folder(process)?,
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capability::plan(process.capabilities().as_ref()),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj(),
        scheduling: scheduling::plan(process),
        personality: personality.map(|personality| persona(personality.domain())),
        seccomp: seccomp.map(seccomp::compile).transpose().map_err(ProcessError::Seccomp)?,
        stdio,
    })
}

fn working_folder(process: &Process) -> Result<String, ProcessError> {
    let path = process.cwd();
    let text = path.to_str().ok_or(ProcessError::Encoding)?;
    if !path.is_absolute() {
        return Err(ProcessError::RelativeFolder(text.to_owned()));
    }
    // Cleaning takes only ASCII separators and dots out of what is text already.
    Ok(mounts::absolute(path).to_string_lossy().into_owned())
}

fn rlimits(limits: &[PosixRlimit]) -> Result<Vec<RlimitPlan>, ProcessError> {
    let mut plans: Vec<RlimitPlan> = Vec::with_capacity(limits.len());
    for limit in limits {
        let resource = resource(limit.typ());
        if plans.iter().any(|plan| plan.resource == resource) {
            return Err(ProcessError::DuplicateRlimit(limit.typ()));
        }
        plans.push(RlimitPlan { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(plans)
}

/// `PER_*` of linux/personality.h.
const fn persona(domain: LinuxPersonalityDomain) -> u32 {
    match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

/// `RLIMIT_*` of x86-64 Linux.
const fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STDIO: StdioPlan = StdioPlan::Pipes { stdin: false, stdout: true, stderr: true };

    fn process(text: &str) -> Result<ProcessPlan, ProcessError> {
        plan(&serde_json::from_str(text).unwrap(), None, STDIO)
    }

    #[test]
    fn nothing_to_run_and_nowhere_to_run_are_named() {
        let user = r#""user":{"uid":0,"gid":0}"#;
        let none = process(&format!(r#"{{{user},"cwd":"/","args":[]}}"#));
        assert!(matches!(none, Err(ProcessError::NoArguments)));
        let relative = process(&format!(r#"{{{user},"cwd":"tmp","args":["a"]}}"#));
        assert!(matches!(relative, Err(ProcessError::RelativeFolder(_))));
    }

    #[test]
    fn a_limit_named_twice_is_an_error() {
        let limit = PosixRlimit::default();
        let twice = rlimits(&[limit, limit]);
        assert!(matches!(twice, Err(ProcessError::DuplicateRlimit(PosixRlimitType::RlimitCpu))));
    }

    #[test]
    fn resources_have_the_kernels_numbers() {
        assert_eq!(resource(PosixRlimitType::RlimitNofile), nix::libc::RLIMIT_NOFILE);
        assert_eq!(resource(PosixRlimitType::RlimitAs), nix::libc::RLIMIT_AS);
        assert_eq!(resource(PosixRlimitType::RlimitRttime), nix::libc::RLIMIT_RTTIME);
    }
}
