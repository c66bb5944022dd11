//! A file server that answers one message at a time, through its queues, for whoever has messages:
//! the kernel of this machine, say.

use std::path::Path;

use super::{BUFFERS, Driver, Piece};
use crate::fs::{self, AttachedFs, FsError};

/// The longest answer: a MiB of content and its header.
const ANSWER_BYTES: u32 = (1 << 20) + 4096;
const ANSWER: u64 = BUFFERS + 0x20_0000;
const REQUESTS: usize = 1;

/// The server and the driver that asks it.
pub struct Bridge {
    driver: Driver,
    server: AttachedFs,
}

impl Bridge {
    /// Serves a folder in the calling thread, whose working directory it takes for itself.
    ///
    /// # Errors
    /// When the folder cannot be served.
    pub fn open(folder: &Path) -> Result<Self, FsError> {
        let (device, mut server) = fs::serving(folder)?;
        let driver = Driver::start(Box::new(device), 2);
        server.step();
        Ok(Self { driver, server })
    }

    /// Asks, and gives back the answer: empty for what needs none.
    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        self.driver.write(BUFFERS, message);
        let request = Piece { address: BUFFERS, length, writable: false };
        let answer = Piece { address: ANSWER, length: ANSWER_BYTES, writable: true };
        self.driver.offer(REQUESTS, &[request, answer]).unwrap();
        self.server.step();
        let (_, written) = self.driver.used(REQUESTS).unwrap();
        self.driver.read(ANSWER, written as usize)
    }
}
