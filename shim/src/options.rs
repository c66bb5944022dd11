//! The runtime's options, as engines hand them over: runc's own type, or that of any other runtime,
//! whose body is ours to understand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

/// Where they are kept in a bundle: containerd does not repeat them when it calls `delete`.
const FILE: &str = "cofferdam-options.json";

/// What an engine's configuration says about the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Another `cofferdam` than the one beside the shim.
    pub(crate) program: Option<PathBuf>,
    /// Another folder for the runtime's state.
    pub(crate) root: Option<PathBuf>,
    /// Another `config.toml`.
    pub(crate) config: Option<PathBuf>,
    /// `--systemd-cgroup`.
    pub(crate) systemd_cgroup: bool,
    /// `create --no-pivot`.
    pub(crate) no_pivot: bool,
    /// `create --no-new-keyring`.
    pub(crate) no_new_keyring: bool,
    /// The control group of the shim itself.
    pub(crate) shim_group: Option<String>,
}

/// What is wrong with them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionError {
    /// A type that means nothing here.
    #[error(
        "The runtime's options have the type {0}: containerd.runc.v1.Options and runtimeoptions.v1.Options are possible"
    )]
    Type(String),
    /// They are not what their type says.
    #[error("The runtime's options cannot be read")]
    Encoding(#[from] protobuf::Error),
    /// Settings in a text: `config.toml` has them.
    #[error(
        "The runtime's options have a ConfigBody: name a configuration file of cofferdam's by ConfigPath instead"
    )]
    Body,
}

impl Options {
    /// Understands what an engine hands over; nothing is the default.
    ///
    /// # Errors
    /// They cannot be followed.
    pub(crate) fn of(any: Option<&Any>) -> Result<Self, OptionError> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => Ok(oci::Options::parse_from_bytes(&any.value)?.into()),
            "runtimeoptions.v1.Options" | "cri.runtimeoptions.v1.Options" => {
                of_any_runtime(&any.value)
            }
            other => Err(OptionError::Type(other.to_owned())),
        }
    }
}

impl Options {
    /// Keeps them, for whoever deletes the container when its shim is gone.
    ///
    /// # Errors
    /// The bundle cannot be written to.
    pub(crate) fn save(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)
    }

    /// What was kept. None: the container was never made.
    ///
    /// # Errors
    /// They cannot be read: by others, the container would not be found.
    pub(crate) fn saved(bundle: &Path) -> io::Result<Option<Self>> {
        match fs::read(bundle.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<oci::Options> for Options {
    fn from(options: oci::Options) -> Self {
        let path = |text: String| (!text.is_empty()).then(|| text.into());
        Self {
            program: path(options.binary_name),
            root: path(options.root),
            config: None,
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_group: Some(options.shim_cgroup).filter(|group| !group.is_empty()),
        }
    }
}

/// `runtimeoptions.v1.Options` of CRI: `type_url` (1), `config_path` (2), `config_body` (3).
fn of_any_runtime(bytes: &[u8]) -> Result<Options, OptionError> {
    const LENGTH_DELIMITED: u32 = 2;
    let mut input = protobuf::CodedInputStream::from_bytes(bytes);
    let mut options = Options::default();
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match (tag >> 3, tag & 7) {
            (2, LENGTH_DELIMITED) => {
                let path = input.read_string()?;
                options.config = (!path.is_empty()).then(|| path.into());
            }
            (3, LENGTH_DELIMITED) => {
                if !input.read_bytes()?.is_empty() {
                    return Err(OptionError::Body);
                }
            }
            (_, LENGTH_DELIMITED) => drop(input.read_bytes()?),
            _ => drop(input.read_raw_varint64()?),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(kind: &str, value: Vec<u8>) -> Any {
        Any { type_url: kind.into(), value, ..Default::default() }
    }

    #[test]
    fn runc_s_options_are_followed() {
        let theirs = oci::Options {
            systemd_cgroup: true,
            root: "/r".into(),
            binary_name: "/usr/bin/c".into(),
            ..Default::default()
        };
        let any = any("containerd.runc.v1.Options", theirs.write_to_bytes().unwrap());
        let options = Options::of(Some(&any)).unwrap();
        let expected = Options {
            systemd_cgroup: true,
            root: Some("/r".into()),
            program: Some("/usr/bin/c".into()),
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn a_configuration_file_is_named_by_its_path_and_a_body_is_refused() {
        let options = |bytes: &[u8]| {
            Options::of(Some(&any("types/runtimeoptions.v1.Options", bytes.to_vec())))
        };
        let config = options(b"\x0a\x01t\x12\x02/c").unwrap().config;
        assert_eq!(config, Some("/c".into()));
        assert!(matches!(options(b"\x1a\x01x"), Err(OptionError::Body)));
        assert!(matches!(options(b"\x12\x09/c"), Err(OptionError::Encoding(_))));
    }

    #[test]
    fn what_is_kept_comes_back_and_nothing_is_no_error() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Options::saved(bundle.path()).unwrap(), None);
        let options = Options { root: Some("/r".into()), no_pivot: true, ..Options::default() };
        options.save(bundle.path()).unwrap();
        assert_eq!(Options::saved(bundle.path()).unwrap(), Some(options));
        fs::write(bundle.path().join(FILE), "{").unwrap();
        assert!(Options::saved(bundle.path()).is_err());
    }

    #[test]
    fn another_type_is_refused_by_its_name() {
        let error = Options::of(Some(&any("some.Options", vec![]))).unwrap_err();
        assert!(error.to_string().contains("some.Options"), "{error}");
        assert_eq!(Options::of(None).unwrap(), Options::default());
    }
}
