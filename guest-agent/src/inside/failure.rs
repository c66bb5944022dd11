//! Why a process could not be made, as the host will read it.

use std::io;

/// Why a program could not be made to run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A step of the set-up failed.
    #[error("{step}")]
    Setup {
        /// What was being done, and to what.
        step: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program does not exist. The text is runc's: engines look for it.
    #[error("{0}")]
    NotFound(String),
    /// The program exists and cannot be executed. The text is runc's.
    #[error("{0}")]
    NotExecutable(String),
    /// The set-up said this from its own process.
    #[error("{0}")]
    Reported(String),
}

impl StartError {
    /// The error with its cause, in one line.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Setup { step, source } => format!("{step}: {}", errno_text(source)),
            other => other.to_string(),
        }
    }
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    /// `step` says what was being done: "mounting proc at /proc".
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|source| StartError::Setup { step: step(), source: source.into() })
    }
}

/// An error number's text as Go has it (`permission denied`): engines look for these words.
pub(crate) fn errno_text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(number).desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_read_as_engines_expect() {
        let text = |number| errno_text(&io::Error::from_raw_os_error(number));
        assert_eq!(text(libc::EACCES), "permission denied");
        assert_eq!(text(libc::ENOENT), "no such file or directory");
        assert_eq!(text(libc::ENOEXEC), "exec format error");
    }

    #[test]
    fn a_failed_step_is_named_with_its_cause() {
        let failed: Result<(), io::Error> = Err(io::Error::from_raw_os_error(libc::EPERM));
        let error = failed.step(|| "mounting proc at /proc".to_owned()).unwrap_err();
        assert_eq!(error.message(), "mounting proc at /proc: operation not permitted");
    }
}
