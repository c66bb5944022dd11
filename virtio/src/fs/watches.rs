//! Watches on the host's folders (inotify), made by a thread of their own: the file server's
//! thread has no system call to spare for them.
//!
//! ```text
//!  file server ── pipe: a descriptor's number ──▶ watcher: inotify_add_watch("N")
//!              ◀── pipe: the watch's number ─────          in /proc/self/fd
//! ```
//!
//! What this is not: it reads no events. The file server does, between its requests.

use std::ffi::CString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::sys;

/// Of a folder's entries, or of a file. What was unlinked and is still written to has no name to
/// say it by.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::EXCL_UNLINK);

/// A message on a pipe: two numbers.
type Message = [i32; 2];
/// Watch what the descriptor of this number is; the answer is 0 and a watch, or an error and 0.
const ADD: i32 = 1;
/// Let the watch of this number go; there is no answer.
const REMOVE: i32 = 2;

/// The file server's half.
#[derive(Debug)]
pub(super) struct Watches {
    pub(super) events: Arc<OwnedFd>,
    requests: PipeWriter,
    answers: PipeReader,
}

/// The thread's half.
#[derive(Debug)]
pub struct Watcher {
    events: Arc<OwnedFd>,
    requests: PipeReader,
    answers: PipeWriter,
}

/// Both halves.
pub(super) fn pair() -> io::Result<(Watches, Watcher)> {
    let events = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
    let (asked, ask) = io::pipe()?;
    let (answered, answer) = io::pipe()?;
    let watches = Watches { events: Arc::clone(&events), requests: ask, answers: answered };
    Ok((watches, Watcher { events, requests: asked, answers: answer }))
}

impl Watches {
    /// Watches what a descriptor is; one inode has one watch, however often it is asked for.
    pub(super) fn add(&mut self, file: impl AsFd) -> io::Result<i32> {
        send(&mut self.requests, [ADD, file.as_fd().as_raw_fd()])?;
        match receive(&mut self.answers)? {
            [0, watch] => Ok(watch),
            [error, _] => Err(io::Error::from_raw_os_error(error)),
        }
    }

    pub(super) fn remove(&mut self, watch: i32) {
        // A watcher that is gone has taken its watches with it.
        let _ = send(&mut self.requests, [REMOVE, watch]);
    }
}

impl Watcher {
    /// Makes `descriptors`, which is `/proc/self/fd`, the thread's own working directory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self, descriptors: impl AsFd) -> io::Result<()> {
        sys::unshare_working_directory()?;
        Ok(rustix::process::fchdir(descriptors)?)
    }

    /// Watches what it is asked to, until nobody can ask any more; then it says why.
    ///
    /// # Errors
    /// Always: the file server outlives it otherwise.
    pub fn run(mut self) -> io::Error {
        loop {
            if let Err(error) = self.serve() {
                return error;
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        match receive(&mut self.requests)? {
            [ADD, number] => {
                let answer = match self.add(number) {
                    Ok(watch) => [0, watch],
                    Err(error) => [error.raw_os_error().unwrap_or(libc::EIO), 0],
                };
                send(&mut self.answers, answer)
            }
            [REMOVE, watch] => {
                // Gone by itself, with its folder.
                let _ = inotify::remove_watch(&*self.events, watch);
                Ok(())
            }
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn add(&self, number: i32) -> io::Result<i32> {
        let path = CString::new(number.to_string())?;
        Ok(inotify::add_watch(&*self.events, path.as_c_str(), WATCHED)?)
    }
}

fn send(pipe: &mut PipeWriter, [kind, value]: Message) -> io::Result<()> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    pipe.write_all(&bytes)
}

fn receive(pipe: &mut PipeReader) -> io::Result<Message> {
    let (mut kind, mut value) = ([0; 4], [0; 4]);
    pipe.read_exact(&mut kind)?;
    pipe.read_exact(&mut value)?;
    Ok([i32::from_ne_bytes(kind), i32::from_ne_bytes(value)])
}
