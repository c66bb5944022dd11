//! A register page as it is written down, and as it is read back.

use std::sync::atomic::Ordering;

use super::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, Features, INTERRUPT_STATUS, MmioTransport,
    QueueRegisters, STATUS,
};
use crate::interrupt::{CONFIGURATION_CHANGED, DEVICE_NEEDS_RESET, USED_BUFFER};
use crate::saved::{QueuePosition, TransportState};

const STATUS_BITS: u32 =
    ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED | DEVICE_NEEDS_RESET;

/// Why a saved register page is not that of a device here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransport {
    /// Another device.
    #[error("The snapshot has a device of type {found} where this machine has type {expected}")]
    Device {
        /// In the snapshot.
        found: u32,
        /// Here.
        expected: u32,
    },
    /// The same device with another shape.
    #[error("The snapshot's device has {found} queues, this one {expected}")]
    Queues {
        /// In the snapshot.
        found: usize,
        /// Here.
        expected: usize,
    },
    /// A register that no driver and no device could have set so.
    #[error("A register of the snapshot's device has the impossible value {0:#x}")]
    Register(u64),
    /// Nobody serves the device as its queues are.
    #[error("The queues of the snapshot's device cannot be served")]
    Unserved,
}

impl MmioTransport {
    /// The page as it is, with how far the worker has served each queue; none of it while the
    /// device is not in service. To be called while neither a vCPU nor the worker runs.
    #[must_use]
    pub fn save(&self, positions: &[QueuePosition]) -> TransportState {
        let position = |index: usize| positions.get(index).copied().unwrap_or_default();
        let queues = self.queues.iter().enumerate();
        TransportState {
            device_type: self.device.device_type() as u32,
            status: self.device_status(),
            interrupt: self.page.register(INTERRUPT_STATUS).load(Ordering::SeqCst),
            queue_select: self.queue_select,
            device_select: self.features.device_select,
            driver_select: self.features.driver_select,
            accepted: self.features.accepted,
            queues: queues.map(|(index, queue)| queue.state(position(index))).collect(),
        }
    }

    /// Takes over what [`Self::save`] gave, into a device that no driver has touched. A device that
    /// was in service is again: its worker is told that there may be work, and its driver that
    /// there may be news.
    ///
    /// # Errors
    /// When it is not the state of this device.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), InvalidTransport> {
        self.check(state)?;
        self.queue_select = state.queue_select;
        let offered = Features::offering(self.device.features());
        self.features = Features {
            accepted: state.accepted,
            device_select: state.device_select,
            driver_select: state.driver_select,
            ..offered
        };
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            *queue = QueueRegisters::of_state(queue.max_size, saved);
        }
        self.page.put(STATUS, state.status);
        self.page.put(INTERRUPT_STATUS, state.interrupt);
        self.publish();
        let broken = state.status & (DEVICE_NEEDS_RESET | FAILED) != 0;
        if state.status & DRIVER_OK == 0 || broken {
            return Ok(());
        }
        self.serve_again(state)
    }

    fn serve_again(&mut self, state: &TransportState) -> Result<(), InvalidTransport> {
        if !self.features.acceptable() {
            return Err(InvalidTransport::Register(state.accepted));
        }
        let positions: Vec<_> = state.queues.iter().map(|queue| queue.position).collect();
        if !self.activate_at(&positions) {
            return Err(InvalidTransport::Unserved);
        }
        for event in &self.notifications {
            // A full counter is a pending notification.
            let _ = event.write(1);
        }
        // An interrupt may have been on its way when the machine was saved.
        self.interrupt().used_buffer();
        Ok(())
    }

    fn check(&self, state: &TransportState) -> Result<(), InvalidTransport> {
        let expected = self.device.device_type() as u32;
        if state.device_type != expected {
            return Err(InvalidTransport::Device { found: state.device_type, expected });
        }
        let (found, expected) = (state.queues.len(), self.queues.len());
        if found != expected {
            return Err(InvalidTransport::Queues { found, expected });
        }
        for (value, known) in
            [(state.status, STATUS_BITS), (state.interrupt, USED_BUFFER | CONFIGURATION_CHANGED)]
        {
            if value & !known != 0 {
                return Err(InvalidTransport::Register(value.into()));
            }
        }
        Ok(())
    }
}
