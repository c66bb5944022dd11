//! What containerd is told of a container: one event for each thing that happens to it.

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::topics;

use crate::events::{Publisher, timestamp};
use crate::reaper::Exit;

/// Tells of one container.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// Who is told.
    pub(crate) events: &'a Publisher,
    /// Of whom.
    pub(crate) container_id: &'a str,
}

impl Told<'_> {
    /// It was made as it was asked for.
    pub(crate) fn created(&self, request: &CreateTaskRequest, pid: u32) {
        let io = event::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let told = event::TaskCreate {
            container_id: self.id(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        };
        self.events.publish(topics::TASK_CREATE_EVENT_TOPIC, &told);
    }

    /// Its first process runs.
    pub(crate) fn started(&self, pid: u32) {
        let told = event::TaskStart { container_id: self.id(), pid, ..Default::default() };
        self.events.publish(topics::TASK_START_EVENT_TOPIC, &told);
    }

    /// A further process is known.
    pub(crate) fn exec_added(&self, exec_id: &str) {
        let told = event::TaskExecAdded {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        self.events.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &told);
    }

    /// A further process runs.
    pub(crate) fn exec_started(&self, exec_id: &str, pid: u32) {
        let told = event::TaskExecStarted {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
            pid,
            ..Default::default()
        };
        self.events.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &told);
    }

    /// The kernel has ended one of its processes for want of memory.
    pub(crate) fn out_of_memory(&self) {
        let told = event::TaskOOM { container_id: self.id(), ..Default::default() };
        self.events.publish(topics::TASK_OOM_EVENT_TOPIC, &told);
    }

    /// One of its processes has ended; the first one has the container's name.
    pub(crate) fn exited(&self, name: &str, pid: u32, exit: Exit) {
        let told = event::TaskExit {
            container_id: self.id(),
            id: name.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        };
        self.events.publish(topics::TASK_EXIT_EVENT_TOPIC, &told);
    }

    /// It stands still, or goes on.
    pub(crate) fn paused(&self, paused: bool) {
        let container_id = self.id();
        if paused {
            let told = event::TaskPaused { container_id, ..Default::default() };
            self.events.publish(topics::TASK_PAUSED_EVENT_TOPIC, &told);
        } else {
            let told = event::TaskResumed { container_id, ..Default::default() };
            self.events.publish(topics::TASK_RESUMED_EVENT_TOPIC, &told);
        }
    }

    /// It was saved there.
    pub(crate) fn checkpointed(&self, path: &str) {
        let told = event::TaskCheckpointed {
            container_id: self.id(),
            checkpoint: path.to_owned(),
            ..Default::default()
        };
        self.events.publish(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &told);
    }

    /// It is gone.
    pub(crate) fn deleted(&self, pid: u32, exit: Exit) {
        let told = event::TaskDelete {
            container_id: self.id(),
            pid,
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        };
        self.events.publish(topics::TASK_DELETE_EVENT_TOPIC, &told);
    }

    fn id(&self) -> String {
        self.container_id.to_owned()
    }
}
