//! The outside end of the connections to the probe's `--traffic`, whose words it speaks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Where the probe listens.
pub(super) const PORT: u16 = 80;
/// What one system call moves.
const CHUNK: usize = 128 << 10;
/// A container of the lab's listens within this.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n";
const END_OF_HEADER: &[u8] = b"\r\n\r\n";
const LENGTH: &str = "Content-Length: ";

/// A connection that moves bytes.
#[derive(Debug)]
pub(super) struct Bulk {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Bulk {
    /// Connects as soon as somebody listens.
    pub(super) fn connect(address: Ipv4Addr) -> Result<Self> {
        Ok(Self { stream: connect(address)?, buffer: vec![0; CHUNK] })
    }

    /// Sends so many bytes, and waits until they have arrived.
    pub(super) fn send(&mut self, count: u64) -> Result<()> {
        self.command(b't', count, &[])?;
        let mut left = count;
        while left > 0 {
            let length = usize::try_from(left)?.min(CHUNK);
            self.stream.write_all(&self.buffer[..length])?;
            left -= length as u64;
        }
        self.await_answer()
    }

    /// Receives so many bytes.
    pub(super) fn receive(&mut self, count: u64) -> Result<()> {
        self.command(b'g', count, &[])?;
        let mut left = count;
        while left > 0 {
            let room = usize::try_from(left)?.min(CHUNK);
            let read = self.stream.read(&mut self.buffer[..room])?;
            anyhow::ensure!(read > 0, "the container closed the connection");
            left -= read as u64;
        }
        Ok(())
    }

    /// Has so many bytes sent to another container, and waits until they have arrived.
    pub(super) fn pass_on(&mut self, count: u64, to: Ipv4Addr) -> Result<()> {
        let mut place = to.octets().to_vec();
        place.extend(PORT.to_le_bytes());
        self.command(b'p', count, &place)?;
        self.await_answer()
    }

    fn command(&mut self, word: u8, count: u64, rest: &[u8]) -> Result<()> {
        let bytes = [&[word][..], &count.to_le_bytes(), rest].concat();
        Ok(self.stream.write_all(&bytes)?)
    }

    fn await_answer(&mut self) -> Result<()> {
        Ok(self.stream.read_exact(&mut [0])?)
    }
}

/// Connections that ask for pages, all of the same length: looking for the end of each would cost as much
/// as getting it, and be counted as the runtime's.
#[derive(Debug)]
pub(super) struct Browsers {
    streams: Vec<TcpStream>,
    page: Vec<u8>,
}

impl Browsers {
    /// So many. The first finds out how long the page is.
    pub(super) fn connect(address: Ipv4Addr, count: usize) -> Result<Self> {
        let mut streams = (0..count).map(|_| connect(address)).collect::<Result<Vec<_>>>()?;
        let length = streams.first_mut().map_or(Ok(0), first_page)?;
        Ok(Self { streams, page: vec![0; length] })
    }

    /// Each asks once, and all get their page.
    pub(super) fn ask(&mut self) -> Result<()> {
        for stream in &mut self.streams {
            stream.write_all(REQUEST)?;
        }
        for stream in &mut self.streams {
            stream.read_exact(&mut self.page)?;
        }
        Ok(())
    }
}

/// Asks once; the length of the answer.
fn first_page(stream: &mut TcpStream) -> Result<usize> {
    stream.write_all(REQUEST)?;
    let mut buffer = [0; 4096];
    let mut had = 0;
    loop {
        let read = stream.read(&mut buffer[had..])?;
        anyhow::ensure!(read > 0, "the server closed the connection");
        had += read;
        if page_ends(&buffer[..had]).context("An answer that is not HTTP")? {
            return Ok(had);
        }
    }
}

/// Whether an answer is complete; `None` when it is none.
fn page_ends(answer: &[u8]) -> Option<bool> {
    let Some(header) = answer.windows(END_OF_HEADER.len()).position(|w| w == END_OF_HEADER) else {
        return Some(false);
    };
    let text = str::from_utf8(&answer[..header]).ok()?;
    let length: usize = text.lines().find_map(|line| line.strip_prefix(LENGTH))?.parse().ok()?;
    Some(answer.len() == header + END_OF_HEADER.len() + length)
}

fn connect(address: Ipv4Addr) -> Result<TcpStream> {
    let started = Instant::now();
    loop {
        match TcpStream::connect(SocketAddr::from((address, PORT))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("Nobody listens at {address}:{PORT}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(page_ends(&answer[..20]), Some(false));
        assert_eq!(page_ends(&answer[..answer.len() - 1]), Some(false));
        assert_eq!(page_ends(answer), Some(true));
        assert_eq!(page_ends(b"HTTP/1.1 200 OK\r\n\r\nabc"), None);
    }
}
