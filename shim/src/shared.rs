//! What all of a shim's containers share: who waits for processes, and who is told of what happens.

use std::sync::Arc;

use crate::events::Publisher;
use crate::reaper::Reaper;

/// What all of a shim's containers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Who ends.
    pub(crate) reaper: Arc<Reaper>,
    /// Who is told.
    pub(crate) events: Publisher,
}

impl Shared {
    /// For a container that is nobody's task.
    pub(crate) fn without_events(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            reaper: self.reaper.clone(),
            events: Publisher::silent(),
        }
    }
}
