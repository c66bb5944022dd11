//! The outputs of the process that ends the sandbox, held open a little longer than its own.
//!
//! A process's streams close when it ends, and on a host its end is there in the same moment. A
//! guest's is there when its machine is gone, a few milliseconds later: whoever reads to the end and
//! then asks for the state would still see it run. So the ends of its outputs wait for the sandbox's,
//! but not for long: a program may also close an output and go on.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a reader waits, at most, for the end of an output that a running program has closed. A
/// guest tells of the end of its process within a few milliseconds, an emulated one within a hundred.
const HOLD: Duration = Duration::from_millis(250);

/// The outputs, each with its connection to the guest.
#[derive(Debug)]
pub(super) struct Held<C>(Vec<Output<C>>);

#[derive(Debug)]
struct Output<C> {
    connection: C,
    /// Closed when it is dropped, as by the end of the monitor.
    _descriptor: OwnedFd,
    /// Since when the guest's side is closed, and this long more.
    until: Option<Instant>,
}

impl<C> Default for Held<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C: Copy + PartialEq> Held<C> {
    /// Holds one more.
    pub(super) fn add(&mut self, connection: C, descriptor: OwnedFd) {
        self.0.push(Output { connection, _descriptor: descriptor, until: None });
    }

    /// The guest's side of this one is closed.
    pub(super) fn closed(&mut self, connection: C, now: Instant) {
        for output in self.0.iter_mut().filter(|output| output.connection == connection) {
            output.until.get_or_insert(now + HOLD);
        }
    }

    /// When the next one has been held long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|output| output.until).min()
    }

    /// Lets go of those that have been held long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|output| output.until.is_none_or(|until| until > now));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_output_ends_a_little_later_than_the_guests() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let connection = 7;
        let mut held = Held::default();
        held.add(connection, writer.into());
        let now = Instant::now();
        held.expire(now + HOLD);
        assert_eq!(held.deadline(), None);
        held.closed(connection, now);
        held.closed(connection, now + HOLD);
        assert_eq!(held.deadline(), Some(now + HOLD));
        held.expire(now + HOLD);
        assert_eq!(held.deadline(), None);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
