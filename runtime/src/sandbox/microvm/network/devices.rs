//! `linux.netDevices`: interfaces of the host's that move into the container's network namespace,
//! with their addresses. There they are served as any other; with the namespace the kernel gives
//! them back.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};

use cofferdam_protocol::netlink::numbers::{GET_ADDRESS, GET_LINK};
use cofferdam_protocol::netlink::{Message, Netlink};
use cofferdam_protocol::network::AddressPlan;
use nix::libc;
use oci_spec::runtime::Spec;

use super::{NetworkError, changing, enter};
use crate::host::network_namespace::{self, NetworkNamespace};
use crate::plan::network::{NamedLink, moving_address, named_link};

const IFLA_NET_NS_FD: u16 = 28;

/// How many there are.
pub(super) fn count(spec: &Spec) -> usize {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref())
        .map_or(0, |list| list.len())
}

/// Moves all of them.
pub(super) fn move_into(spec: &Spec, namespace: &NetworkNamespace) -> Result<(), NetworkError> {
    let linux = spec.linux().as_ref();
    let mut devices: Vec<_> =
        linux.and_then(|linux| linux.net_devices().as_ref()).into_iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, device) in devices {
        let new = device.name().as_deref().filter(|new| !new.is_empty()).unwrap_or(name);
        let addresses = send(name, new, namespace)?;
        enter(namespace, || revive(new, &addresses))?;
    }
    Ok(())
}

/// Sends an interface off under its new name; what addresses it had.
fn send(
    name: &str,
    new: &str,
    namespace: &NetworkNamespace,
) -> Result<Vec<AddressPlan>, NetworkError> {
    let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
    let NamedLink { index } = find(&mut kernel, name)?;
    let addresses = super::dump::<8>(&mut kernel, GET_ADDRESS)?;
    let addresses = addresses.iter().filter_map(|answer| moving_address(answer, index)).collect();
    let target = namespace.as_fd().as_raw_fd().cast_unsigned().to_le_bytes();
    let message =
        Message::of_link(index, 0).attribute(IFLA_NET_NS_FD, &target).name(libc::IFLA_IFNAME, new);
    kernel.request(message).map_err(changing("a device of linux.netDevices"))?;
    Ok(addresses)
}

/// Gives an interface back what it lost on its way, in the namespace that the caller is in.
fn revive(name: &str, addresses: &[AddressPlan]) -> Result<(), NetworkError> {
    let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
    let NamedLink { index } = find(&mut kernel, name)?;
    let change = changing("a device of linux.netDevices");
    for address in addresses {
        kernel.request(address.addition(index)).map_err(&change)?;
    }
    let up = libc::IFF_UP.cast_unsigned();
    kernel.request(Message::of_link(index, up)).map_err(&change)
}

fn find(kernel: &mut Netlink<File>, name: &str) -> Result<NamedLink, NetworkError> {
    let links = super::dump::<16>(kernel, GET_LINK)?;
    let found = links.iter().find_map(|answer| named_link(answer, name));
    found.ok_or_else(|| NetworkError::NoDevice(name.to_owned()))
}
