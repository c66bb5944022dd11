//! containerd's Task service: each call found its container, done, and answered.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc::Result;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use tokio::sync::Notify;

use crate::container::Container;
use crate::events::{any, timestamp};
use crate::options::Options;
use crate::place::Place;
use crate::process::{Process, State};
use crate::shared::Shared;
use crate::statistics;
use crate::step::StepError;

/// The shim's containers: one, or a pod's.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    /// For the pod's sandbox, where that is the shim's.
    pub(crate) place: Place,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// containerd needs the shim no more.
    over: Arc<Notify>,
}

impl Service {
    /// Without a container.
    pub(crate) fn new(shared: Arc<Shared>, over: Arc<Notify>) -> Self {
        Self { shared, place: Place::default(), containers: Mutex::default(), over }
    }

    /// Ends all containers.
    pub(crate) async fn end_containers(&self) {
        for container in self.all() {
            if let Err(error) = container.end(true).await {
                tracing::warn!("{} does not end: {error}", container.id);
            }
        }
    }

    /// Ends all containers and takes them away, as far as nobody else does.
    pub(crate) async fn delete_containers(&self) {
        self.end_containers().await;
        for container in self.all() {
            if let Err(error) = container.delete("").await {
                tracing::warn!("{} is not deleted: {error}", container.id);
            }
            self.containers().remove(&container.id);
        }
    }

    /// Where nothing is left that needs a shim: another container of the pod's may be there still.
    pub(crate) async fn end_when_empty(&self) {
        if self.place.sandbox().await.is_none() && self.containers().is_empty() {
            self.over.notify_one();
        }
    }

    async fn make(
        &self,
        asked: &CreateTaskRequest,
    ) -> std::result::Result<Arc<Container>, StepError> {
        let of_the_pod = match self.place.sandbox().await {
            Some(sandbox) => sandbox.admit(&asked.id, Path::new(&asked.bundle))?,
            None => None,
        };
        let options = match of_the_pod {
            Some(options) => options,
            None => Options::of(asked.options.as_ref())?,
        };
        Container::create(&self.shared, asked, options).await
    }

    async fn release(&self, id: &str) {
        if let Some(sandbox) = self.place.sandbox().await {
            sandbox.release(id);
        }
    }

    fn all(&self) -> Vec<Arc<Container>> {
        self.containers().values().cloned().collect()
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> std::result::Result<Arc<Container>, StepError> {
        let found = self.containers().get(id).cloned();
        found.ok_or_else(|| StepError::NotFound(format!("The container {id}")))
    }

    fn find_process(
        &self,
        id: &str,
        exec_id: &str,
    ) -> std::result::Result<Arc<Process>, StepError> {
        self.find(id)?.process(exec_id)
    }
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        asked: CreateTaskRequest,
    ) -> Result<CreateTaskResponse> {
        if self.containers().contains_key(&asked.id) {
            return Err(StepError::Exists(format!("The container {}", asked.id)).into());
        }
        let made = self.make(&asked).await;
        let container = match made {
            Ok(container) => container,
            Err(error) => {
                self.release(&asked.id).await;
                return Err(error.into());
            }
        };
        let pid = container.init.state().pid();
        self.containers().insert(asked.id, container);
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, asked: StartRequest) -> Result<StartResponse> {
        let pid = self.find(&asked.id)?.start(&asked.exec_id).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, asked: StateRequest) -> Result<StateResponse> {
        let container = self.find(&asked.id)?;
        let process = container.process(&asked.exec_id)?;
        Ok(described(&container, &process))
    }

    async fn wait(&self, _: &TtrpcContext, asked: WaitRequest) -> Result<WaitResponse> {
        let exit = self.find_process(&asked.id, &asked.exec_id)?.exit().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, asked: DeleteRequest) -> Result<DeleteResponse> {
        let (pid, exit) = self.find(&asked.id)?.delete(&asked.exec_id).await?;
        if asked.exec_id.is_empty() {
            self.containers().remove(&asked.id);
            self.release(&asked.id).await;
        }
        Ok(DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, asked: KillRequest) -> Result<Empty> {
        self.find(&asked.id)?.kill(&asked.exec_id, asked.signal, asked.all).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, asked: ExecProcessRequest) -> Result<Empty> {
        self.find(&asked.id)?.exec(&asked)?;
        Ok(Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, asked: PidsRequest) -> Result<PidsResponse> {
        let container = self.find(&asked.id)?;
        let described = |pid| {
            let details = container
                .exec_of(pid)
                .map(|exec_id| any(&ProcessDetails { exec_id, ..Default::default() }));
            ProcessInfo { pid, info: details.into(), ..Default::default() }
        };
        let processes = container.processes().await?.into_iter().map(described).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, asked: PauseRequest) -> Result<Empty> {
        self.find(&asked.id)?.set_paused(true).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, asked: ResumeRequest) -> Result<Empty> {
        self.find(&asked.id)?.set_paused(false).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, asked: CheckpointTaskRequest) -> Result<Empty> {
        self.find(&asked.id)?.checkpoint(&asked).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, asked: ResizePtyRequest) -> Result<Empty> {
        let process = self.find_process(&asked.id, &asked.exec_id)?;
        let size = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
        process.resize(size(asked.width), size(asked.height)).map_err(StepError::Terminal)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, asked: CloseIORequest) -> Result<Empty> {
        let process = self.find_process(&asked.id, &asked.exec_id)?;
        if asked.stdin {
            process.close_input();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, asked: UpdateTaskRequest) -> Result<Empty> {
        self.find(&asked.id)?.update(&asked.resources.value).await?;
        Ok(Empty::default())
    }

    async fn stats(&self, _: &TtrpcContext, asked: StatsRequest) -> Result<StatsResponse> {
        let used = self.find(&asked.id)?.statistics().await?;
        let stats = Some(statistics::message(&used)).into();
        Ok(StatsResponse { stats, ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, asked: ConnectRequest) -> Result<ConnectResponse> {
        let task_pid = self.find(&asked.id).map(|container| container.init.state().pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task_pid.unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Result<Empty> {
        self.end_when_empty().await;
        Ok(Empty::default())
    }
}

fn described(container: &Container, process: &Process) -> StateResponse {
    let state = process.state();
    let is_paused = process.exec_id.is_empty() && container.is_paused.load(Ordering::Relaxed);
    let status = match state {
        State::Added | State::Created(_) => Status::CREATED,
        State::Running(_) if is_paused => Status::PAUSED,
        State::Running(_) => Status::RUNNING,
        State::Stopped(..) => Status::STOPPED,
    };
    let mut answer = StateResponse {
        id: container.id.clone(),
        exec_id: process.exec_id.clone(),
        bundle: container.bundle.display().to_string(),
        pid: state.pid(),
        status: EnumOrUnknown::new(status),
        stdin: process.names.stdin.clone(),
        stdout: process.names.stdout.clone(),
        stderr: process.names.stderr.clone(),
        terminal: process.names.terminal,
        ..Default::default()
    };
    if let Some(exit) = state.exit() {
        answer.exit_status = exit.code;
        answer.exited_at = timestamp(exit.at);
    }
    answer
}
