//! The flags of `install`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::engines::{Engine, RuntimeName};

/// `install`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("engines").required(true).multiple(true)))]
pub struct InstallArgs {
    /// In /etc/containerd/config.toml, for CRI (ctr needs no configuration)
    #[arg(long, group = "engines")]
    pub containerd: bool,
    /// In /etc/docker/daemon.json; flags as --isolation go with it
    #[arg(long, group = "engines")]
    pub docker: bool,
    /// In /etc/containers/containers.conf.d, for Podman and Buildah
    #[arg(long, group = "engines")]
    pub podman: bool,
    /// Take away what `install` put there, and leave the rest
    #[arg(long)]
    pub uninstall: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What the engine's users call the runtime
    #[arg(long, value_name = "NAME", default_value = "cofferdam")]
    pub name: RuntimeName,
    /// Folder that has the /etc to change, for packages
    #[arg(long, value_name = "DIR")]
    pub system_root: Option<PathBuf>,
}

impl InstallArgs {
    /// The engines that were named.
    pub fn engines(&self) -> impl Iterator<Item = Engine> {
        let named = [
            (self.containerd, Engine::Containerd),
            (self.docker, Engine::Docker),
            (self.podman, Engine::Podman),
        ];
        named.into_iter().filter_map(|(is_named, engine)| is_named.then_some(engine))
    }
}
