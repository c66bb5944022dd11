//! containerd's Sandbox service: where a runtime's `sandboxer` is `shim`, it asks here for a pod, and
//! then for the pod's containers as tasks.
//!
//! A shim has one sandbox at most.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox as Calls;
use containerd_shim_protos::ttrpc::Result;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use containerd_shim_protos::types::platform::Platform;
use serde_json::json;

use crate::events::timestamp;
use crate::process::State;
use crate::runtime::RuntimeError;
use crate::sandbox::Sandbox;
use crate::statistics;
use crate::step::StepError;
use crate::task::Service;

/// Kubernetes' names of what a pod can be.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// Go's name of the processor that this is built for.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

impl Service {
    async fn sandbox(&self, id: &str) -> std::result::Result<Arc<Sandbox>, StepError> {
        let found = self.place.sandbox().await.filter(|sandbox| sandbox.id == id);
        found.ok_or_else(|| StepError::NotFound(format!("The sandbox {id}")))
    }
}

#[async_trait]
impl Calls for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        asked: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse> {
        // Who asked may go away meanwhile: it is made nevertheless, and can be taken away then.
        let made = tokio::spawn(self.place.clone().fill(self.shared.clone(), asked));
        made.await.map_err(|_| StepError::Runtime(RuntimeError::Ended))??;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        asked: StartSandboxRequest,
    ) -> Result<StartSandboxResponse> {
        let sandbox = self.sandbox(&asked.sandbox_id).await?;
        let pid = sandbox.start().await?;
        let created_at = timestamp(sandbox.created_at);
        Ok(StartSandboxResponse { pid, created_at, ..Default::default() })
    }

    async fn platform(&self, _: &TtrpcContext, asked: PlatformRequest) -> Result<PlatformResponse> {
        self.sandbox(&asked.sandbox_id).await?;
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            ..Default::default()
        };
        Ok(PlatformResponse { platform: Some(platform).into(), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        asked: StopSandboxRequest,
    ) -> Result<StopSandboxResponse> {
        let sandbox = self.sandbox(&asked.sandbox_id).await?;
        self.end_containers().await;
        sandbox.stop().await?;
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        asked: WaitSandboxRequest,
    ) -> Result<WaitSandboxResponse> {
        let exit = self.sandbox(&asked.sandbox_id).await?.exit().await;
        Ok(WaitSandboxResponse {
            exit_status: exit.code,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        asked: SandboxStatusRequest,
    ) -> Result<SandboxStatusResponse> {
        let sandbox = self.sandbox(&asked.sandbox_id).await?;
        Ok(described(&sandbox, asked.verbose))
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, asked: PingRequest) -> Result<PingResponse> {
        self.sandbox(&asked.sandbox_id).await?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        asked: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse> {
        // Without one it was not made, and containerd wants the shim to end.
        if let Ok(sandbox) = self.sandbox(&asked.sandbox_id).await {
            self.delete_containers().await;
            sandbox.delete().await?;
            self.place.clear().await;
        }
        self.end_when_empty().await;
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        asked: SandboxMetricsRequest,
    ) -> Result<SandboxMetricsResponse> {
        let used = self.sandbox(&asked.sandbox_id).await?.statistics().await?;
        let mut answer = SandboxMetricsResponse::default();
        // The library has no name for its type.
        let metrics = answer.metrics.mut_or_insert_default();
        metrics.timestamp = timestamp(std::time::SystemTime::now());
        metrics.id = asked.sandbox_id;
        metrics.data = Some(statistics::message(&used)).into();
        Ok(answer)
    }
}

fn described(sandbox: &Sandbox, is_verbose: bool) -> SandboxStatusResponse {
    let state = sandbox.state();
    let name = if matches!(state, State::Running(_)) { READY } else { NOT_READY };
    let mut answer = SandboxStatusResponse {
        sandbox_id: sandbox.id.clone(),
        pid: state.pid(),
        state: name.to_owned(),
        created_at: timestamp(sandbox.created_at),
        ..Default::default()
    };
    if let Some(exit) = state.exit() {
        answer.exited_at = timestamp(exit.at);
    }
    if is_verbose {
        let info = json!({ "sandboxID": sandbox.id, "pid": state.pid(), "state": name });
        answer.info = HashMap::from([("info".to_owned(), info.to_string())]);
    }
    answer
}
