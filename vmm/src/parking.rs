//! Where vCPUs stand still while the machine is saved.
//!
//! ```text
//!  running ──ask──▶ (signalled out of the guest) ──its access finished──▶ parked, written down
//!     ▲                                                                       │
//!     └───────────────────────────────── let go ◀─────────────────────────────┘
//! ```
//!
//! A vCPU is brought out of the guest by a signal whose handler does nothing: `KVM_RUN` ends early.
//! One that is about to enter when the signal comes misses it, so it is sent again until all have
//! parked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::machine::vcpu_state::{VcpuState, VcpuStateError};
use crate::sys;

/// Between two signals.
const PATIENCE: Duration = Duration::from_millis(5);

/// Why the vCPUs do not all stand still.
#[derive(Debug, thiserror::Error)]
pub enum ParkingError {
    /// One does not come out of the guest.
    #[error("A vCPU does not stop in time")]
    Slow,
    /// One cannot be written down.
    #[error("A vCPU cannot be written down")]
    State(#[from] VcpuStateError),
}

/// What a vCPU left when it parked.
type Parked = Result<VcpuState, VcpuStateError>;

/// The place.
#[derive(Default)]
pub struct Parking {
    asked: AtomicBool,
    places: Mutex<Places>,
    changed: Condvar,
}

#[derive(Default)]
struct Places {
    /// The vCPUs' threads, by the vCPU's number.
    threads: Vec<(u8, sys::Thread)>,
    parked: Vec<(u8, Parked)>,
    /// Counts how often all were let go.
    round: u64,
}

impl Parking {
    /// The calling thread runs this vCPU.
    pub fn enlist(&self, vcpu: u8) {
        self.places().threads.push((vcpu, sys::Thread::current()));
    }

    /// Whether a vCPU is to park.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Parks the calling vCPU's thread until it is let go.
    pub fn park(&self, vcpu: u8, state: Parked) {
        let mut places = self.places();
        if !self.is_asked() {
            // Let go before it came here.
            return;
        }
        let round = places.round;
        places.parked.push((vcpu, state));
        self.changed.notify_all();
        while places.round == round {
            places = self.changed.wait(places).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops all vCPUs; their states, in the order of their numbers. They stand still until they
    /// are let go.
    ///
    /// # Errors
    /// When one does not stop or cannot be written down. They all run on then.
    pub fn stop(&self, patience: Duration) -> Result<Vec<VcpuState>, ParkingError> {
        let deadline = Instant::now() + patience;
        self.asked.store(true, Ordering::SeqCst);
        let mut places = self.places();
        while places.parked.len() < places.threads.len() {
            if Instant::now() > deadline {
                drop(places);
                self.let_go();
                return Err(ParkingError::Slow);
            }
            places.threads.iter().for_each(|(_, thread)| thread.interrupt());
            let waited = self.changed.wait_timeout(places, PATIENCE);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut parked = std::mem::take(&mut places.parked);
        drop(places);
        parked.sort_by_key(|(vcpu, _)| *vcpu);
        let states: Result<Vec<_>, _> = parked.into_iter().map(|(_, state)| state).collect();
        states.map_err(|error| {
            self.let_go();
            error.into()
        })
    }

    /// Lets all vCPUs go on.
    pub fn let_go(&self) {
        self.asked.store(false, Ordering::SeqCst);
        let mut places = self.places();
        places.parked.clear();
        places.round = places.round.wrapping_add(1);
        self.changed.notify_all();
    }

    /// A thread that panics ends the process, so no lock is ever poisoned.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_vcpu_that_does_not_stop_is_not_waited_for_and_runs_on() {
        sys::ignore_interruptions().unwrap();
        let parking = Parking::default();
        parking.enlist(0);
        let error = parking.stop(Duration::from_millis(20)).err().unwrap();
        assert!(matches!(error, ParkingError::Slow));
        assert!(!parking.is_asked());
    }

    #[test]
    fn all_stand_still_until_they_are_let_go() {
        sys::ignore_interruptions().unwrap();
        let parking = Arc::new(Parking::default());
        let (sender, receiver) = mpsc::channel();
        for vcpu in 0..3 {
            let (parking, sender) = (Arc::clone(&parking), sender.clone());
            std::thread::spawn(move || {
                parking.enlist(vcpu);
                sender.send("enlisted").unwrap();
                while !parking.is_asked() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                parking.park(vcpu, Err(VcpuStateError::TooLong));
                sender.send("gone on").unwrap();
            });
        }
        (0..3).for_each(|_| assert_eq!(receiver.recv().unwrap(), "enlisted"));
        // None of them can be written down: that is told once all have stopped, and they go on.
        let error = parking.stop(Duration::from_secs(10)).err().unwrap();
        assert!(matches!(error, ParkingError::State(_)), "{error}");
        (0..3).for_each(|_| assert_eq!(receiver.recv().unwrap(), "gone on"));
    }
}
