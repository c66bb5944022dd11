//! Connections to the loopback interface of the pod's network namespace on the host, made again to the
//! guest's, where the pod's programs listen.
//!
//! ```text
//!  who dials on the host ══ monitor ══ vsock ══▶ here ── TCP ──▶ localhost, the same port
//! ```
//!
//! Each direction ends by itself. What ends otherwise (nobody listens, a program resets its connection, or
//! leaves what it was sent unread) ends at once for both sides: the host takes a connection that is closed without a half-close
//! before for a reset.
//!
//! Hostile: the programs. Trusted: where a connection leads, which the host says, and how many there are at once.

use std::io;

use cofferdam_protocol::forward::{Destination, FORWARD_HEADER_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

/// What is kept for each direction of a connection: 4 MiB of the guest's for as many as there can be.
const BUFFER_BYTES: usize = 32 << 10;

/// Carries one connection to its end.
pub(crate) async fn carry(mut host: impl AsyncRead + AsyncWrite + Unpin) {
    let Ok(mut program) = dial(&mut host).await else { return };
    if copy_bidirectional_with_sizes(&mut host, &mut program, BUFFER_BYTES, BUFFER_BYTES)
        .await
        .is_err()
    {
        // Reset when it is closed. It does not fail for a socket.
        let _ = program.set_zero_linger();
    }
}

/// A connection to whoever listens where the host says.
async fn dial(host: &mut (impl AsyncRead + Unpin)) -> io::Result<TcpStream> {
    let mut header = [0; FORWARD_HEADER_BYTES];
    host.read_exact(&mut header).await?;
    let destination = Destination::parse(header).map_err(io::Error::other)?;
    let program = TcpStream::connect(destination.addresses().as_slice()).await?;
    // What came in pieces goes on in pieces, and does not wait for an answer to the first.
    program.set_nodelay(true)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// The host's end of a connection to this port, once its header is sent.
    async fn connected(port: u16) -> (DuplexStream, JoinHandle<()>) {
        let (mut host, ours) = duplex(1024);
        let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let header = Destination::try_from(address).unwrap().to_bytes();
        host.write_all(&header).await.unwrap();
        (host, tokio::spawn(carry(ours)))
    }

    async fn listener(address: &str) -> (TcpListener, u16) {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (listener, port) = listener("127.0.0.1:0").await;
        let (mut host, _) = connected(port).await;
        let (mut program, _) = listener.accept().await.unwrap();
        host.write_all(b"asked").await.unwrap();
        host.shutdown().await.unwrap();
        let mut asked = Vec::new();
        program.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, b"asked");
        program.write_all(b"answered").await.unwrap();
        drop(program);
        let mut answered = Vec::new();
        host.read_to_end(&mut answered).await.unwrap();
        assert_eq!(answered, b"answered");
    }

    #[tokio::test]
    async fn a_program_on_the_other_version_of_ip_is_found() {
        let (listener, port) = listener("[::1]:0").await;
        let (mut host, _) = connected(port).await;
        let (mut program, _) = listener.accept().await.unwrap();
        program.write_all(b"here").await.unwrap();
        let mut said = [0; 4];
        host.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"here");
    }

    #[tokio::test]
    async fn where_nobody_listens_the_connection_is_closed_without_an_end_before() {
        let (listener, port) = listener("127.0.0.1:0").await;
        drop(listener);
        let (mut host, carried) = connected(port).await;
        carried.await.unwrap();
        assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_host_that_goes_resets_the_programs_connection() {
        let (listener, port) = listener("127.0.0.1:0").await;
        let (host, carried) = connected(port).await;
        let (mut program, _) = listener.accept().await.unwrap();
        drop(host);
        program.write_all(b"too late").await.unwrap();
        carried.await.unwrap();
        let error = program.write_all(b"again").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
