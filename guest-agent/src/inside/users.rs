//! A user namespace, which owns the container's other namespaces.
//!
//! ```text
//!   agent:   streams to their user ▶ clone ▶ maps, OOM score, cgroup ▶ go ▶ … ▶ limits
//!   process:                           └── waits ────────────────────────┴▶ root of the namespace ▶ …
//! ```
//! What takes privileges in the guest's own namespace is the agent's to do, as the process never
//! has them. The network is the guest's and belongs to no container: its parameters are set by the
//! agent as well.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use cofferdam_protocol::plan::{ContainerPlan, IdMappingPlan, ProcessPlan, UserNamespacePlan};

use super::failure::{StartError, Step};
use super::hidden;
use crate::stdio::ChildStreams;
use crate::sys::CloneFlags;

/// The flag that the container's first process is made with.
pub(crate) fn namespace(plan: &ContainerPlan) -> CloneFlags {
    if plan.user_namespace.is_some() { libc::CLONE_NEWUSER } else { 0 }
}

/// Before the process is made.
pub(crate) fn prepare(plan: &ContainerPlan, streams: &ChildStreams) -> Result<(), StartError> {
    let Some(users) = &plan.user_namespace else { return Ok(()) };
    give_streams(streams, users, plan.process.uid)?;
    hidden::set_parameters(plan.sysctl.iter().filter(|(key, _)| sets_outside(plan, key)))
}

/// Whether a kernel parameter is one that only the agent can set.
pub(crate) fn sets_outside(plan: &ContainerPlan, key: &str) -> bool {
    plan.user_namespace.is_some() && key.starts_with("net.")
}

/// Gives the streams of a process to its user. One that is not mapped will be refused later.
pub(crate) fn give_streams(
    streams: &ChildStreams,
    users: &UserNamespacePlan,
    uid: u32,
) -> Result<(), StartError> {
    let Some(uid) = outside(&users.uids, uid) else { return Ok(()) };
    streams.give_to(uid).step(|| "giving the standard streams to the user".to_owned())
}

/// When the process is there: its users, and what it could not do itself.
pub(crate) fn admit(
    pid: u32,
    users: &UserNamespacePlan,
    process: &ProcessPlan,
) -> Result<(), StartError> {
    for (file, mappings) in [("uid_map", &users.uids), ("gid_map", &users.gids)] {
        fs::write(format!("/proc/{pid}/{file}"), lines(mappings))
            .step(|| format!("writing the user namespace's {file}"))?;
    }
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .step(|| format!("setting oom_score_adj to {score}"))
}

/// Becomes root in the user namespace, so that what this process makes has an owner there.
pub(crate) fn become_root() -> Result<(), StartError> {
    let step = || "becoming the root of the user namespace".to_owned();
    let (uid, gid) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setgroups(&[]).step(step)?;
    nix::unistd::setresgid(gid, gid, gid).step(step)?;
    nix::unistd::setresuid(uid, uid, uid).step(step)
}

/// The users of a process's user namespace; none when it is the agent's own.
pub(crate) fn of(pid: u32) -> Result<Option<UserNamespacePlan>, StartError> {
    let read = || -> io::Result<Option<UserNamespacePlan>> {
        let own = fs::metadata("/proc/self/ns/user")?;
        if fs::metadata(format!("/proc/{pid}/ns/user"))?.ino() == own.ino() {
            return Ok(None);
        }
        let map =
            |file| Ok::<_, io::Error>(parse(&fs::read_to_string(format!("/proc/{pid}/{file}"))?));
        Ok(Some(UserNamespacePlan { uids: map("uid_map")?, gids: map("gid_map")? }))
    };
    read().step(|| "reading the container's users".to_owned())
}

/// What a number inside stands for.
pub(crate) fn outside(mappings: &[IdMappingPlan], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let distance = id.checked_sub(mapping.inside)?;
        (distance < mapping.count).then(|| mapping.outside.checked_add(distance))?
    })
}

fn lines(mappings: &[IdMappingPlan]) -> String {
    let line = |mapping: &IdMappingPlan| {
        let IdMappingPlan { inside, outside, count } = mapping;
        format!("{inside} {outside} {count}\n")
    };
    mappings.iter().map(line).collect()
}

fn parse(map: &str) -> Vec<IdMappingPlan> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(IdMappingPlan { inside: number()?, outside: number()?, count: number()? })
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPINGS: [IdMappingPlan; 2] = [
        IdMappingPlan { inside: 0, outside: 1000, count: 10 },
        IdMappingPlan { inside: 50, outside: u32::MAX - 1, count: 9 },
    ];

    #[test]
    fn a_number_inside_stands_for_one_outside() {
        let found = [0, 9, 10, 51, 52].map(|id| outside(&MAPPINGS, id));
        assert_eq!(found, [Some(1000), Some(1009), None, Some(u32::MAX), None]);
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(parse(&lines(&MAPPINGS)), MAPPINGS);
    }
}
