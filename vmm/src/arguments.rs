//! The command line of `cofferdam-vmm`: two words. The runtime is its only caller.

use std::ffi::OsString;
use std::os::fd::RawFd;

/// What the monitor is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run one virtual machine, with a `VmConfig` frame on this descriptor.
    Run {
        /// Its number.
        config: RawFd,
    },
    /// Say whether this machine's KVM can serve a guest.
    Probe,
    /// Say which version this is.
    Version,
}

/// The command line makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Usage: cofferdam-vmm run --config-fd N | probe | --version")]
pub struct Usage;

/// Reads the arguments after the program's name.
///
/// # Errors
/// When they are none of the three forms.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, Usage> {
    let words: Vec<String> = arguments
        .into_iter()
        .map(|word| word.into_string().map_err(|_| Usage))
        .collect::<Result<_, _>>()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", "--config-fd", number] => match number.parse() {
            // The three standard descriptors carry nothing.
            Ok(config) if config > 2 => Ok(Request::Run { config }),
            _ => Err(Usage),
        },
        ["probe"] => Ok(Request::Probe),
        ["--version"] => Ok(Request::Version),
        _ => Err(Usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Request, Usage> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_three_forms_are_taken() {
        assert_eq!(parsed(&["run", "--config-fd", "7"]), Ok(Request::Run { config: 7 }));
        assert_eq!(parsed(&["probe"]), Ok(Request::Probe));
        assert_eq!(parsed(&["--version"]), Ok(Request::Version));
    }

    #[test]
    fn everything_else_is_refused() {
        let wrong: [&[&str]; 5] = [
            &[],
            &["run"],
            &["run", "--config-fd", "x"],
            &["run", "--config-fd", "2"],
            &["probe", "x"],
        ];
        assert!(wrong.iter().all(|words| parsed(words) == Err(Usage)));
    }
}
