//! The metrics over HTTP: `GET /metrics`, one answer for each connection.
//!
//! ```text
//!  accept ─▶ head, bounded in size and time ─▶ 200 with the metrics, 400, 404, 405 or 408 ─▶ closed
//! ```
//!
//! Hostile: whoever connects. A few connections are served at once, so that one which is slow holds up
//! no scrape, and each is over in some seconds whatever its other side does. The request's head is
//! `httparse`'s to read.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::exposition::CONTENT_TYPE;

/// More than a Prometheus and whoever looks beside it; each is a thread, which waits.
const SERVED_AT_ONCE: usize = 8;
/// A request's head. Prometheus sends some 300 bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// How long a client may take for its request, and again for taking the answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);
/// Without a descriptor left, `accept` fails at once and again.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address.
    #[error("Cannot listen on {address}: it is HOST:PORT, as 127.0.0.1:9464, or unix:PATH")]
    Tcp {
        /// As it was given.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket.
    #[error("Cannot listen on {path}")]
    Unix {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody serves there.
    #[error("Cannot listen on {0}: another process does, or it is no socket")]
    Taken(PathBuf),
}

/// A socket that is listened on. A Unix socket's name is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// On a TCP address.
    ///
    /// # Errors
    /// When it is none, or is taken.
    pub fn tcp(address: &str) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Tcp { address: address.to_owned(), source };
        let addresses: Vec<_> = address.to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
        Ok(Self { socket: Socket::Tcp(listener) })
    }

    /// On a Unix socket, for this user alone. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// When there is something else of that name, or the folder refuses.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Unix { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() && UnixStream::connect(path).is_err() => {
                fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(ListenError::Taken(path.to_owned())),
            Err(_) => {}
        }
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = listener.map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(listener, path.to_owned()) })
    }

    /// Where it listens, as it turned out.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<String> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => format!("http://{}/metrics", listener.local_addr()?),
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        })
    }

    fn accept(&self) -> io::Result<Connection> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => Connection::Tcp(listener.accept()?.0),
            Socket::Unix(listener, _) => Connection::Unix(listener.accept()?.0),
        })
    }

    /// Takes the name of a Unix socket away.
    pub fn remove(&self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = fs::remove_file(path);
        }
    }
}

/// Serves what `metrics` gives from now on, in threads of its own, as long as the process lives.
pub fn serve<F>(listener: &Arc<Listener>, metrics: F)
where
    F: Fn() -> Option<String> + Clone + Send + 'static,
{
    for _ in 0..SERVED_AT_ONCE {
        let (listener, metrics) = (Arc::clone(listener), metrics.clone());
        thread::spawn(move || {
            loop {
                match listener.accept() {
                    // A client that goes away early is none of ours.
                    Ok(connection) => drop(answer(connection, &metrics)),
                    Err(_) => thread::sleep(AFTER_A_FAILED_ACCEPT),
                }
            }
        });
    }
}

#[derive(Debug)]
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    fn set_timeouts(&self, left: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.set_write_timeout(Some(left))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.set_write_timeout(Some(left))
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    /// Has what is next done in the time that is left.
    fn until(&self, deadline: Instant) -> io::Result<()> {
        match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => self.set_timeouts(left),
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + CLIENT_TIME;
        while !bytes.is_empty() {
            self.until(deadline)?;
            match self.write(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = bytes.get(written..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// The metrics; to `HEAD` without them.
    Metrics { body: bool },
    /// Anything else.
    Error(&'static str),
}

const BAD_REQUEST: Reply = Reply::Error("400 Bad Request");
const NOT_FOUND: Reply = Reply::Error("404 Not Found");
const NOT_ALLOWED: Reply = Reply::Error("405 Method Not Allowed");
const TOO_SLOW: Reply = Reply::Error("408 Request Timeout");
const TOO_LONG: Reply = Reply::Error("431 Request Header Fields Too Large");

fn answer(mut connection: Connection, metrics: &impl Fn() -> Option<String>) -> io::Result<()> {
    let (status, content_type, text, body) = match read_head(&mut connection)? {
        Reply::Error(status) => (status, "text/plain", format!("{status}\n"), true),
        Reply::Metrics { body } => match metrics() {
            Some(text) => ("200 OK", CONTENT_TYPE, text, body),
            None => ("500 Internal Server Error", "text/plain", String::new(), body),
        },
    };
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    if body { connection.write_all(text.as_bytes()) } else { Ok(()) }
}

/// Reads until the head is whole, and decides.
fn read_head(connection: &mut Connection) -> io::Result<Reply> {
    let deadline = Instant::now() + CLIENT_TIME;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        if let Some(reply) = decide(&head) {
            return Ok(reply);
        }
        let read = connection.until(deadline).and_then(|()| connection.read(&mut buffer));
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                return Ok(TOO_SLOW);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a head is answered, once it is whole.
fn decide(head: &[u8]) -> Option<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() >= MAX_HEAD_BYTES => Some(TOO_LONG),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => Some(TOO_LONG),
        Err(_) => Some(BAD_REQUEST),
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.and_then(|path| path.split('?').next());
            Some(match (request.method, path) {
                (Some("GET"), Some("/metrics")) => Reply::Metrics { body: true },
                (Some("HEAD"), Some("/metrics")) => Reply::Metrics { body: false },
                (_, Some("/metrics")) => NOT_ALLOWED,
                _ => NOT_FOUND,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(path: &Path) -> Arc<Listener> {
        let listener = Arc::new(Listener::unix(path).unwrap());
        serve(&listener, || Some("a 1\n# EOF\n".to_owned()));
        listener
    }

    fn ask(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_request_is_decided_once_its_head_is_whole() {
        let long = [b"GET /metrics HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; MAX_HEAD_BYTES]].concat();
        for (head, reply) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], Some(Reply::Metrics { body: true })),
            (b"HEAD /metrics HTTP/1.0\r\n\r\n", Some(Reply::Metrics { body: false })),
            (b"GET /metrics?a=b HTTP/1.1\r\n\r\n", Some(Reply::Metrics { body: true })),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", None),
            (b"", None),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Some(NOT_ALLOWED)),
            (b"GET / HTTP/1.1\r\n\r\n", Some(NOT_FOUND)),
            (b"\x16\x03\x01\x02\x00", Some(BAD_REQUEST)),
            (&long, Some(TOO_LONG)),
        ] {
            assert_eq!(decide(head), reply, "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn the_metrics_are_served_while_others_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        let listener = serving(&path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _silent: Vec<_> =
            (0..SERVED_AT_ONCE - 1).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let answer = ask(&path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\na 1\n# EOF\n"), "{answer}");
        assert!(ask(&path, b"DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        listener.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_without_a_listener_is_replaced_and_everything_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _serving = serving(&path);
        assert!(matches!(Listener::unix(&path), Err(ListenError::Taken(_))));
        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(matches!(Listener::unix(&file), Err(ListenError::Taken(_))));
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let error = Listener::tcp("nowhere").unwrap_err().to_string();
        assert!(error.starts_with("Cannot listen on nowhere: it is HOST:PORT"), "{error}");
    }
}
