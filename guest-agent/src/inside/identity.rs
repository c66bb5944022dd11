//! Who a process is: limits, user, groups, capabilities, privileges.

use std::os::fd::BorrowedFd;

use cofferdam_protocol::plan::{ProcessPlan, StdioPlan};
use nix::unistd::{Gid, Uid};
use rustix::fs::Mode;
use rustix::io::Errno;

use super::failure::{StartError, Step};
use super::{capabilities, scheduling};
use crate::sys;

/// As runc: what a process gets whose plan says nothing.
const DEFAULT_UMASK: u32 = 0o022;

/// Adjusts how readily the OOM killer takes this process. Through the agent's own `/proc`, so
/// before the process changes its root.
pub(crate) fn set_oom_score(plan: &ProcessPlan) -> Result<(), StartError> {
    let Some(score) = plan.oom_score_adj else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .step(|| format!("setting oom_score_adj to {score}"))
}

/// Sets the limits of this process, which takes privileges in the guest's own user namespace.
pub(crate) fn set_limits(plan: &ProcessPlan) -> Result<(), StartError> {
    set_limits_of(0, plan)
}

/// As [`set_limits`], of any process.
pub(crate) fn set_limits_of(pid: u32, plan: &ProcessPlan) -> Result<(), StartError> {
    for limit in &plan.rlimits {
        sys::set_resource_limit_of(pid, limit.resource, limit.soft, limit.hard)
            .step(|| format!("setting resource limit {}", limit.resource))?;
    }
    Ok(())
}

/// Becomes the process of the plan, as runc does it: a seccomp filter that needs privileges to be
/// installed comes before they are dropped, any other is left to the caller.
pub(crate) fn assume(plan: &ProcessPlan) -> Result<(), StartError> {
    scheduling::assume(plan)?;
    own_stdio(plan).step(|| "giving the standard streams to the user".to_owned())?;
    // The folder may be one that only root can enter, or one that only the user can; and the
    // filter may forbid what it takes.
    let entered = enter_folder(&plan.cwd);
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step(|| "setting no_new_privs".to_owned())?;
    } else {
        install_filter(plan)?;
    }
    capabilities::limit(&plan.capabilities)?;
    become_user(plan)?;
    match entered {
        Err(Errno::ACCESS | Errno::PERM) => enter_folder(&plan.cwd),
        other => other,
    }
    .step(|| format!("entering the working folder {}", plan.cwd))?;
    capabilities::set(&plan.capabilities)?;
    let mask = plan.umask.unwrap_or(DEFAULT_UMASK);
    rustix::process::umask(Mode::from_raw_mode(mask));
    Ok(())
}

/// What comes last before the program: its processors, which the set-up needs not to keep to, and
/// the seccomp filter that was not installed by [`assume`].
pub(crate) fn assume_last(plan: &ProcessPlan) -> Result<(), StartError> {
    scheduling::set_processors(&plan.scheduling.final_cpus)?;
    if plan.no_new_privileges { install_filter(plan) } else { Ok(()) }
}

fn install_filter(plan: &ProcessPlan) -> Result<(), StartError> {
    let Some(seccomp) = &plan.seccomp else { return Ok(()) };
    sys::install_seccomp(&seccomp.program, seccomp.flags)
        .step(|| "installing the seccomp filter".to_owned())
}

fn become_user(plan: &ProcessPlan) -> Result<(), StartError> {
    let groups: Vec<Gid> = plan.additional_gids.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    rustix::thread::set_keep_capabilities(true).step(|| "keeping capabilities".to_owned())?;
    nix::unistd::setgroups(&groups).step(|| "setting the supplementary groups".to_owned())?;
    nix::unistd::setresgid(gid, gid, gid).step(|| format!("becoming group {gid}"))?;
    nix::unistd::setresuid(uid, uid, uid).step(|| format!("becoming user {uid}"))?;
    rustix::thread::set_keep_capabilities(false).step(|| "keeping capabilities".to_owned())
}

/// A folder outside of the root (reached through a descriptor that leaked, say) would be a way out
/// of the container: it is refused.
fn enter_folder(path: &str) -> Result<(), Errno> {
    rustix::process::chdir(path)?;
    let folder = rustix::process::getcwd(Vec::new())?;
    if folder.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

/// So that `/dev/stdout` and its like can be opened again by the user.
fn own_stdio(plan: &ProcessPlan) -> Result<(), Errno> {
    let own = |stream: BorrowedFd<'_>| {
        let user = rustix::fs::Uid::from_raw(plan.uid);
        match rustix::fs::fchown(stream, Some(user), None) {
            // In a user namespace, that of a pipe whose owner is not one of its users; it has been
            // given to the right one outside.
            Err(Errno::PERM | Errno::INVAL) => Ok(()),
            owned => owned,
        }
    };
    let owned = match plan.stdio {
        StdioPlan::Pipes { stdin, stdout, stderr } => [stdin, stdout, stderr],
        StdioPlan::Terminal { .. } => [true; 3],
    };
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (stream, _) in streams.into_iter().zip(owned).filter(|(_, owned)| *owned) {
        own(stream)?;
    }
    Ok(())
}
