//! Where a process's output goes: the URI that an engine gives, understood.
//!
//! | URI | meaning |
//! |---|---|
//! | a path, `fifo://PATH` | containerd's FIFO; a file where it is none |
//! | `file://PATH` | appended to, made with its folders |
//! | `binary://PROGRAM?NAME=VALUE` | a program that logs, with the arguments `NAME VALUE` |
//! | `binary-v2://` | the same; it has to write a byte when it is ready, as containerd 2.3 defines it |

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// To nobody.
    Nowhere,
    /// To a reader.
    Fifo(PathBuf),
    /// To the end of a file.
    File(PathBuf),
    /// To a program.
    Program(LoggingProgram),
}

/// A program that logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggingProgram {
    /// An absolute path.
    pub(crate) path: PathBuf,
    /// Each name with its value after it, in the URI's order.
    pub(crate) arguments: Vec<String>,
    /// It is ready when it has written a byte, and not when it closes the pipe.
    pub(crate) writes_when_ready: bool,
}

/// What is wrong with a URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutputError {
    /// It is a scheme of nobody's.
    #[error("Output to {0}:// is not supported: a FIFO, file:// and binary:// are possible")]
    Scheme(String),
    /// A URI's first two slashes are not its path's.
    #[error("Output to {0} names no absolute path: {1}:///PATH does")]
    Relative(String, String),
}

impl Output {
    /// Understands what an engine calls a stream.
    ///
    /// # Errors
    /// It cannot be followed.
    pub(crate) fn of(name: &str) -> Result<Self, OutputError> {
        let Some((scheme, rest)) = name.split_once("://") else {
            return Ok(match name.is_empty() {
                true => Self::Nowhere,
                false => of_path(name.into()),
            });
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let absolute = || match path.starts_with('/') {
            true => Ok(decoded(path)),
            false => Err(OutputError::Relative(name.to_owned(), scheme.to_owned())),
        };
        match scheme {
            "fifo" => Ok(of_path(absolute()?)),
            "file" => Ok(Self::File(absolute()?)),
            "binary" | "binary-v2" => Ok(Self::Program(LoggingProgram {
                path: absolute()?,
                arguments: arguments(query),
                writes_when_ready: scheme == "binary-v2",
            })),
            _ => Err(OutputError::Scheme(scheme.to_owned())),
        }
    }
}

fn of_path(path: PathBuf) -> Output {
    match path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        true => Output::Fifo(path),
        false => Output::File(path),
    }
}

fn decoded(path: &str) -> PathBuf {
    OsString::from_vec(percent_encoding::percent_decode_str(path).collect()).into()
}

/// Of a name that is there more than once, the first counts, as in containerd.
fn arguments(query: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if all.iter().step_by(2).all(|known| *known != name) {
            all.extend([name.into_owned(), value.into_owned()]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(uri: &str) -> LoggingProgram {
        match Output::of(uri) {
            Ok(Output::Program(program)) => program,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_has_its_path_and_each_name_with_its_value() {
        let found = program("binary:///bin/a%20b?--log=%2Fvar%2Fx+y&last&--log=other#part");
        assert_eq!(found.path, PathBuf::from("/bin/a b"));
        assert_eq!(found.arguments, ["--log", "/var/x y", "last", ""]);
        assert!(!found.writes_when_ready);
        assert!(program("binary-v2:///bin/a").writes_when_ready);
        assert!(program("binary:///bin/a").arguments.is_empty());
    }

    #[test]
    fn a_file_s_name_is_decoded_and_a_path_is_taken_as_it_is() {
        assert_eq!(Output::of("file:///var/a%3Fb?x=y"), Ok(Output::File("/var/a?b".into())));
        assert_eq!(Output::of("/var/a%3Fb"), Ok(Output::File("/var/a%3Fb".into())));
        assert_eq!(Output::of(""), Ok(Output::Nowhere));
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_name() {
        let error = Output::of("npipe:///x").unwrap_err().to_string();
        assert!(error.contains("npipe://"), "{error}");
        let error = Output::of("binary://logger?x=y").unwrap_err().to_string();
        assert!(error.contains("binary://logger") && error.contains("binary:///PATH"), "{error}");
    }
}
