//! The threads of the monitor: each goes into its own seccomp filter before it does anything, and
//! no vCPU enters the guest before all have.
//!
//! ```text
//!  spawned ──filter installed──▶ sealed ──(vCPUs) all are──▶ working
//!     └── refused: the boot fails, the process ends
//! ```

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread::{self, Builder};

use crate::file_server::FileServerError;
use crate::happening::Happening;
use crate::jail::seccomp::{self, Role, SeccompError};

/// Why the crew is not ready.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A thread could not be started.
    #[error("The thread {name} cannot be started")]
    Spawn {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread's filter was refused.
    #[error("A thread cannot be confined")]
    Seal(#[from] SeccompError),
    /// The file server's part of the jail could not be built.
    #[error("The file server cannot be confined")]
    FileServer(#[from] FileServerError),
    /// A thread ended before it was sealed.
    #[error("A thread ended before its time")]
    Gone,
}

/// A thread is in its filter, or is not.
type Sealed = Result<(), CrewError>;

/// Threads that are being started.
pub struct Crew {
    happenings: Sender<Happening>,
    sealed: (Sender<Sealed>, Receiver<Sealed>),
    spawned: usize,
    gate: Arc<Barrier>,
}

impl Crew {
    /// A crew whose vCPU threads will be this many.
    #[must_use]
    pub fn new(vcpus: u8, happenings: Sender<Happening>) -> Self {
        let gate = Arc::new(Barrier::new(usize::from(vcpus) + 1));
        Self { happenings, sealed: mpsc::channel(), spawned: 0, gate }
    }

    /// Where a thread of the crew tells what happens.
    #[must_use]
    pub fn happenings(&self) -> Sender<Happening> {
        self.happenings.clone()
    }

    /// Starts a thread. `prepare` runs before its filter is installed, and makes the work that
    /// runs after; what the work returns is the reason why the sandbox is lost: no thread of ours
    /// ends while all is well.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn spawn<P, W>(&mut self, name: String, role: Role, prepare: P) -> Result<(), CrewError>
    where
        P: FnOnce() -> Result<W, CrewError> + Send + 'static,
        W: FnOnce() -> String,
    {
        let (sealed, happenings) = (self.sealed.0.clone(), self.happenings.clone());
        let gate = (role == Role::Vcpu).then(|| Arc::clone(&self.gate));
        let body = move || {
            let work = prepare().and_then(|work| {
                seccomp::install(role)?;
                Ok(work)
            });
            // The main thread outlives all others, so it always hears.
            match work {
                Err(error) => drop(sealed.send(Err(error))),
                Ok(work) => {
                    let _ = sealed.send(Ok(()));
                    if let Some(gate) = gate {
                        gate.wait();
                    }
                    let _ = happenings.send(Happening::Lost(work()));
                }
            }
            park();
        };
        Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(|source| CrewError::Spawn { name, source })?;
        self.spawned += 1;
        Ok(())
    }

    /// Waits until every thread that was started is in its filter.
    ///
    /// # Errors
    /// When one is not: it names the wall, or what was to be served behind it.
    pub fn settle(&mut self) -> Result<(), CrewError> {
        for _ in 0..std::mem::take(&mut self.spawned) {
            self.sealed.1.recv().map_err(|_| CrewError::Gone)??;
        }
        Ok(())
    }

    /// Waits until every thread is in its filter, goes into the main thread's, and lets the vCPUs
    /// into the guest.
    ///
    /// # Errors
    /// When a filter was refused.
    pub fn release(mut self) -> Result<(), CrewError> {
        self.settle()?;
        seccomp::install(Role::Main)?;
        self.gate.wait();
        Ok(())
    }
}

/// A thread that has nothing to do any more waits for the end of the process: leaving would take
/// system calls that its filter does not have.
fn park() -> ! {
    loop {
        thread::park();
    }
}
