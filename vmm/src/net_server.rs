//! The net thread: serves the network devices, which come while the guest runs.
//!
//! A thread of its own, so that a guest that sends all the time keeps nobody waiting who wants to
//! stop it, and so that what sends frames can do little else.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use cofferdam_virtio::net::Net;
use cofferdam_virtio::poll::{Events, Interest, Poller, Token};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Whose event says that there is another device. The devices' numbers come after it.
const ARRIVALS: u32 = 0;

/// Where devices are brought to the thread.
#[derive(Debug)]
pub struct Entrance {
    devices: Sender<Net>,
    wake: Arc<EventFd>,
    poller: Arc<Poller>,
    brought: u32,
}

/// What the thread works on.
#[derive(Debug)]
pub struct NetServer {
    poller: Arc<Poller>,
    arrivals: Receiver<Net>,
    wake: Arc<EventFd>,
    devices: Vec<Net>,
}

/// A thread without devices, and the way to it.
///
/// # Errors
/// When the system has no descriptor left.
pub fn open() -> io::Result<(Entrance, NetServer)> {
    let poller = Arc::new(Poller::open()?);
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    poller.add(&*wake, Token { owner: ARRIVALS, index: 0 }, Interest::READ)?;
    let (devices, arrivals) = mpsc::channel();
    let entrance =
        Entrance { devices, wake: Arc::clone(&wake), poller: Arc::clone(&poller), brought: 0 };
    Ok((entrance, NetServer { poller, arrivals, wake, devices: Vec::new() }))
}

impl Entrance {
    /// Where the next device is to wait, and by what name.
    #[must_use]
    pub fn next(&self) -> (Arc<Poller>, u32) {
        (Arc::clone(&self.poller), self.brought + 1)
    }

    /// Brings the device that was made for [`Self::next`].
    pub fn bring(&mut self, device: Net) {
        self.brought += 1;
        // A thread that is gone has ended the process; a full counter is a pending wake-up.
        let _ = self.devices.send(device);
        let _ = self.wake.write(1);
    }
}

impl NetServer {
    /// Serves; ends only when it cannot wait any more, with the reason.
    pub fn run(mut self) -> io::Error {
        let mut events = Events::new();
        loop {
            if let Err(error) = self.turn(&mut events) {
                return error;
            }
        }
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        for (token, readiness) in self.poller.wait(events, None)? {
            match token.owner.checked_sub(ARRIVALS + 1) {
                None => {
                    // It was raised, so there is something to read.
                    let _ = self.wake.read();
                    self.devices.extend(self.arrivals.try_iter());
                }
                // One that has not arrived yet is told again.
                Some(index) => {
                    if let Some(device) = self.devices.get_mut(index as usize) {
                        device.handle(*token, *readiness);
                    }
                }
            }
        }
        Ok(())
    }
}
