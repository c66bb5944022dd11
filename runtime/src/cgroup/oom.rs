//! Being told when the kernel runs out of a container's memory.
//!
//! v1 tells through an event counter that was named to the group, v2 by changing a file. In v1 the
//! end of the group counts as an event as well, which it is not here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::Groups;

/// Watches one container.
#[derive(Debug)]
pub struct OomWatch {
    /// Readable when there may be something new.
    wake: OwnedFd,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The file that the event is about, which must stay open.
    V1 { control: PathBuf, _watched: File },
    /// The file and what it said when it was read last.
    V2 { events: PathBuf, kills: u64 },
}

impl OomWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the groups have no memory controller.
    pub fn open(groups: Groups<'_>) -> io::Result<Self> {
        match groups.file("memory.oom_control") {
            Some(control) => Self::open_v1(control),
            None => Self::open_v2(groups.file("memory.events").ok_or(io::ErrorKind::NotFound)?),
        }
    }

    fn open_v1(control: PathBuf) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watched = File::open(&control)?;
        let request = format!("{} {}", wake.as_raw_fd(), watched.as_raw_fd());
        let register = control.with_file_name("cgroup.event_control");
        super::write(&register, &request)?;
        Ok(Self { wake, source: Source::V1 { control, _watched: watched } })
    }

    fn open_v2(events: PathBuf) -> io::Result<Self> {
        let wake = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&wake, &events, inotify::WatchFlags::MODIFY)?;
        let kills = oom_kills(&std::fs::read_to_string(&events)?);
        Ok(Self { wake, source: Source::V2 { events, kills } })
    }

    /// To be polled.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// How often it happened since this was asked last.
    pub fn take(&mut self) -> u64 {
        let mut buffer = [0; 4096];
        let read = rustix::io::read(&self.wake, &mut buffer).unwrap_or(0);
        match &mut self.source {
            Source::V1 { control, .. } => match buffer.first_chunk::<8>() {
                Some(count) if read == 8 && control.exists() => u64::from_ne_bytes(*count),
                _ => 0,
            },
            Source::V2 { events, kills } => {
                // A group that is gone has said what it had to.
                let now = std::fs::read_to_string(events).map_or(*kills, |text| oom_kills(&text));
                now.saturating_sub(std::mem::replace(kills, now))
            }
        }
    }
}

fn oom_kills(events: &str) -> u64 {
    let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn with_v2_each_kill_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        assert!(OomWatch::open(Groups::new(&folders)).is_err());
        let file = folder.path().join("memory.events");
        fs::write(&file, "oom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        let mut watch = OomWatch::open(Groups::new(&folders)).unwrap();
        assert_eq!(watch.take(), 0);
        fs::write(&file, "oom 3\noom_kill 4\n").unwrap();
        assert_eq!((watch.take(), watch.take()), (2, 0));
        fs::remove_file(&file).unwrap();
        assert_eq!(watch.take(), 0);
    }
}
