//! The name server that an engine runs for the container at an address of the loopback interface
//! (Docker's, in networks of a user's). The guest has a loopback interface of its own, so that
//! server's questions are carried.
//!
//! The socket is made here, in the container's namespace, and leads to that server alone; the monitor
//! can make none.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::{Guest, NetworkError, NetworkRecord, enter};
use crate::sandbox::microvm::agent::REQUEST_TIMEOUT;
use crate::sandbox::microvm::control;
use crate::spec::SpecError;

/// Docker's.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
const CONFIGURATION: &str = "/etc/resolv.conf";
/// What glibc reads of it is less.
const MAX_CONFIGURATION_BYTES: u64 = 64 << 10;

impl Guest<'_> {
    /// Carries the guest's questions for names, where the container is told to ask that server.
    pub(in super::super) fn serve_names(
        &self,
        spec: impl FnOnce() -> Result<Spec, SpecError>,
    ) -> Result<(), NetworkError> {
        let mut record = NetworkRecord::find(self.state_folder)?;
        // Without an interface there is no engine's network.
        if record.names || record.attached.is_empty() {
            return Ok(());
        }
        if !asks_there(&spec().map_err(NetworkError::Spec)?) {
            return Ok(());
        }
        let server = enter(&self.namespace, || socket().map_err(NetworkError::Names))?;
        let (ours, theirs) = pair().map_err(NetworkError::Names)?;
        let descriptors = [server.as_fd(), ours.as_fd(), theirs.as_fd()];
        control::serve_names(self.state_folder, &descriptors, REQUEST_TIMEOUT)
            .map_err(NetworkError::ServeNames)?;
        record.names = true;
        record.save(self.state_folder)
    }
}

fn socket() -> io::Result<OwnedFd> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((SERVER, PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, theirs))
}

/// Whether the engine's own file, which it mounts over the image's, names the server.
fn asks_there(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten();
    let over = |destination: &Path| destination == Path::new(CONFIGURATION);
    let source = mounts.find(|mount| over(mount.destination())).and_then(|m| m.source().as_ref());
    // What cannot be read is said when it is mounted.
    source.and_then(|path| read(path).ok()).is_some_and(|text| names_server(&text))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_CONFIGURATION_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn names_server(configuration: &str) -> bool {
    configuration.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words.next().and_then(|word| word.parse().ok()) == Some(SERVER)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use oci_spec::runtime::MountBuilder;

    use super::*;

    #[test]
    fn only_the_engines_server_is_carried() {
        assert!(names_server("search lan\nnameserver 127.0.0.11\noptions ndots:0\n"));
        for other in ["", "nameserver 127.0.0.1", "#nameserver 127.0.0.11", "nameserver\t9.9.9.9"] {
            assert!(!names_server(other), "{other}");
        }
    }

    #[test]
    fn the_engines_file_is_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, "nameserver 127.0.0.11\n").unwrap();
        let spec = |destination: &str, source: &Path| {
            let mount = MountBuilder::default().destination(destination).source(source);
            let mut spec = Spec::default();
            spec.set_mounts(Some(vec![mount.build().unwrap()]));
            spec
        };
        assert!(asks_there(&spec("/etc/resolv.conf", &file)));
        assert!(!asks_there(&spec("/etc/other", &file)));
        assert!(!asks_there(&spec("/etc/resolv.conf", &folder.path().join("none"))));
    }
}
