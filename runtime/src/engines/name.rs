//! What an engine's users call a runtime.

use std::fmt;
use std::str::FromStr;

/// As Kubernetes has it for a handler, the strictest of the engines.
const MAX_LENGTH: usize = 63;
/// What engines call runtimes of their own.
const TAKEN: [&str; 2] = ["runc", "crun"];

/// Lower-case letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeName(String);

/// A name that no runtime can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuntimeName {
    /// Its characters.
    #[error("lower-case letters, digits and dashes within, at most {MAX_LENGTH}")]
    Characters,
    /// An engine's own.
    #[error("engines call a runtime of their own so")]
    Taken,
}

impl FromStr for RuntimeName {
    type Err = InvalidRuntimeName;

    fn from_str(text: &str) -> Result<Self, InvalidRuntimeName> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_label = (1..=MAX_LENGTH).contains(&text.len())
            && text.chars().all(is_allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        match is_label {
            false => Err(InvalidRuntimeName::Characters),
            true if TAKEN.contains(&text) => Err(InvalidRuntimeName::Taken),
            true => Ok(Self(text.to_owned())),
        }
    }
}

impl RuntimeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_every_engine_takes() {
        for name in ["cofferdam", "microvm", "a", "x-2", &"a".repeat(MAX_LENGTH)] {
            assert_eq!(name.parse::<RuntimeName>().unwrap().as_str(), name);
        }
        for name in ["", "A", "a b", "-a", "a-", "a.b", "a\"", "ä", &"a".repeat(MAX_LENGTH + 1)] {
            assert_eq!(name.parse::<RuntimeName>(), Err(InvalidRuntimeName::Characters), "{name}");
        }
        assert_eq!("runc".parse::<RuntimeName>(), Err(InvalidRuntimeName::Taken));
    }
}
