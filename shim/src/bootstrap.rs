//! What containerd says to `start` and `-info` on standard input, and what it is answered.
//!
//! Until 2.2 the input is the runtime's options and the answer an address, which every version since
//! 1.6 takes; since 2.3 both are messages of the bootstrap protocol.

use std::io::{self, IsTerminal, Read, Write};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::arguments::Flags;
use crate::runtime::{self, Runtime, RuntimeError};

/// As much as containerd itself reads: options are a few lines.
const MAX_INPUT: u64 = 10 << 20;

/// The name that containerd knows this runtime by.
const RUNTIME_NAME: &str = "io.containerd.cofferdam.v2";

/// The version of the task service that is announced: containerd 2.3 asks for it by this.
const TASK_VERSION: i32 = 3;

/// How containerd called `start`.
#[derive(Debug)]
pub(crate) struct Call {
    /// Where events go.
    pub(crate) events_address: String,
    /// The runtime's options, in whatever type.
    pub(crate) options: Option<Any>,
    /// Where the socket is to lie, when containerd has a place for it.
    pub(crate) socket_folder: Option<String>,
    is_bootstrap: bool,
}

/// Why `-info` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InfoError {
    /// The runtime cannot describe itself.
    #[error("Cannot read the runtime's features")]
    Features(#[from] RuntimeError),
    /// It cannot be put into a message.
    #[error("Cannot encode the runtime's description")]
    Encode(#[from] protobuf::Error),
    /// Nobody reads it.
    #[error("Cannot write the runtime's description")]
    Write(#[from] io::Error),
}

/// Reads and understands standard input.
pub(crate) fn read_call(flags: &Flags) -> io::Result<Call> {
    let environment = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    Ok(understand(&read_input()?, flags, environment))
}

fn read_input() -> io::Result<Vec<u8>> {
    let (stdin, mut input) = (io::stdin(), Vec::new());
    if !stdin.is_terminal() {
        stdin.lock().take(MAX_INPUT).read_to_end(&mut input)?;
    }
    Ok(input)
}

fn understand(input: &[u8], flags: &Flags, events_address: String) -> Call {
    let parameters = BootstrapParams::parse_from_bytes(input).ok();
    // Options would be understood as parameters too: their type would be the container's name.
    let is_ours = |p: &BootstrapParams| p.instance_id == flags.id && p.namespace == flags.namespace;
    if let Some(parameters) = parameters.filter(is_ours) {
        let options = parameters.extensions.into_iter().find_map(|e| e.value.into_option());
        return Call {
            events_address: parameters.containerd_ttrpc_address,
            options,
            socket_folder: parameters.socket_dir.filter(|folder| !folder.is_empty()),
            is_bootstrap: true,
        };
    }
    let options = Any::parse_from_bytes(input).ok().filter(|any| !any.type_url.is_empty());
    Call { events_address, options, socket_folder: None, is_bootstrap: false }
}

impl Call {
    /// Tells containerd where the shim listens.
    pub(crate) fn answer(&self, address: &str) -> io::Result<()> {
        let answer = match self.is_bootstrap {
            true => BootstrapResult {
                version: TASK_VERSION,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .write_to_bytes()
            .map_err(io::Error::other)?,
            false => address.as_bytes().to_vec(),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(&answer)?;
        stdout.flush()
    }
}

/// Describes the runtime: its name, its version, and its features as the runtime tells them.
///
/// # Errors
/// There is no runtime, or nobody reads.
pub(crate) fn print_info() -> Result<(), InfoError> {
    // The options change nothing about what the runtime is.
    read_input()?;
    let features = Runtime::plain(&runtime::beside()).features()?;
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
        .into(),
        features: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
                .to_owned(),
            value: features,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    Ok(io::stdout().write_all(&info.write_to_bytes()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { namespace: "moby".into(), id: "a".into(), ..Flags::default() }
    }

    #[test]
    fn options_alone_are_options_and_the_address_is_the_environment_s() {
        let any = Any { type_url: "t".into(), value: vec![1], ..Default::default() };
        let call = understand(&any.write_to_bytes().unwrap(), &flags(), "/env".into());
        assert_eq!(call.options, Some(any));
        assert_eq!((&*call.events_address, call.is_bootstrap), ("/env", false));
        assert!(understand(b"", &flags(), String::new()).options.is_none());
    }

    #[test]
    fn parameters_of_this_container_s_are_the_bootstrap_protocol() {
        let parameters = BootstrapParams {
            instance_id: "a".into(),
            namespace: "moby".into(),
            containerd_ttrpc_address: "/events".into(),
            ..Default::default()
        };
        let input = parameters.write_to_bytes().unwrap();
        let call = understand(&input, &flags(), "/env".into());
        assert_eq!((&*call.events_address, call.is_bootstrap), ("/events", true));
        let other = Flags { id: "b".into(), ..flags() };
        assert!(!understand(&input, &other, "/env".into()).is_bootstrap);
    }
}
