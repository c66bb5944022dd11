//! How containerd calls a shim: flags as Go programs take them (`-flag value`, `-flag=value`), and
//! an action.

use std::path::PathBuf;

/// What containerd asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// `start`: bring a shim up for the bundle in the working folder and print its address.
    Start,
    /// `delete`: the shim is gone; take away what it left.
    Delete,
    /// None: be the shim. Its listening socket is standard input ([`crate::launch`]).
    Serve,
    /// `-pause`: be what waits in a pod's sandbox. The shim says so to itself.
    Pause,
    /// `-info`: describe the runtime.
    Info,
    /// `-v`.
    Version,
}

/// A call's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container.
    pub(crate) id: String,
    /// containerd's own socket.
    pub(crate) address: String,
    /// Where `delete` finds the bundle; elsewhere it is the working folder.
    pub(crate) bundle: Option<PathBuf>,
    /// Whether every step is logged.
    pub(crate) debug: bool,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    /// A flag of nobody's.
    #[error("Unknown flag {0}")]
    Flag(String),
    /// A flag without its value.
    #[error("{0} takes a value")]
    Value(String),
    /// An action of nobody's.
    #[error("Unknown action {0}: start, delete or none is possible")]
    Action(String),
    /// It is not text.
    #[error("An argument is not UTF-8")]
    Text,
}

/// Reads a command line without the program's name.
///
/// # Errors
/// The first argument that makes no sense.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Action, Flags), ArgumentError> {
    let (mut action, mut flags) = (Action::Serve, Flags::default());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let argument = argument.into_string().map_err(|_| ArgumentError::Text)?;
        let Some(flag) = argument.strip_prefix('-') else {
            action = of_name(argument)?;
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        match flag {
            "debug" => flags.debug = true,
            "pause" => action = Action::Pause,
            "info" => action = Action::Info,
            "v" | "version" => action = Action::Version,
            _ => set(&mut flags, flag, || rest.next().and_then(|value| value.into_string().ok()))?,
        }
    }
    Ok((action, flags))
}

fn of_name(name: String) -> Result<Action, ArgumentError> {
    match name.as_str() {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        _ => Err(ArgumentError::Action(name)),
    }
}

fn set(
    flags: &mut Flags,
    flag: &str,
    next: impl FnOnce() -> Option<String>,
) -> Result<(), ArgumentError> {
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (flag, None),
    };
    // A program to publish events with: they go over TTRPC_ADDRESS.
    let known = ["namespace", "id", "address", "bundle", "publish-binary"];
    if !known.contains(&name) {
        return Err(ArgumentError::Flag(format!("-{name}")));
    }
    let value = value.or_else(next).ok_or_else(|| ArgumentError::Value(format!("-{name}")))?;
    match name {
        "namespace" => flags.namespace = value,
        "id" => flags.id = value,
        "address" => flags.address = value,
        "bundle" => flags.bundle = Some(value.into()),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Action, Flags), ArgumentError> {
        parse(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn containerd_s_calls_are_understood() {
        let line =
            "-namespace k8s.io -address /run/c.sock -publish-binary /bin/c -id a -debug start";
        let (action, flags) = parsed(line).unwrap();
        assert_eq!(action, Action::Start);
        assert_eq!((&*flags.namespace, &*flags.id, flags.debug), ("k8s.io", "a", true));
        let (action, flags) = parsed("--id=a -bundle=/b delete").unwrap();
        assert_eq!((action, flags.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(parsed("-id a").unwrap().0, Action::Serve);
        assert_eq!(parsed("-info").unwrap().0, Action::Info);
        assert_eq!(parsed("-pause").unwrap().0, Action::Pause);
    }

    #[test]
    fn what_nobody_knows_is_refused_by_its_name() {
        assert_eq!(parsed("-fast"), Err(ArgumentError::Flag("-fast".into())));
        assert_eq!(parsed("-fast=1"), Err(ArgumentError::Flag("-fast".into())));
        assert_eq!(parsed("stop"), Err(ArgumentError::Action("stop".into())));
        assert_eq!(parsed("-id"), Err(ArgumentError::Value("-id".into())));
    }
}
