//! The place of a shim's sandbox: it has one at most.

use std::sync::Arc;

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use tokio::sync::Mutex;

use crate::sandbox::Sandbox;
use crate::shared::Shared;
use crate::step::StepError;

/// The place of a shim's sandbox: who makes one holds it until it is made, and everybody waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place(Arc<Mutex<Option<Arc<Sandbox>>>>);

impl Place {
    /// The sandbox, if there is one.
    pub(crate) async fn sandbox(&self) -> Option<Arc<Sandbox>> {
        self.0.lock().await.clone()
    }

    /// Makes the sandbox that is asked for.
    ///
    /// # Errors
    /// There is one, or it cannot be made.
    pub(crate) async fn fill(
        self,
        shared: Arc<Shared>,
        asked: CreateSandboxRequest,
    ) -> Result<(), StepError> {
        let mut place = self.0.lock().await;
        if place.is_some() {
            return Err(StepError::Exists("A sandbox of this shim".to_owned()));
        }
        *place = Some(Arc::new(Sandbox::create(&shared, &asked).await?));
        Ok(())
    }

    /// It is taken away.
    pub(crate) async fn clear(&self) {
        *self.0.lock().await = None;
    }
}
