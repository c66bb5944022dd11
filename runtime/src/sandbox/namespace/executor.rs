//! What a container's first process does in `libcontainer`'s hands: it finds the program, completes
//! the mounts, gives up its privileges, waits for `start`, runs the `startContainer` hooks and
//! executes.
//!
//! `libcontainer` calls the three methods below in this order, in the process that has entered the
//! container's namespaces and its root.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use libcontainer::container::State;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};

use super::environment;
use super::hook::{self, HookState};
use super::host_mounts::HostMounts;
use super::masked;
use super::mounts::{self, MountFinish};
use super::process::{ProcessError, ProcessPlan};
use super::report::{Report, Reporter, describe};
use super::scheduling;
use crate::sandbox::request::StartFailureKind;

/// Answer to `start` when the program could not be executed. None comes when it could: the
/// connection is closed by the execution itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartFailure {
    pub(super) kind: Option<StartFailureKind>,
    /// It was not the program, but a hook before it.
    pub(super) of_hook: bool,
    pub(super) message: String,
}

/// The last part of making a container.
#[derive(Clone)]
pub(super) struct ProcessExecutor {
    pub(super) process: ProcessPlan,
    pub(super) finish_mounts: Vec<MountFinish>,
    pub(super) masked_paths: Vec<String>,
    /// Where the mounts are to be in the end, if they are not the container's own.
    pub(super) host_mounts: Option<Rc<HostMounts>>,
    /// Whether the network namespace is a new one, whose loopback interface is off.
    pub(super) new_network: bool,
    pub(super) start_hooks: Vec<Hook>,
    pub(super) state: State,
    pub(super) listener: Rc<UnixListener>,
    pub(super) reporter: Rc<Reporter>,
    /// Whether a caller without privileges must be able to look at this process, to enter its
    /// namespaces: in them there is nobody else until it starts.
    pub(super) may_be_looked_at: bool,
    /// What a stage found open, and is of no use after it.
    pub(super) of_stage: Vec<RawFd>,
}

impl ProcessExecutor {
    fn report(&self, error: &ProcessError) -> String {
        let message = describe(error);
        self.reporter.send(&Report::Failed { kind: error.kind(), message: message.clone() });
        message
    }

    fn switch_on_loopback(&self) -> Result<(), ProcessError> {
        if !self.new_network {
            return Ok(());
        }
        super::sys::bring_up_loopback().map_err(|source| ProcessError::Step {
            step: "switch on the loopback interface",
            source,
        })
    }

    fn finish_mounts(&self) -> std::io::Result<()> {
        masked::mask(&self.masked_paths)?;
        mounts::finish(&self.finish_mounts)?;
        self.host_mounts.as_deref().map_or(Ok(()), HostMounts::return_to)
    }

    /// Waits for `start`. A second connection is none of ours: the first one starts.
    fn wait_for_start(&self) -> std::io::Result<UnixStream> {
        let (mut connection, _) = self.listener.accept()?;
        connection.read_exact(&mut [0])?;
        Ok(connection)
    }

    /// The hooks see the container as created, with this process as it sees itself.
    fn run_start_hooks(&self) -> Result<(), StartFailure> {
        let state = &self.state;
        let state = HookState {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            status: "created".to_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            bundle: state.bundle.clone(),
            folder: None,
            annotations: state.annotations.clone().unwrap_or_default().into_iter().collect(),
        };
        let env = environment::complete(&self.process.env, self.process.uid);
        hook::run_all("startContainer", &self.start_hooks, &state, Some(&env))
            .map_err(|e| StartFailure { kind: None, of_hook: true, message: describe(&e) })
    }

    /// Returns only when the program could not be executed.
    fn start(&self) -> StartFailure {
        let failed = |e: ProcessError| StartFailure {
            kind: e.kind(),
            of_hook: false,
            message: describe(&e),
        };
        // Before the filter, which may forbid to look.
        let mut program = self.process.find_program();
        if let Err(e) = self.process.load_late_seccomp() {
            return failed(e);
        }
        if !self.start_hooks.is_empty() {
            if let Err(failure) = self.run_start_hooks() {
                return failure;
            }
            // Once more: a hook may have brought the program or taken it away.
            program = self.process.find_program();
        }
        failed(match program {
            Ok(program) => self.process.execute(&program),
            Err(e) => e,
        })
    }
}

impl Executor for ProcessExecutor {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        for number in &self.of_stage {
            drop(super::sys::inherited(*number));
        }
        let prepared = self
            .finish_mounts()
            .map_err(|source| ProcessError::Step { step: "complete the mounts", source })
            .and_then(|()| self.switch_on_loopback())
            .and_then(|()| self.process.make_working_folder())
            .and_then(|()| self.process.find_program());
        match prepared {
            Ok(_) => Ok(()),
            Err(e) => Err(ExecutorValidationError::ArgValidationError(self.report(&e))),
        }
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        scheduling::run_everywhere();
        let failed = |e| ExecutorSetEnvsError::SetEnvs(self.report(&e).into());
        self.process.prepare().map_err(failed)?;
        if self.may_be_looked_at {
            let step = |source| ProcessError::Step { step: "be seen by the caller", source };
            super::sys::set_dumpable(true).map_err(|e| failed(step(e)))?;
        }
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        // As a created container of runc.
        super::sys::end_by_signals();
        let mut connection =
            self.wait_for_start().map_err(|e| ExecutorError::Execution(e.into()))?;
        let failure = self.start();
        if let Ok(answer) = serde_json::to_vec(&failure) {
            let _ = connection.write_all(&answer);
        }
        drop(connection);
        super::sys::exit_now(match failure.kind {
            Some(StartFailureKind::NotFound) => 127,
            Some(StartFailureKind::NotExecutable) => 126,
            None => 1,
        })
    }
}

/// Where the answer to `start` is read, beside where it is written.
pub(super) fn read_failure(connection: UnixStream) -> Option<StartFailure> {
    /// More than any message of ours.
    const MAX_ANSWER: u64 = 64 * 1024;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer).ok()?;
    serde_json::from_slice(&answer).ok()
}
