//! Bytes from one descriptor to another, in a thread of its own.
//!
//! ```text
//!   copying ──end of file, nobody reads──▶ over
//!      └──closed──▶ what is there still ──▶ over
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

/// As much as a pipe holds.
const BUFFER: usize = 64 << 10;

/// A copy that is under way.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Closed: it ends.
    _running: OwnedFd,
    over: Option<oneshot::Receiver<()>>,
}

impl Relay {
    /// Starts to copy. `from` must not block; it may be a FIFO that nobody writes to yet.
    ///
    /// # Errors
    /// No pipe, or no thread.
    pub(crate) fn start(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        let (closed, running) = pipe_with(PipeFlags::CLOEXEC)?;
        let (sender, over) = oneshot::channel();
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            // Either side is gone: there is nobody to tell.
            let _ = copy(&from, &to, &closed);
            let _ = sender.send(());
        })?;
        Ok(Self { _running: running, over: Some(over) })
    }

    /// Waits until either side has ended.
    pub(crate) async fn over(&mut self) {
        if let Some(over) = self.over.take() {
            let _ = over.await;
        }
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd, closed: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let is_closed = wait(from, closed)?;
        match rustix::io::read(from, &mut buffer) {
            // A terminal of which the last user is gone says EIO.
            Ok(0) | Err(Errno::IO) => return Ok(()),
            Ok(count) => write(to, &buffer[..count])?,
            Err(Errno::AGAIN) if is_closed => return Ok(()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// All of it. A terminal does not block: it is waited for.
fn write(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => {
                let polled = PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT);
                poll(&mut [polled], None)?;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Until there is something to read; whether it is to end after that.
fn wait(from: &OwnedFd, closed: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(closed.as_fd(), PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) => return Ok(!polled[1].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        (reader, writer)
    }

    fn rest(reader: OwnedFd) -> String {
        rustix::io::ioctl_fionbio(&reader, false).unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn it_ends_with_its_source() {
        let ((from, into), (out, to)) = (pipe(), pipe());
        let _relay = Relay::start(from, to).unwrap();
        File::from(into).write_all(b"said").unwrap();
        assert_eq!(rest(out), "said");
    }

    #[test]
    fn closed_it_sends_what_is_there_and_ends_though_the_source_is_open() {
        let ((from, into), (out, to)) = (pipe(), pipe());
        let mut into = File::from(into);
        into.write_all(b"before").unwrap();
        drop(Relay::start(from, to).unwrap());
        assert_eq!(rest(out), "before");
    }
}
