//! Rtnetlink, as the runtime speaks it with the host's kernel and the agent with the guest's: what
//! an interface has, and how to change it. Messages, their attributes, and who answers what.
//!
//! ```text
//!  ── request (sequence n) ──▶ kernel
//!  ◀── answers of sequence n … ── done, or an error number (0: it is done)
//! ```
//!
//! What this is not: a socket. The caller brings one (`AF_NETLINK`, `NETLINK_ROUTE`) as a stream
//! that reads one datagram at a time.
//!
//! Not hostile, but of another version: a kernel may tell more than is known here, so unknown
//! attributes are passed over, and lengths are never believed.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// `NLM_F_*`, `NLMSG_*`, `RTM_*` and `RTA_ALIGN` of Linux's headers, as far as they are used.
pub mod numbers {
    /// An ordinary request that is answered.
    pub const REQUEST: u16 = 0x05;
    /// A request for everything of a kind.
    pub const DUMP: u16 = 0x0301;
    /// Change what is there.
    pub const REPLACE: u16 = 0x0100;
    /// Fail where something is there.
    pub const EXCLUSIVE: u16 = 0x0200;
    /// Make what is not there.
    pub const CREATE: u16 = 0x0400;
    /// Make it beside what is there.
    pub const APPEND: u16 = 0x0800;
    pub(super) const INTERRUPTED: u16 = 0x10;
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    /// Links.
    pub const NEW_LINK: u16 = 16;
    /// Links.
    pub const GET_LINK: u16 = 18;
    /// Links.
    pub const SET_LINK: u16 = 19;
    /// Addresses.
    pub const NEW_ADDRESS: u16 = 20;
    /// Addresses.
    pub const DELETE_ADDRESS: u16 = 21;
    /// Addresses.
    pub const GET_ADDRESS: u16 = 22;
    /// Routes.
    pub const NEW_ROUTE: u16 = 24;
    /// Routes.
    pub const DELETE_ROUTE: u16 = 25;
    /// Routes.
    pub const GET_ROUTE: u16 = 26;
    /// Neighbours.
    pub const NEW_NEIGHBOUR: u16 = 28;
    /// Neighbours.
    pub const DELETE_NEIGHBOUR: u16 = 29;
    /// Neighbours.
    pub const GET_NEIGHBOUR: u16 = 30;
    /// Queueing disciplines.
    pub const NEW_DISCIPLINE: u16 = 36;
    /// Queueing disciplines.
    pub const DELETE_DISCIPLINE: u16 = 37;
    /// Queueing disciplines.
    pub const GET_DISCIPLINE: u16 = 38;
    /// Filters.
    pub const NEW_FILTER: u16 = 44;
    /// Filters.
    pub const DELETE_FILTER: u16 = 45;
}

use numbers::{DONE, DUMP, ERROR, INTERRUPTED, REQUEST};

/// `NLM_F_ACK`.
const ANSWERED: u8 = 0x04;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct rtattr`.
const ATTRIBUTE_BYTES: usize = 4;
/// Flags in an attribute's type: that it is nested, and in which order its bytes are.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel tells at most 32 KiB at a time.
const DATAGRAM_BYTES: usize = 64 << 10;
/// A list that changes while it is told is told again, not for ever.
const MAX_DUMPS: usize = 8;
/// More than a machine's interfaces and routes ever are.
const MAX_ANSWERS: usize = 1 << 20;

/// Why the kernel was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket.
    #[error("The kernel cannot be asked")]
    Socket(#[source] io::Error),
    /// The kernel.
    #[error("The kernel refused")]
    Refused(#[source] io::Error),
    /// What is no answer.
    #[error("The kernel's answer makes no sense")]
    Malformed,
    /// It changes all the time.
    #[error("The list changes while it is read")]
    Unstable,
}

impl NetlinkError {
    /// Whether the kernel gave this reason.
    #[must_use]
    pub fn is(&self, kind: io::ErrorKind) -> bool {
        matches!(self, Self::Refused(error) if error.kind() == kind)
    }
}

/// An attribute: what it is, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its type.
    pub kind: u16,
    /// Its value.
    pub value: Vec<u8>,
}

/// A request that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of a kind, with the fixed part of its content.
    #[must_use]
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_le_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_le_bytes());
        bytes.extend(fixed);
        Self { bytes }
    }

    /// A change of a link: these of its flags (`IFF_*`) are set, no other is touched.
    #[must_use]
    pub fn of_link(index: u32, flags: u32) -> Self {
        // `struct ifinfomsg`.
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_le_bytes());
        fixed[8..12].copy_from_slice(&flags.to_le_bytes());
        fixed[12..].copy_from_slice(&flags.to_le_bytes());
        Self::new(numbers::SET_LINK, 0, &fixed)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.begin(kind);
        self.bytes.extend(value);
        self.end(start);
        self
    }

    /// Adds a name, with the zero at its end.
    #[must_use]
    pub fn name(self, kind: u16, name: &str) -> Self {
        self.attribute(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute of attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, content: impl FnOnce(Self) -> Self) -> Self {
        let start = self.begin(kind);
        let mut message = content(self);
        message.end(start);
        message
    }

    /// Adds attributes as they were read.
    #[must_use]
    pub fn attributes(self, attributes: &[Attribute]) -> Self {
        let add = |message: Self, attribute: &Attribute| {
            message.attribute(attribute.kind, &attribute.value)
        };
        attributes.iter().fold(self, add)
    }

    /// Without an answer, unless it is refused.
    fn unanswered(mut self) -> Self {
        self.bytes[6] &= !ANSWERED;
        self
    }

    /// What kind of request it is, and what comes after its header.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (u16, &[u8]) {
        (u16::from_le_bytes([self.bytes[4], self.bytes[5]]), &self.bytes[HEADER_BYTES..])
    }

    fn begin(&mut self, kind: u16) -> usize {
        self.align();
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_le_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        // Nothing here has 64 KiB.
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_le_bytes());
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = (self.bytes.len() as u32).to_le_bytes();
        self.bytes[..4].copy_from_slice(&length);
        self.bytes[8..12].copy_from_slice(&sequence.to_le_bytes());
        self.bytes
    }
}

/// The attributes in some bytes, up to the first that is none.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk::<ATTRIBUTE_BYTES>()?;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_le_bytes([k0, k1]) & TYPE_MASK, value))
    })
}

/// An answer: its content begins with the fixed part of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its kind.
    pub kind: u16,
    /// Its content.
    pub content: Vec<u8>,
}

impl Answer {
    /// The fixed part, if there is so much.
    #[must_use]
    pub fn fixed<const N: usize>(&self) -> Option<[u8; N]> {
        self.content.first_chunk().copied()
    }

    /// The attributes behind a fixed part of this length.
    pub fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.content.get(fixed..).unwrap_or_default())
    }
}

/// A conversation with a kernel.
#[derive(Debug)]
pub struct Netlink<S> {
    socket: S,
    sequence: u32,
}

/// What the kernel has told so far.
#[derive(Debug, Default)]
struct Told {
    answers: Vec<Answer>,
    /// The list changed meanwhile.
    interrupted: bool,
}

impl<S: Read + Write> Netlink<S> {
    /// Begins one.
    #[must_use]
    pub const fn new(socket: S) -> Self {
        Self { socket, sequence: 0 }
    }

    /// Has something done.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn request(&mut self, message: Message) -> Result<(), NetlinkError> {
        self.ask(message).map(drop)
    }

    /// Has several things done together, or none of them: what a batch of nftables is. The last
    /// but one, before the batch's end, is answered for all.
    ///
    /// # Errors
    /// The kernel's reason for the first that it refuses.
    pub fn batch(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let answered = messages.len().saturating_sub(2);
        let silent = |(index, message): (usize, Message)| {
            if index == answered { message } else { message.unanswered() }
        };
        let messages = messages.into_iter().enumerate().map(silent);
        let request: Vec<u8> = messages.flat_map(|message| message.finish(self.sequence)).collect();
        self.converse(&request).map(drop)
    }

    /// Has everything of a kind told.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn dump(&mut self, kind: u16, fixed: &[u8]) -> Result<Vec<Answer>, NetlinkError> {
        for _ in 0..MAX_DUMPS {
            let told = self.ask(Message::new(kind, DUMP, fixed))?;
            if !told.interrupted {
                return Ok(told.answers);
            }
        }
        Err(NetlinkError::Unstable)
    }

    fn ask(&mut self, message: Message) -> Result<Told, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.converse(&message.finish(self.sequence))
    }

    fn converse(&mut self, request: &[u8]) -> Result<Told, NetlinkError> {
        let sent = self.socket.write(request).map_err(NetlinkError::Socket)?;
        if sent != request.len() {
            return Err(NetlinkError::Socket(io::ErrorKind::WriteZero.into()));
        }
        let mut told = Told::default();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while told.answers.len() <= MAX_ANSWERS {
            let length = match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => break,
                read => read.map_err(NetlinkError::Socket)?,
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            if told.take(datagram, self.sequence)? {
                return Ok(told);
            }
        }
        Err(NetlinkError::Malformed)
    }
}

impl Told {
    /// Takes one datagram; whether it was the last. What belongs to another request is passed over.
    fn take(&mut self, mut bytes: &[u8], sequence: u32) -> Result<bool, NetlinkError> {
        while !bytes.is_empty() {
            let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(NetlinkError::Malformed)?;
            let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = header;
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let content = bytes.get(HEADER_BYTES..length).ok_or(NetlinkError::Malformed)?;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            if u32::from_le_bytes([s0, s1, s2, s3]) != sequence {
                continue;
            }
            self.interrupted |= u16::from_le_bytes([f0, f1]) & INTERRUPTED != 0;
            match u16::from_le_bytes([k0, k1]) {
                DONE | ERROR => return refusal(content).map(|()| true),
                kind => self.answers.push(Answer { kind, content: content.to_vec() }),
            }
        }
        Ok(false)
    }
}

/// An error's number is negative; zero is none.
fn refusal(content: &[u8]) -> Result<(), NetlinkError> {
    match content.first_chunk().map(|number| i32::from_le_bytes(*number)) {
        Some(0) | None => Ok(()),
        Some(number) => {
            Err(NetlinkError::Refused(io::Error::from_raw_os_error(number.wrapping_neg())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A kernel that has its answers ready.
    #[derive(Default)]
    struct Kernel {
        heard: Vec<Vec<u8>>,
        answers: VecDeque<Vec<u8>>,
    }

    impl Read for Kernel {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let datagram = self.answers.pop_front().unwrap_or_default();
            buffer[..datagram.len()].copy_from_slice(&datagram);
            Ok(datagram.len())
        }
    }

    impl Write for Kernel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(kind: u16, flags: u16, sequence: u32, content: &[u8]) -> Vec<u8> {
        let mut message = Message::new(kind, 0, content).finish(sequence);
        message[6..8].copy_from_slice(&flags.to_le_bytes());
        message
    }

    fn talking(answers: &[Vec<u8>]) -> Netlink<Kernel> {
        Netlink::new(Kernel { answers: answers.to_vec().into(), ..Kernel::default() })
    }

    #[test]
    fn a_request_is_written_as_the_kernel_reads_it() {
        let message = Message::new(numbers::NEW_LINK, numbers::CREATE, &[1, 2, 3, 4])
            .name(3, "eth0")
            .nested(18, |message| message.attribute(1, &[9]));
        let expected = [
            &[44, 0, 0, 0, 16, 0, 5, 4, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4][..],
            &[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0],
            &[12, 0, 18, 0, 5, 0, 1, 0, 9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(message.finish(7), expected);
    }

    #[test]
    fn attributes_are_read_back_and_what_is_none_ends_them() {
        let written = Message::new(0, 0, &[]).attribute(1, b"abc").attribute(0x8002, &[]);
        let bytes = &written.bytes[HEADER_BYTES..];
        let read: Vec<_> = attributes(bytes).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (2, &[])]);
        let cut: Vec<_> = attributes(&bytes[..bytes.len() - 1]).collect();
        assert_eq!(cut, [(1, &b"abc"[..])]);
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_its_reason() {
        let refused = answer(ERROR, 0, 1, &(-17_i32).to_le_bytes());
        let error = talking(&[refused]).request(Message::new(16, 0, &[])).unwrap_err();
        assert!(error.is(io::ErrorKind::AlreadyExists), "{error:?}");
        let done = answer(ERROR, 0, 1, &0_i32.to_le_bytes());
        talking(&[done]).request(Message::new(16, 0, &[])).unwrap();
    }

    #[test]
    fn a_batch_is_one_datagram_and_its_last_request_is_answered_for_all() {
        let messages = || (16..20).map(|kind| Message::new(kind, 0, &[0; 4])).collect();
        let done = answer(ERROR, 0, 1, &0_i32.to_le_bytes());
        let mut kernel = talking(&[done]);
        kernel.batch(messages()).unwrap();
        let heard = &kernel.socket.heard;
        let flags: Vec<u8> = heard[0].chunks(20).map(|message| message[6]).collect();
        assert_eq!((heard.len(), flags), (1, vec![1, 1, 5, 1]));
        let refused = answer(ERROR, 0, 1, &(-17_i32).to_le_bytes());
        let error = talking(&[refused]).batch(messages()).unwrap_err();
        assert!(error.is(io::ErrorKind::AlreadyExists), "{error:?}");
    }

    #[test]
    fn a_list_comes_in_parts_and_again_when_it_has_changed() {
        let first = answer(16, INTERRUPTED, 1, &[1; 4]);
        let parts = [answer(16, 0, 2, &[2; 4]), answer(16, 0, 2, &[3; 4])].concat();
        let of_another = answer(16, 0, 9, &[4; 4]);
        let done = |sequence| answer(DONE, 0, sequence, &[0; 4]);
        let mut kernel = talking(&[first, done(1), of_another, parts, done(2)]);
        let answers = kernel.dump(18, &[0; 16]).unwrap();
        let contents: Vec<_> = answers.iter().map(|answer| answer.content[0]).collect();
        assert_eq!(contents, [2, 3]);
        assert_eq!(kernel.socket.heard.len(), 2);
    }

    #[test]
    fn a_kernel_that_ends_without_an_answer_is_an_error() {
        let ended = talking(&[]).request(Message::new(16, 0, &[]));
        assert!(matches!(ended, Err(NetlinkError::Malformed)));
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = talking(std::slice::from_ref(&bytes)).dump(18, &[]);
            attributes(&bytes).for_each(drop);
        }
    }
}
