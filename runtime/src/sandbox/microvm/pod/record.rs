//! What is known of a pod: a file in the state folder of each member, and one in the sandbox's with
//! all members, their places, and what the machine has to have for them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::bounds::MAX_POD_PLACES;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::vm_config::PodPlace;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::host::document;
use crate::host::process::ProcessIdentity;
use crate::plan::pod::Demand;

const MEMBERSHIP: &str = "pod.json";
const MEMBERS: &str = "pod-members.json";

/// A container that has joined another's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sandbox::microvm) struct Membership {
    /// The sandbox's state folder.
    pub(super) sandbox: PathBuf,
    /// The sandbox's monitor.
    pub(super) monitor: ProcessIdentity,
    /// The member's first process.
    pub(super) process: ProcessToken,
}

impl Membership {
    pub(super) fn save(&self, state_folder: &Path) -> io::Result<()> {
        document::save(&state_folder.join(MEMBERSHIP), self)
    }

    /// Reads it, if the container is a member.
    pub(in crate::sandbox::microvm) fn find(state_folder: &Path) -> io::Result<Option<Self>> {
        document::find(&state_folder.join(MEMBERSHIP))
    }

    /// What the guest knows a container's first process by.
    pub(in crate::sandbox::microvm) fn first_process(
        state_folder: &Path,
    ) -> io::Result<ProcessToken> {
        let found = Self::find(state_folder)?;
        Ok(found.map_or(ProcessToken::FIRST, |membership| membership.process))
    }
}

/// Everyone who has joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Members {
    by_id: BTreeMap<ContainerId, Member>,
    /// The place that is tried first. Not one that was given back just now: the guest's kernel
    /// remembers for a while what was there.
    next: u8,
}

/// One who has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    /// Where its files are.
    pub(super) place: PodPlace,
    /// What its limits take of the machine.
    pub(super) demand: Demand,
    /// How soon the kernel may end it for want of memory, if it says so.
    #[serde(default)]
    pub(super) oom_score_adj: Option<i32>,
}

impl Members {
    pub(super) fn find(sandbox: &Path) -> io::Result<Self> {
        Ok(document::find(&sandbox.join(MEMBERS))?.unwrap_or_default())
    }

    pub(super) fn save(&self, sandbox: &Path) -> io::Result<()> {
        document::save(&sandbox.join(MEMBERS), self)
    }

    /// Gives a container a place that nobody has. `None`: there is none left.
    pub(super) fn add(
        &mut self,
        id: &ContainerId,
        demand: Demand,
        oom_score_adj: Option<i32>,
    ) -> Option<PodPlace> {
        let taken = |place: &PodPlace| self.by_id.values().any(|member| member.place == *place);
        let from_next = |step| PodPlace((self.next + step) % MAX_POD_PLACES);
        let place = (0..MAX_POD_PLACES).map(from_next).find(|place| !taken(place))?;
        self.next = (place.0 + 1) % MAX_POD_PLACES;
        self.by_id.insert(id.clone(), Member { place, demand, oom_score_adj });
        Some(place)
    }

    pub(super) fn remove(&mut self, id: &ContainerId) -> Option<Member> {
        self.by_id.remove(id)
    }

    /// Limits that are not said stay.
    pub(super) fn change(&mut self, id: &ContainerId, limits: &LinuxResources) {
        if let Some(member) = self.by_id.get_mut(id) {
            member.demand = member.demand.changed_by(limits);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn get(&self, id: &ContainerId) -> Option<Member> {
        self.by_id.get(id).copied()
    }

    /// What all of them take of the machine.
    pub(super) fn demand(&self) -> Demand {
        self.by_id.values().fold(Demand::default(), |sum, member| sum.and(member.demand))
    }

    /// How soon the host's kernel may end the machine of them all: not before it would end the one that
    /// is to be kept longest. Without any that says so it is the sandbox's own, which engines protect
    /// since it does nothing.
    pub(super) fn oom_score_adj(&self, sandbox: Option<i32>) -> Option<i32> {
        self.by_id.values().filter_map(|member| member.oom_score_adj).min().or(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_a_place_of_its_own_until_it_leaves() {
        let (a, b): (ContainerId, ContainerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut members = Members::default();
        assert_eq!(members.add(&a, Demand::default(), None), Some(PodPlace(0)));
        assert_eq!(members.add(&b, Demand::default(), None), Some(PodPlace(1)));
        members.remove(&a);
        assert_eq!(members.add(&a, Demand::default(), None), Some(PodPlace(2)));
        assert_eq!(members.get(&b).map(|member| member.place), Some(PodPlace(1)));
    }

    #[test]
    fn a_full_pod_has_no_place() {
        let mut members = Members::default();
        for number in 0..MAX_POD_PLACES {
            let id = format!("c{number}").parse().unwrap();
            assert!(members.add(&id, Demand::default(), None).is_some());
        }
        assert_eq!(members.add(&"one-more".parse().unwrap(), Demand::default(), None), None);
    }

    #[test]
    fn the_machine_is_ended_as_late_as_the_one_that_is_to_be_kept_longest() {
        let [a, b, c]: [ContainerId; 3] = ["a", "b", "c"].map(|id| id.parse().unwrap());
        let mut members = Members::default();
        assert_eq!(members.oom_score_adj(Some(-998)), Some(-998));
        members.add(&a, Demand::default(), None);
        assert_eq!(members.oom_score_adj(Some(-998)), Some(-998));
        members.add(&b, Demand::default(), Some(1000));
        members.add(&c, Demand::default(), Some(3));
        assert_eq!(members.oom_score_adj(Some(-998)), Some(3));
        members.remove(&c);
        assert_eq!(members.oom_score_adj(Some(-998)), Some(1000));
    }

    #[test]
    fn what_was_saved_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Members::find(folder.path()).unwrap(), Members::default());
        assert_eq!(Membership::first_process(folder.path()).unwrap(), ProcessToken::FIRST);
        let mut members = Members::default();
        let demand = Demand { memory_mib: 64, cpu_thousandths: 500 };
        members.add(&"a".parse().unwrap(), demand, Some(7));
        members.save(folder.path()).unwrap();
        assert_eq!(Members::find(folder.path()).unwrap(), members);
        let membership = Membership {
            sandbox: "/run/box".into(),
            monitor: ProcessIdentity { pid: 7, start_ticks: 1 },
            process: ProcessToken(8),
        };
        membership.save(folder.path()).unwrap();
        assert_eq!(Membership::first_process(folder.path()).unwrap(), ProcessToken(8));
    }
}
