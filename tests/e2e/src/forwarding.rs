//! A client of CRI's PortForward, over a WebSocket (RFC 6455) of the protocol `v4.channel.k8s.io`: each
//! message is a channel's number and bytes of it. Of a port there are two channels, data and errors, and
//! the first message of each names the port. There is no half-close.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::netns::inside_network;

/// On a processor in software, under load.
const PATIENCE: Duration = Duration::from_secs(120);
const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;
const PORT_BYTES: usize = 2;

// The first byte of a frame: a whole message, and what it is.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
/// In the second byte: a mask follows. A client has one; here of zeros.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0; 4];
/// Lengths from here on are in two bytes, or in eight.
const LONG: u8 = 126;
const LONGER: u8 = 127;

/// A way to one port of a pod.
#[derive(Debug)]
pub struct Forwarding {
    socket: BufReader<TcpStream>,
}

/// What came over it until its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Of the program that listens there.
    pub data: String,
    /// Of the engine.
    pub error: String,
}

impl Forwarding {
    /// Opens the one that the engine offers at a URL, in the network namespace that it is of.
    pub(crate) fn open(network: &Path, url: &str) -> Self {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = inside_network(network, || TcpStream::connect(address)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        )
        .unwrap();
        let mut socket = BufReader::new(socket);
        let status = line(&mut socket);
        assert!(status.contains(" 101 "), "{status}");
        while !line(&mut socket).is_empty() {}
        Self { socket }
    }

    /// Sends this; everything that comes back.
    #[must_use]
    pub fn ask(mut self, text: &str) -> Forwarded {
        let length = u8::try_from(text.len() + 1).unwrap();
        assert!(length < LONG);
        let frame = [&[BINARY, MASKED | length], &MASK[..], &[DATA], text.as_bytes()].concat();
        self.socket.get_mut().write_all(&frame).unwrap();
        let mut channels = [Vec::new(), Vec::new()];
        // However it ends: what came is what is compared.
        while let Ok(Some(message)) = self.message() {
            let (channel, bytes) = message.split_first().unwrap();
            channels[usize::from((*channel).clamp(DATA, ERROR))].extend_from_slice(bytes);
        }
        let [data, error] = channels.map(|bytes| {
            let bytes = bytes.get(PORT_BYTES..).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        });
        Forwarded { data, error }
    }

    /// The next message that says something; none: the engine is done.
    fn message(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let [kind, length] = self.bytes()?;
            let length = match length {
                LONG => u64::from(u16::from_be_bytes(self.bytes()?)),
                LONGER => u64::from_be_bytes(self.bytes()?),
                short => short.into(),
            };
            let mut message = vec![0; usize::try_from(length).unwrap()];
            self.socket.read_exact(&mut message)?;
            match kind {
                CLOSE => return Ok(None),
                BINARY if !message.is_empty() => return Ok(Some(message)),
                _ => {}
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn line(socket: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    socket.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
