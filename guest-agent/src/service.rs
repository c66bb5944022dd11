//! The agent's RPC service: requests from the host become calls of [`Agent`].

use std::time::Duration;

use async_trait::async_trait;
use cofferdam_protocol::agent as rpc;
use cofferdam_protocol::agent::service;
use cofferdam_protocol::bounds::MAX_PLAN_BYTES;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::stream::TerminalSize;
use serde::de::DeserializeOwned;
use ttrpc::r#async::TtrpcContext;

use crate::agent::{Agent, RequestError};
use crate::disk;
use crate::inside::failure::StartError;
use crate::machine::Machine;
use crate::network;

/// Serves an agent.
#[derive(Debug)]
pub struct Service(pub Agent);

type Reply<T> = ttrpc::Result<T>;

#[async_trait]
impl service::Agent for Service {
    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: rpc::CreateContainerRequest,
    ) -> Reply<rpc::CreateContainerResponse> {
        let id = container_id(&request.container_id)?;
        let plan = plan(&request.plan)?;
        let (agent, token) = (self.0.clone(), ProcessToken(request.process));
        let created = to_the_end(async move { agent.create(&id, token, &plan).await }).await?;
        let failure = failure_of(created)?.1;
        Ok(rpc::CreateContainerResponse { failure, ..Default::default() })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: rpc::StartContainerRequest,
    ) -> Reply<rpc::StartContainerResponse> {
        let (agent, id) = (self.0.clone(), self.container(&request.container_id)?);
        let started = to_the_end(async move { agent.start(&id).await }).await?;
        let failure = failure_of(started)?.1;
        Ok(rpc::StartContainerResponse { failure, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: rpc::ExecRequest) -> Reply<rpc::ExecResponse> {
        let id = self.container(&request.container_id)?;
        let plan = plan(&request.plan)?;
        let (agent, token) = (self.0.clone(), ProcessToken(request.process));
        let subgroup = Some(request.cgroup).filter(|path| !path.is_empty());
        let exec = async move { agent.exec(&id, token, &plan, subgroup.as_deref()).await };
        let started = to_the_end(exec).await?;
        let (pid, failure) = failure_of(started)?;
        Ok(rpc::ExecResponse { pid: pid.unwrap_or(0), failure, ..Default::default() })
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: rpc::SignalRequest,
    ) -> Reply<rpc::SignalResponse> {
        let sent = if request.all {
            self.0.signal_all(&self.container(&request.container_id)?, request.signal)
        } else {
            self.0.signal(ProcessToken(request.process), request.signal)
        };
        let delivered = sent.map_err(|error| status(&error))?;
        Ok(rpc::SignalResponse { delivered, ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, request: rpc::WaitRequest) -> Reply<rpc::WaitResponse> {
        let process = ProcessToken(request.process);
        let _standing = request.stands_for.then(|| StandsFor { agent: &self.0, process });
        let exit = self.0.wait(process).await;
        let exit = exit.map_err(|error| status(&error))?;
        Ok(rpc::WaitResponse { code: exit.code.into(), oom: exit.oom, ..Default::default() })
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: rpc::ResizeTerminalRequest,
    ) -> Reply<rpc::ResizeTerminalResponse> {
        let side = |value| u16::try_from(value).unwrap_or(u16::MAX);
        let size = TerminalSize { rows: side(request.rows), columns: side(request.columns) };
        let resized = self.0.resize(ProcessToken(request.process), size);
        resized.map_err(|error| status(&error))?;
        Ok(rpc::ResizeTerminalResponse::default())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: rpc::ListProcessesRequest,
    ) -> Reply<rpc::ListProcessesResponse> {
        let processes = self.0.processes(&self.container(&request.container_id)?);
        let processes = processes.map_err(|error| status(&error))?;
        Ok(rpc::ListProcessesResponse { processes, ..Default::default() })
    }

    async fn freeze_container(
        &self,
        _: &TtrpcContext,
        request: rpc::FreezeContainerRequest,
    ) -> Reply<rpc::FreezeContainerResponse> {
        let (agent, id) = (self.0.clone(), self.container(&request.container_id)?);
        let frozen = request.frozen;
        let done = to_the_end(async move { agent.freeze(&id, frozen).await }).await?;
        let done = done.map_err(|error| status(&error))?;
        Ok(rpc::FreezeContainerResponse { done, ..Default::default() })
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: rpc::UpdateContainerRequest,
    ) -> Reply<rpc::UpdateContainerResponse> {
        let updated = self.0.update(&self.container(&request.container_id)?, &request.files);
        let failure = updated.map_err(|error| status(&error))?.unwrap_or_default();
        Ok(rpc::UpdateContainerResponse { failure, ..Default::default() })
    }

    async fn resize_machine(
        &self,
        _: &TtrpcContext,
        request: rpc::ResizeMachineRequest,
    ) -> Reply<rpc::ResizeMachineResponse> {
        Ok(Machine::of_guest().resize(&request))
    }

    async fn read_cgroup(
        &self,
        _: &TtrpcContext,
        request: rpc::ReadCgroupRequest,
    ) -> Reply<rpc::ReadCgroupResponse> {
        let files = self.0.read_cgroup(&self.container(&request.container_id)?, &request.files);
        let files = files.map_err(|error| status(&error))?;
        Ok(rpc::ReadCgroupResponse { files, ..Default::default() })
    }

    async fn wait_oom(
        &self,
        _: &TtrpcContext,
        request: rpc::WaitOomRequest,
    ) -> Reply<rpc::WaitOomResponse> {
        let kills = self.0.wait_oom(&self.container(&request.container_id)?, request.known).await;
        let kills = kills.map_err(|error| status(&error))?;
        Ok(rpc::WaitOomResponse { kills, ..Default::default() })
    }

    async fn reawaken(
        &self,
        _: &TtrpcContext,
        request: rpc::ReawakenRequest,
    ) -> Reply<rpc::ReawakenResponse> {
        let name = container_id(&request.container_id)?;
        let now = Duration::from_nanos(request.now_ns);
        let done = self.0.reawaken(name, now, &request.entropy);
        done.map_err(|error| status(&error))?;
        Ok(rpc::ReawakenResponse::default())
    }

    async fn add_interface(
        &self,
        _: &TtrpcContext,
        request: rpc::AddInterfaceRequest,
    ) -> Reply<rpc::AddInterfaceResponse> {
        let added = network::add(request.device, &plan(&request.plan)?);
        Ok(rpc::AddInterfaceResponse { failure: words_of(added), ..Default::default() })
    }

    async fn change_interface(
        &self,
        _: &TtrpcContext,
        request: rpc::ChangeInterfaceRequest,
    ) -> Reply<rpc::ChangeInterfaceResponse> {
        let changed = network::change(request.device, &plan(&request.change)?);
        Ok(rpc::ChangeInterfaceResponse { failure: words_of(changed), ..Default::default() })
    }

    async fn remove_interface(
        &self,
        _: &TtrpcContext,
        request: rpc::RemoveInterfaceRequest,
    ) -> Reply<rpc::RemoveInterfaceResponse> {
        let removed = network::remove(request.device);
        Ok(rpc::RemoveInterfaceResponse { failure: words_of(removed), ..Default::default() })
    }

    async fn add_disk(
        &self,
        _: &TtrpcContext,
        request: rpc::AddDiskRequest,
    ) -> Reply<rpc::AddDiskResponse> {
        let added = disk::add(request.device);
        let (major, minor) = *added.as_ref().unwrap_or(&(0, 0));
        Ok(rpc::AddDiskResponse { major, minor, failure: words_of(added), ..Default::default() })
    }

    async fn remove_disk(
        &self,
        _: &TtrpcContext,
        request: rpc::RemoveDiskRequest,
    ) -> Reply<rpc::RemoveDiskResponse> {
        let removed = disk::remove(request.device);
        Ok(rpc::RemoveDiskResponse { failure: words_of(removed), ..Default::default() })
    }
}

impl Service {
    /// A container by whatever name the host has for it.
    fn container(&self, text: &str) -> Reply<ContainerId> {
        Ok(self.0.original_name(container_id(text)?))
    }
}

/// Whoever stands for a process on the host: when it is gone, the process is killed.
struct StandsFor<'a> {
    agent: &'a Agent,
    process: ProcessToken,
}

impl Drop for StandsFor<'_> {
    fn drop(&mut self) {
        // One that has ended takes no signal.
        let _ = self.agent.signal(self.process, libc::SIGKILL.cast_unsigned());
    }
}

/// A handler is dropped where it stands when its connection closes. What makes a process goes on,
/// so that it is made and known, or undone.
async fn to_the_end<T: Send + 'static>(act: impl Future<Output = T> + Send + 'static) -> Reply<T> {
    let ended = tokio::spawn(act).await;
    ended.map_err(|error| ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, error)))
}

/// Why something failed; empty where it did not.
fn words_of<T>(result: Result<T, impl std::error::Error + 'static>) -> String {
    result.err().map(|error| with_causes(&error)).unwrap_or_default()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn container_id(text: &str) -> Reply<ContainerId> {
    text.parse().map_err(|error| invalid(&error))
}

fn plan<T: DeserializeOwned>(bytes: &[u8]) -> Reply<T> {
    if bytes.len() > MAX_PLAN_BYTES {
        return Err(invalid(&format!("A plan of {} bytes is too long", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|error| invalid(&error))
}

fn invalid(error: &dyn std::fmt::Display) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, error))
}

fn status(error: &RequestError) -> ttrpc::Error {
    use ttrpc::Code;
    let code = match error {
        RequestError::NoContainer(_) | RequestError::NoProcess(_) => Code::NOT_FOUND,
        RequestError::Exists(_) => Code::ALREADY_EXISTS,
        RequestError::Started(_) => Code::FAILED_PRECONDITION,
        RequestError::Start(_) | RequestError::Kernel(_) => Code::INTERNAL,
    };
    let text = match error {
        RequestError::Kernel(cause) => format!("{error}: {cause}"),
        other => other.to_string(),
    };
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, text))
}

type MaybeFailure = protobuf::MessageField<rpc::StartFailure>;

/// What a start came to: a value, or a failure of the program's; anything else is an error.
fn failure_of<T>(result: Result<T, RequestError>) -> Reply<(Option<T>, MaybeFailure)> {
    match result {
        Ok(value) => Ok((Some(value), MaybeFailure::none())),
        Err(RequestError::Start(error)) => Ok((None, MaybeFailure::some(start_failure(&error)))),
        Err(error) => Err(status(&error)),
    }
}

fn start_failure(error: &StartError) -> rpc::StartFailure {
    use rpc::start_failure::Kind;
    let kind = match error {
        StartError::NotFound(_) => Kind::NOT_FOUND,
        StartError::NotExecutable(_) => Kind::NOT_EXECUTABLE,
        StartError::Setup { .. } | StartError::Reported(_) => Kind::SETUP,
    };
    rpc::StartFailure { kind: kind.into(), message: error.message(), ..Default::default() }
}
