//! One more process in a container that runs.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd};

use cofferdam_protocol::plan::{ProcessPlan, StdioPlan, UserNamespacePlan};
use nix::sched::CloneFlags;

use super::channel::ChildEnd;
use super::container::begin;
use super::failure::{StartError, Step};
use super::program::Program;
use super::root::Root;
use super::{identity, scheduling, terminal, time, users};
use crate::stdio::ChildStreams;
use crate::sys;

/// What the process is made from. It is born in the container's pid namespace and cgroup.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    /// The process.
    pub(crate) plan: &'a ProcessPlan,
    /// The container's init, whose namespaces it joins.
    pub(crate) init: BorrowedFd<'a>,
    /// The users of its user namespace, if it has one of its own.
    pub(crate) users: Option<UserNamespacePlan>,
    /// Its standard streams.
    pub(crate) streams: ChildStreams,
    /// The wire to the agent.
    pub(crate) channel: ChildEnd,
}

impl Newcomer<'_> {
    /// Joins the container and becomes the program.
    pub(crate) fn run(self) -> Infallible {
        let Err(error) = self.join();
        self.channel.failed(&error);
        sys::exit_now(1)
    }

    fn join(&self) -> Result<Infallible, StartError> {
        if let Some(users) = &self.users {
            users::give_streams(&self.streams, users, self.plan.uid)?;
        }
        begin(&self.streams, &[self.channel.raw(), self.init.as_raw_fd()])?;
        identity::set_oom_score(self.plan)?;
        identity::set_limits(self.plan)?;
        scheduling::set_processors(&self.plan.scheduling.initial_cpus)?;
        self.join_namespaces()?;
        if let StdioPlan::Terminal { rows, columns, keep_line_feeds } = self.plan.stdio {
            let root = Root::open("/").step(|| "opening the container's root".to_owned())?;
            terminal::connect(&root, (rows, columns), keep_line_feeds, &self.channel)?;
        }
        identity::assume(self.plan)?;
        let program = Program::find(self.plan)?;
        identity::assume_last(self.plan)?;
        self.channel.executing().step(|| "starting the program".to_owned())?;
        Err(program.execute())
    }

    fn join_namespaces(&self) -> Result<(), StartError> {
        let mut namespaces = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP
            | time::CLONE_NEWTIME;
        if self.users.is_some() {
            namespaces |= CloneFlags::CLONE_NEWUSER;
        }
        nix::sched::setns(self.init, namespaces)
            .step(|| "joining the container's namespaces".to_owned())?;
        if self.users.is_some() { users::become_root() } else { Ok(()) }
    }
}
