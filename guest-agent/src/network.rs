//! Network interfaces that come while the guest runs: a device that the monitor made is taken into
//! use by its driver, and made into the interface that the container's network namespace on the host
//! has.
//!
//! ```text
//!  driver bound ▶ renamed ▶ IPv6 as on the host ▶ up ▶ addresses ▶ neighbours ▶ routes
//! ```

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use cofferdam_protocol::netlink::numbers::{APPEND, CREATE, NEW_NEIGHBOUR, NEW_ROUTE, REPLACE};
use cofferdam_protocol::netlink::{Message, Netlink, NetlinkError};
use cofferdam_protocol::network::{InterfacePlan, NeighbourPlan, RoutePlan};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";
const DEVICES: &str = "/sys/bus/platform/devices";

const IFLA_IFNAME: u16 = 3;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const NO_GENERATED_ADDRESS: u8 = 1;
/// What an interface of the kernel's begins with.
const KERNELS_ACCEPT_RA: u8 = 1;
const RTA_OIF: u16 = 4;
const MAIN_TABLE: u8 = 254;

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterfaceError {
    /// The driver.
    #[error("binding the device's driver")]
    Bind(#[source] io::Error),
    /// The driver made no interface.
    #[error("finding the device's interface")]
    Missing(#[source] io::Error),
    /// A file below `/proc/sys`.
    #[error("setting {parameter} of IPv6")]
    Ipv6 {
        /// Its name.
        parameter: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The socket.
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    /// A change.
    #[error("{step}")]
    Change {
        /// Which.
        step: &'static str,
        /// Why not.
        source: NetlinkError,
    },
}

/// Makes the interface.
pub(crate) fn add(device: u32, plan: &InterfacePlan) -> Result<(), InterfaceError> {
    let name = format!("virtio-mmio.{device}");
    fs::write(BIND, &name).map_err(InterfaceError::Bind)?;
    let place = interface_of(&name).map_err(InterfaceError::Missing)?;
    let index = index_of(place).map_err(InterfaceError::Missing)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = socket.map_err(|errno| InterfaceError::Socket(errno.into()))?;
    let mut interface = Interface { kernel: Netlink::new(socket.into()), index };
    interface.name(plan)?;
    let ipv6 = plan.ipv6 && !is_without_ipv6(&plan.name);
    if ipv6 {
        // The one that the host's interface has is among its addresses.
        interface.change("leaving the link-local address to the plan", generate_no_address)?;
        if plan.accept_ra != KERNELS_ACCEPT_RA {
            set_ipv6(&plan.name, "accept_ra", plan.accept_ra)?;
        }
    } else {
        set_ipv6(&plan.name, "disable_ipv6", 1)?;
    }
    interface.up()?;
    interface.configure(plan, ipv6)
}

/// The container's own parameters may have switched it off before the interface came.
fn is_without_ipv6(interface: &str) -> bool {
    let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    fs::read_to_string(file).is_ok_and(|value| value.trim() == "1")
}

fn set_ipv6(interface: &str, parameter: &'static str, value: u8) -> Result<(), InterfaceError> {
    let file = format!("/proc/sys/net/ipv6/conf/{interface}/{parameter}");
    fs::write(file, value.to_string()).map_err(|source| InterfaceError::Ipv6 { parameter, source })
}

/// Where the kernel describes the interface of a device.
fn interface_of(device: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(format!("{DEVICES}/{device}"))? {
        let folder = entry?.path().join("net");
        if let Some(interface) = fs::read_dir(folder).ok().and_then(|mut list| list.next()) {
            return Ok(interface?.path());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn index_of(interface: PathBuf) -> io::Result<u32> {
    let text = fs::read_to_string(interface.join("ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn generate_no_address(message: Message) -> Message {
    message.nested(IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET6 as u16, |family| {
            family.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NO_GENERATED_ADDRESS])
        })
    })
}

struct Interface {
    kernel: Netlink<File>,
    index: u32,
}

impl Interface {
    fn name(&mut self, plan: &InterfacePlan) -> Result<(), InterfaceError> {
        self.change("naming it", |message| message.name(IFLA_IFNAME, &plan.name))
    }

    fn up(&mut self) -> Result<(), InterfaceError> {
        let up = libc::IFF_UP.cast_unsigned();
        self.request("bringing it up", Message::of_link(self.index, up))
    }

    fn configure(&mut self, plan: &InterfacePlan, ipv6: bool) -> Result<(), InterfaceError> {
        let is_possible = |family: u8| ipv6 || i32::from(family) != libc::AF_INET6;
        for address in plan.addresses.iter().filter(|address| is_possible(address.family)) {
            self.request("adding an address", address.message(self.index))?;
        }
        for neighbour in plan.neighbours.iter().filter(|other| is_possible(other.family)) {
            self.request("adding a neighbour", neighbour_message(self.index, neighbour))?;
        }
        for route in plan.routes.iter().filter(|route| is_possible(route.family)) {
            match self.kernel.request(route_message(self.index, route)) {
                // The kernel made it with the address.
                Err(error) if error.is(io::ErrorKind::AlreadyExists) => {}
                done => done.map_err(failed("adding a route"))?,
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        step: &'static str,
        attributes: impl FnOnce(Message) -> Message,
    ) -> Result<(), InterfaceError> {
        self.request(step, attributes(Message::of_link(self.index, 0)))
    }

    fn request(&mut self, step: &'static str, message: Message) -> Result<(), InterfaceError> {
        self.kernel.request(message).map_err(failed(step))
    }
}

fn failed(step: &'static str) -> impl FnOnce(NetlinkError) -> InterfaceError {
    move |source| InterfaceError::Change { step, source }
}

fn neighbour_message(index: u32, plan: &NeighbourPlan) -> Message {
    let [i0, i1, i2, i3] = index.to_le_bytes();
    let [s0, s1] = plan.state.to_le_bytes();
    let fixed = [plan.family, 0, 0, 0, i0, i1, i2, i3, s0, s1, plan.flags, 0];
    Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &fixed).attributes(&plan.attributes)
}

fn route_message(index: u32, plan: &RoutePlan) -> Message {
    let RoutePlan { family, destination_bits, tos, protocol, scope, kind, flags, attributes } =
        plan;
    let [f0, f1, f2, f3] = flags.to_le_bytes();
    let head = [*family, *destination_bits, 0, *tos, MAIN_TABLE, *protocol, *scope, *kind];
    let fixed = [&head[..], &[f0, f1, f2, f3]].concat();
    Message::new(NEW_ROUTE, CREATE | APPEND, &fixed)
        .attributes(attributes)
        .attribute(RTA_OIF, &index.to_le_bytes())
}
