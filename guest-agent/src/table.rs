//! What the agent knows: its containers, their processes, and the last that ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use cofferdam_protocol::id::{ContainerId, ProcessToken};

use crate::cgroup::Cgroup;
use crate::inside::channel::AgentEnd;
use crate::process::{Exit, Process};

/// How many ended processes are remembered for those who ask late. A caller that waits for a
/// process asks before it ends, or at once after; a host that never asks must not fill the guest.
const MAX_REMEMBERED: usize = 1024;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) cgroup: Arc<Cgroup>,
    pub(crate) init: Arc<Process>,
    /// The wire to its init while that waits for the start.
    pub(crate) start: Option<AgentEnd>,
}

/// Everything by its name.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) containers: HashMap<ContainerId, Container>,
    processes: HashMap<ProcessToken, Arc<Process>>,
    /// Ended, but what their children write may still get its connection.
    lingering: HashMap<ProcessToken, Weak<Process>>,
    remembered: VecDeque<(ProcessToken, Exit)>,
    /// What the one container is called since the machine was restored, and what before.
    renamed: Option<(ContainerId, ContainerId)>,
}

impl Table {
    /// A process by its token.
    pub(crate) fn process(&self, token: ProcessToken) -> Option<Arc<Process>> {
        self.processes.get(&token).cloned()
    }

    /// A process whose streams may be connected.
    pub(crate) fn connectable(&self, token: ProcessToken) -> Option<Arc<Process>> {
        self.process(token).or_else(|| self.lingering.get(&token)?.upgrade())
    }

    /// How an earlier process ended.
    pub(crate) fn remembered(&self, token: ProcessToken) -> Option<Exit> {
        let mut latest_first = self.remembered.iter().rev();
        latest_first.find(|(remembered, _)| *remembered == token).map(|(_, exit)| *exit)
    }

    /// Whether a token means something already.
    pub(crate) fn knows(&self, token: ProcessToken) -> bool {
        self.processes.contains_key(&token) || self.remembered(token).is_some()
    }

    /// A container's processes but its init.
    pub(crate) fn others(&self, container: &ContainerId, init: ProcessToken) -> Vec<Arc<Process>> {
        let other =
            |process: &&Arc<Process>| process.container == *container && process.token != init;
        self.processes.values().filter(other).cloned().collect()
    }

    /// Every process that runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.processes.values()
    }

    /// Gives the one container another name. False when there is not one.
    pub(crate) fn rename(&mut self, name: ContainerId) -> bool {
        let mut names = self.containers.keys();
        let (Some(original), None) = (names.next(), names.next()) else { return false };
        self.renamed = Some((name, original.clone()));
        true
    }

    /// What a container was called when it was made.
    pub(crate) fn original_name(&self, name: ContainerId) -> ContainerId {
        match &self.renamed {
            Some((now, original)) if *now == name => original.clone(),
            _ => name,
        }
    }

    /// A process that runs.
    pub(crate) fn add(&mut self, process: Arc<Process>) {
        self.processes.insert(process.token, process);
    }

    /// A process ended.
    pub(crate) fn remember(&mut self, token: ProcessToken, exit: Exit) {
        self.lingering.retain(|_, process| process.strong_count() > 0);
        if let Some(process) = self.processes.remove(&token) {
            self.lingering.insert(token, Arc::downgrade(&process));
        }
        if self.remembered.len() == MAX_REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((token, exit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_ended_processes_are_remembered() {
        let mut table = Table::default();
        for number in 0..=MAX_REMEMBERED as u64 {
            table.remember(ProcessToken(number), Exit { code: 0, oom: false });
        }
        assert_eq!(table.remembered(ProcessToken(0)), None);
        assert!(table.knows(ProcessToken(1)));
    }
}
