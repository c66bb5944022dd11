//! Network devices that come and go while the guest runs.
//!
//! ```text
//!  request, tap ─▶ device half ─▶ slot
//!             └──▶ worker, served by this thread
//!  request ─▶ worker and tap closed ─▶ slot emptied
//! ```
//!
//! No thread of its own: it would have to be there from the boot on, since none can be made behind the
//! filters, and costs each guest half a millisecond, with interfaces or without. A worker does so much
//! in one go, and then others have their turn.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_protocol::control::AttachNetwork;
use cofferdam_virtio::net::{self, Net, NetConfig};
use cofferdam_virtio::poll::{Poller, Readiness, Token};

use super::wiring::{Interrupting, PlugError, Plugged, Wiring};
use crate::machine::kvm::KvmError;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum AttachNetworkError {
    /// The device.
    #[error("The network device cannot be made")]
    Device(#[from] net::OpenError),
    /// Its slot.
    #[error(transparent)]
    Plug(#[from] PlugError),
}

/// The devices, and what it takes to make one.
pub struct Network {
    /// The machine.
    pub wiring: Wiring,
    /// Where they wait.
    pub poller: Arc<Poller>,
    /// Whose events are the first's; the others' come after it.
    pub first_owner: u32,
    /// Those that there are, by their slots.
    pub plugged: BTreeMap<usize, (Net, Plugged)>,
}

impl Network {
    /// Deals with an event of one of them.
    pub fn handle(&mut self, token: Token, readiness: Readiness) {
        let index = token.owner.checked_sub(self.first_owner);
        // None: it has gone since it was told of.
        if let Some((worker, _)) = index.and_then(|index| self.plugged.get_mut(&(index as usize))) {
            worker.handle(token, readiness);
        }
    }

    /// Makes a device of a tap's queues; its number among the virtio-mmio devices.
    ///
    /// # Errors
    /// When there is no room, or something refuses. A slot that was not filled stays empty.
    pub fn attach(
        &mut self,
        request: AttachNetwork,
        tap: Vec<OwnedFd>,
    ) -> Result<u32, AttachNetworkError> {
        let slot = self.wiring.free_slot()?;
        let index = slot.index;
        let AttachNetwork { mac, mtu, uncut_udp } = request;
        let owner = self.first_owner + index as u32;
        let config = NetConfig { mac, mtu, uncut_udp };
        let (device, worker) = net::open(Arc::clone(&self.poller), owner, tap, config)?;
        match self.wiring.plug(slot, Box::new(device), Interrupting::AtOnce) {
            Ok(plugged) => {
                self.plugged.insert(index, (worker, plugged));
                Ok(self.wiring.number_of(index))
            }
            Err(error) => {
                worker.close();
                Err(error.into())
            }
        }
    }

    /// Takes the device of this number away. One that is not there is taken away already.
    ///
    /// # Errors
    /// When KVM keeps a wire of it; its tap is let go of all the same.
    pub fn detach(&mut self, number: u32) -> Result<(), KvmError> {
        let slot = self.wiring.slot_of(number);
        let plugged = slot.and_then(|slot| Some((slot, self.plugged.remove(&slot)?)));
        let Some((slot, (worker, plugged))) = plugged else { return Ok(()) };
        worker.close();
        self.wiring.unplug(slot, &plugged)
    }
}
