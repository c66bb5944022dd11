//! Network interfaces that come while the guest runs: a device that the monitor made is taken into
//! use by its driver, and made into the interface that the container's network namespace on the host
//! has.
//!
//! ```text
//!  driver bound ▶ renamed ▶ IPv6 as on the host ▶ up ▶ addresses ▶ neighbours ▶ routes
//!      ▲                                          │ └── changed: what is gone, then all of it again
//!      └────────────── driver unbound ◀───────────┘
//! ```

use std::fs::{self, File};
use std::io;
use std::path::Path;

use cofferdam_protocol::netlink::{Message, Netlink, NetlinkError};
use cofferdam_protocol::network::{InterfaceChange, InterfacePlan, InterfaceSettings};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::platform;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const NO_GENERATED_ADDRESS: u8 = 1;
/// What an interface of the kernel's begins with.
const KERNELS_ACCEPT_RA: u8 = 1;

/// Why an interface is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterfaceError {
    /// The driver.
    #[error("binding the device's driver")]
    Bind(#[source] io::Error),
    /// The driver.
    #[error("unbinding the device's driver")]
    Unbind(#[source] io::Error),
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
    platform::bind(device).map_err(InterfaceError::Bind)?;
    let mut interface = Interface::of(device)?;
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
    interface.configure(&plan.settings, ipv6)
}

/// Changes the interface of a device.
pub(crate) fn change(device: u32, change: &InterfaceChange) -> Result<(), InterfaceError> {
    let mut interface = Interface::of(device)?;
    // The guest may call it something else by now.
    let name = interface.name.clone();
    let ipv6 = !is_without_ipv6(&name);
    if let Some(accept_ra) = change.accept_ra.filter(|_| ipv6) {
        set_ipv6(&name, "accept_ra", accept_ra)?;
    }
    interface.forget(&change.gone)?;
    interface.reshape(change)?;
    interface.configure(&change.settings, ipv6)
}

/// Gives a device back. One that no driver has is given back already.
pub(crate) fn remove(device: u32) -> Result<(), InterfaceError> {
    platform::unbind(device).map_err(InterfaceError::Unbind)
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

fn index_of(interface: &Path) -> io::Result<u32> {
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
    name: String,
}

impl Interface {
    fn of(device: u32) -> Result<Self, InterfaceError> {
        let place = platform::made_of(device, "net").map_err(InterfaceError::Missing)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let index = index_of(&place).map_err(InterfaceError::Missing)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
        let socket = socket.map_err(|errno| InterfaceError::Socket(errno.into()))?;
        Ok(Self { kernel: Netlink::new(socket.into()), index, name })
    }

    fn name(&mut self, plan: &InterfacePlan) -> Result<(), InterfaceError> {
        let mtu = u32::from(plan.mtu).to_le_bytes();
        self.change("naming it", |message| {
            message.name(IFLA_IFNAME, &plan.name).attribute(IFLA_MTU, &mtu)
        })
    }

    /// Takes away what was set, last first. What the guest has taken away itself is gone.
    fn forget(&mut self, gone: &InterfaceSettings) -> Result<(), InterfaceError> {
        let InterfaceSettings { addresses, routes, neighbours } = gone;
        let index = self.index;
        let routes = routes.iter().rev().map(|route| route.removal(index));
        let neighbours = neighbours.iter().map(|neighbour| neighbour.removal(index));
        let addresses = addresses.iter().map(|address| address.removal(index));
        for removal in routes.chain(neighbours).chain(addresses) {
            match self.kernel.request(removal) {
                Err(error) if is_gone(&error) => {}
                done => done.map_err(failed("taking away what was set"))?,
            }
        }
        Ok(())
    }

    fn reshape(&mut self, change: &InterfaceChange) -> Result<(), InterfaceError> {
        if let Some(mac) = change.mac {
            self.change("giving it an Ethernet address", |m| m.attribute(IFLA_ADDRESS, &mac))?;
        }
        if let Some(mtu) = change.mtu {
            let mtu = u32::from(mtu).to_le_bytes();
            self.change("setting its MTU", |message| message.attribute(IFLA_MTU, &mtu))?;
        }
        Ok(())
    }

    fn up(&mut self) -> Result<(), InterfaceError> {
        let up = libc::IFF_UP.cast_unsigned();
        self.request("bringing it up", Message::of_link(self.index, up))
    }

    fn configure(&mut self, plan: &InterfaceSettings, ipv6: bool) -> Result<(), InterfaceError> {
        let is_possible = |family: u8| ipv6 || i32::from(family) != libc::AF_INET6;
        for address in plan.addresses.iter().filter(|address| is_possible(address.family)) {
            self.request("adding an address", address.addition(self.index))?;
        }
        for neighbour in plan.neighbours.iter().filter(|other| is_possible(other.family)) {
            self.request("adding a neighbour", neighbour.addition(self.index))?;
        }
        for route in plan.routes.iter().filter(|route| is_possible(route.family)) {
            match self.kernel.request(route.addition(self.index)) {
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

/// What was to be taken away is not there: a neighbour, a route, an address, or what it was of.
fn is_gone(error: &NetlinkError) -> bool {
    let NetlinkError::Refused(error) = error else { return false };
    let gone = [libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV, libc::EINVAL];
    error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

fn failed(step: &'static str) -> impl FnOnce(NetlinkError) -> InterfaceError {
    move |source| InterfaceError::Change { step, source }
}
