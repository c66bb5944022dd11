//! A network of the measurement's own: a bridge as engines make one, and for each container a namespace
//! with one end of a veth pair.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process;

const BRIDGE: &str = "bench0";
/// The host's own on the bridge, of a network of documentation's.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A bridge with namespaces on it; they go when this is dropped.
#[derive(Debug)]
pub(super) struct Site {
    plots: u8,
}

impl Site {
    /// Makes a bridge with so many namespaces.
    pub(super) fn build(plots: u8) -> Result<Self> {
        let mut site = Self { plots: 0 };
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{HOST}/24"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        while site.plots < plots {
            site.plots += 1;
            connect(site.plots)?;
        }
        Ok(site)
    }

    /// The address of what is in a namespace, counted from 1.
    pub(super) fn address(plot: u8) -> Ipv4Addr {
        let [a, b, c, d] = HOST.octets();
        Ipv4Addr::new(a, b, c, d + plot)
    }

    /// The name of a namespace.
    pub(super) fn name(plot: u8) -> String {
        format!("bench{plot}")
    }

    /// The namespace itself.
    pub(super) fn path(plot: u8) -> PathBuf {
        Path::new("/run/netns").join(Self::name(plot))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What could not be made is not there.
        for plot in 1..=self.plots {
            // By itself it goes some time after the namespace, and would be in a next site's way.
            let _ = ip(&["link", "delete", &outside(plot)]);
            let _ = ip(&["netns", "delete", &Self::name(plot)]);
        }
        let _ = ip(&["link", "delete", BRIDGE]);
    }
}

fn connect(plot: u8) -> Result<()> {
    let (namespace, outside) = (Site::name(plot), outside(plot));
    ip(&["netns", "add", &namespace])?;
    let peer = ["peer", "name", "eth0", "netns", &namespace];
    ip(&[&["link", "add", &outside, "type", "veth"], &peer[..]].concat())?;
    ip(&["link", "set", &outside, "master", BRIDGE, "up"])?;
    let address = format!("{}/24", Site::address(plot));
    ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
    ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
    ip(&["-n", &namespace, "link", "set", "eth0", "up"])
}

/// The bridge's port for a namespace.
fn outside(plot: u8) -> String {
    format!("{BRIDGE}p{plot}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(arguments))
}
