//! The other end of a network benchmark (`cargo xtask bench network`): takes, gives and passes on
//! as many bytes as it is asked to, and answers HTTP/1.1 as a web server answers for a small file.
//!
//! ```text
//!  't' count            ─▶ reads so many bytes, answers with one
//!  'g' count            ─▶ writes so many bytes
//!  'p' count ip port    ─▶ has somebody like itself there take so many bytes, answers with one
//!  anything else        ─▶ HTTP: an answer for each request, until the connection is closed
//! ```
//!
//! Numbers are little-endian; a connection may have any number of commands after one another.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// What one system call moves, as programs that move much have it.
const CHUNK: usize = 128 << 10;
/// A request's header must fit.
const MAX_REQUEST_BYTES: usize = 4096;
/// nginx's welcome page has so many.
const PAGE_BYTES: usize = 612;

/// Listens at an address until it is killed.
pub(crate) fn serve(arguments: &[String]) -> io::Result<()> {
    let [address] = arguments else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--traffic ADDRESS:PORT"));
    };
    let listener = TcpListener::bind(address)?;
    loop {
        let (stream, _) = listener.accept()?;
        // A client that goes away ends its own connection only.
        thread::spawn(move || converse(stream));
    }
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut next = None;
    loop {
        let mut command = [0];
        if stream.read(&mut command)? == 0 {
            return Ok(());
        }
        match command {
            [b't'] => {
                let count = number(&mut stream)?;
                take(&mut stream, count, &mut buffer)?;
            }
            [b'g'] => {
                let count = number(&mut stream)?;
                give(&mut stream, count, &buffer)?;
            }
            [b'p'] => pass_on(&mut stream, &mut next, &buffer)?,
            first => return answer(stream, &first),
        }
    }
}

fn number(stream: &mut TcpStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn take(stream: &mut TcpStream, count: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        match stream.read(&mut buffer[..room])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read as u64,
        }
    }
    stream.write_all(b".")
}

fn give(stream: &mut TcpStream, count: u64, buffer: &[u8]) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&buffer[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// The connection to the other one is kept: it is not what is measured.
fn pass_on(stream: &mut TcpStream, next: &mut Option<TcpStream>, buffer: &[u8]) -> io::Result<()> {
    let count = number(stream)?;
    let mut place = [0; 6];
    stream.read_exact(&mut place)?;
    let [a, b, c, d, low, high] = place;
    let address = SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_le_bytes([low, high])));
    let mut other = match next.take() {
        Some(other) => other,
        None => TcpStream::connect(address)?,
    };
    other.write_all(&[&[b't'][..], &count.to_le_bytes()].concat())?;
    give(&mut other, count, buffer)?;
    let mut done = [0];
    other.read_exact(&mut done)?;
    *next = Some(other);
    stream.write_all(&done)
}

/// Answers each request with the same page.
fn answer(mut stream: TcpStream, first: &[u8]) -> io::Result<()> {
    let page = format!(
        "HTTP/1.1 200 OK\r\nServer: probe\r\nContent-Type: text/html\r\n\
         Content-Length: {PAGE_BYTES}\r\nConnection: keep-alive\r\n\r\n{}",
        "x".repeat(PAGE_BYTES)
    );
    let mut request = first.to_vec();
    let mut buffer = [0; MAX_REQUEST_BYTES];
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => request.extend_from_slice(&buffer[..read]),
            }
            if request.len() > MAX_REQUEST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        request.clear();
        stream.write_all(page.as_bytes())?;
    }
}
