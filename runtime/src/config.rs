//! The operator's configuration: `/etc/cofferdam/config.toml`, a user's own, or what `--config` names.
//!
//! Every key has a default, so that the file may be absent. An unknown key is an error that names
//! it: a misspelt limit must not be a limit that is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::bounds::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use serde::Deserialize;

use crate::places::Places;

/// An hour: a longer wait is a mistake in the unit.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[isolation]`.
    pub isolation: IsolationConfig,
    /// `[microvm]`.
    pub microvm: MicroVmConfig,
    /// `[namespace]`.
    pub namespace: NamespaceConfig,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a configuration: the cause names the key, and the line.
    #[error("The configuration {path} is wrong")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which key, and why.
        source: Box<toml::de::Error>,
    },
    /// A value is below 0.
    #[error("The configuration {path} is wrong: {key} is {value}, 0 and more is possible")]
    Negative {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it is.
        value: i64,
    },
    /// A value is out of its bounds.
    #[error("The configuration {path} is wrong: {key} is {value}, {bounds} is possible")]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        bounds: String,
    },
}

impl Config {
    /// Reads the file that `--config` names; without one the user's own, if that is there, or the
    /// machine's.
    ///
    /// # Errors
    /// When the named file is missing, or a file is not a configuration.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        match named {
            Some(path) => Self::read(path),
            None => Self::first_of(&Places::current().configurations),
        }
    }

    fn first_of(paths: &[PathBuf]) -> Result<Self, ConfigError> {
        for path in paths {
            match Self::read(path) {
                Err(ConfigError::Read { source, .. }) if is_absent(&source) => {}
                other => return other,
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_path_buf(),
            source: Box::new(source),
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let microvm = &self.microvm;
        let bounds = [
            ("microvm.vcpus", u64::from(microvm.vcpus), 1, u64::from(MAX_VCPUS)),
            ("microvm.max_vcpus", microvm.max_vcpus.unwrap_or(1).into(), 1, MAX_VCPUS.into()),
            (
                "microvm.memory_mib",
                u64::from(microvm.memory_mib),
                u64::from(MIN_MEMORY_MIB),
                u64::from(MAX_MEMORY_MIB),
            ),
            ("microvm.boot_timeout_ms", microvm.boot_timeout_ms, 1, MAX_TIMEOUT_MS),
            ("microvm.request_timeout_ms", microvm.request_timeout_ms, 1, MAX_TIMEOUT_MS),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::OutOfBounds {
                    path: path.to_path_buf(),
                    key,
                    value,
                    bounds: format!("{least} to {most}"),
                });
            }
        }
        // 0 is no limit: a number below it is a mistake.
        let limit = self.namespace.pids_limit;
        if limit < 0 {
            return Err(ConfigError::Negative {
                path: path.to_path_buf(),
                key: "namespace.pids_limit",
                value: limit,
            });
        }
        Ok(())
    }
}

/// No file, or a home that is no folder (`/dev/null`).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Which isolation containers get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IsolationConfig {
    /// Decides for every container: neither the flag nor an annotation changes it.
    pub policy: Option<IsolationRequest>,
    /// What the annotation `dev.cofferdam.isolation` may ask for although it is weaker than what
    /// holds without it. It comes from the tenant: empty by default.
    pub annotation_may_weaken_to: Vec<IsolationRequest>,
}

/// An isolation that can be asked for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, serde::Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum IsolationRequest {
    /// A microVM where the machine can serve one, else hardened namespaces.
    Auto,
    /// A microVM or an error.
    Microvm,
    /// Hardened namespaces.
    Namespace,
}

/// The shape of a microVM and what it is made from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MicroVmConfig {
    /// Folder with `vmlinux`, `initramfs.cpio` and `manifest.json`. Absent: beside the program
    /// ([`crate::artifacts`]).
    pub guest: Option<PathBuf>,
    /// The monitor. Absent: `cofferdam-vmm` beside the program.
    pub monitor: Option<PathBuf>,
    /// Virtual processors of a sandbox whose spec has no CPU limit.
    pub vcpus: u8,
    /// To how many `update` can raise them in a sandbox that runs. Absent: as many as the host has,
    /// at most 4.
    pub max_vcpus: Option<u8>,
    /// Guest memory in MiB of a sandbox whose spec has no memory limit.
    pub memory_mib: u32,
    /// Memory added to a spec's limit for the guest kernel and the agent, in MiB.
    pub memory_overhead_mib: u32,
    /// What a container gets that is given the network of another's microVM.
    pub joined_network: JoinedNetwork,
    /// How long a guest may take until its agent is ready, in milliseconds.
    pub boot_timeout_ms: u64,
    /// How long the agent may take to answer a request, in milliseconds.
    pub request_timeout_ms: u64,
    /// Keep the guest's console output in `console.log` in the state folder.
    pub console_log: bool,
}

/// What a container gets that is given the network of another's microVM (`--network container:ID`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinedNetwork {
    /// Nothing: an interface leads to one machine.
    #[default]
    Refuse,
    /// A place in that machine, under the other's kernel. Every machine has room for others then.
    Share,
}

impl Default for MicroVmConfig {
    fn default() -> Self {
        Self {
            guest: None,
            monitor: None,
            vcpus: 1,
            max_vcpus: None,
            memory_mib: 256,
            memory_overhead_mib: 64,
            joined_network: JoinedNetwork::Refuse,
            boot_timeout_ms: 30_000,
            request_timeout_ms: 30_000,
            console_log: false,
        }
    }
}

/// What hardening adds where a spec leaves it open. `--compat` turns all of it off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Most processes of a container whose spec has no limit; 0: no limit is added.
    pub pids_limit: i64,
    /// Memory in MiB of a container whose spec has no limit; 0: no limit is added.
    pub memory_mib: u32,
    /// Add a seccomp allow-list where the spec has none.
    pub seccomp: bool,
    /// Set `no_new_privs` where the spec does not say `false`, which Docker and containerd leave out.
    pub no_new_privileges: bool,
    /// Add the masked and read-only paths below `/proc` and `/sys` where the spec has none.
    pub masked_paths: bool,
    /// Add a cgroup namespace where the spec has none.
    pub cgroup_namespace: bool,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            pids_limit: 4096,
            memory_mib: 0,
            seccomp: true,
            no_new_privileges: true,
            masked_paths: true,
            cgroup_namespace: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("config.toml"), text)
    }

    #[test]
    fn an_empty_file_and_no_file_are_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_documented_example_is_the_defaults() {
        let example = include_str!("../../docs/config.example.toml");
        assert_eq!(parse(example).unwrap(), Config::default());
        // With what is commented out as well, every key is still known.
        let commented: String = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = \"") => format!("{key}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        let all = parse(&commented).unwrap();
        assert_eq!(all.isolation.policy, Some(IsolationRequest::Microvm));
        assert!(all.microvm.guest.is_some() && all.microvm.monitor.is_some());
    }

    #[test]
    fn a_key_changes_its_value_only() {
        let config = parse("[isolation]\npolicy = \"microvm\"\n[microvm]\nvcpus = 2").unwrap();
        assert_eq!(config.isolation.policy, Some(IsolationRequest::Microvm));
        let expected = MicroVmConfig { vcpus: 2, ..MicroVmConfig::default() };
        assert_eq!(config.microvm, expected);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("[microvm]\nmemory = 5").unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("unknown field `memory`"), "{cause}");
        assert!(cause.contains("line 2"), "{cause}");
    }

    #[test]
    fn a_value_out_of_bounds_is_named() {
        let error = parse("[microvm]\nmemory_mib = 8").unwrap_err().to_string();
        assert!(error.contains("microvm.memory_mib is 8, 48 to"), "{error}");
    }

    #[test]
    fn a_negative_limit_of_processes_is_named() {
        let error = parse("[namespace]\npids_limit = -1").unwrap_err().to_string();
        assert!(error.contains("namespace.pids_limit is -1, 0 and more"), "{error}");
        parse("[namespace]\npids_limit = 0").unwrap();
    }

    #[test]
    fn the_first_file_that_is_there_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [own, system] = ["own", "system"].map(|name| folder.path().join(name));
        let of = |text: &str| parse(text).unwrap();
        let both = [own.clone(), system.clone()];
        assert_eq!(Config::first_of(&both).unwrap(), Config::default());
        fs::write(&system, "[microvm]\nvcpus = 2").unwrap();
        assert_eq!(Config::first_of(&both).unwrap(), of("[microvm]\nvcpus = 2"));
        fs::write(&own, "[microvm]\nvcpus = 3").unwrap();
        assert_eq!(Config::first_of(&both).unwrap(), of("[microvm]\nvcpus = 3"));
        fs::write(&own, "[microvm]\nvcpu = 3").unwrap();
        assert!(matches!(Config::first_of(&both), Err(ConfigError::Parse { .. })));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Config::load(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }));
    }
}
