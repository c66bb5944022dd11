//! What the rules say about single values.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::InvalidSpec;

/// A value that is repeated in an error: enough to be recognised.
const MAX_SHOWN: usize = 64;

/// A text that is not allowed.
pub(super) fn refused(path: &str, text: &str, allowed: &'static str) -> InvalidSpec {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    InvalidSpec::Value { path: path.to_owned(), value: format!("{shown:?}"), allowed }
}

/// A number that is not allowed.
pub(super) fn number(path: &str, value: impl Display, allowed: &'static str) -> InvalidSpec {
    InvalidSpec::Value { path: path.to_owned(), value: value.to_string(), allowed }
}

/// The number is one that is allowed.
pub(super) fn within<T: Display>(
    path: &str,
    value: T,
    is_allowed: bool,
    allowed: &'static str,
) -> Result<(), InvalidSpec> {
    if is_allowed { Ok(()) } else { Err(number(path, value, allowed)) }
}

/// A text that is there and that a system call takes.
pub(super) fn text(path: &str, text: &str) -> Result<(), InvalidSpec> {
    if text.is_empty() {
        return Err(InvalidSpec::Empty { path: path.to_owned() });
    }
    no_nul(path, text)
}

/// A text that a system call takes.
pub(super) fn no_nul(path: &str, text: &str) -> Result<(), InvalidSpec> {
    if text.contains('\0') { Err(InvalidSpec::Nul { path: path.to_owned() }) } else { Ok(()) }
}

/// Texts that a system call takes.
pub(super) fn no_nuls(path: &str, texts: Option<&[String]>) -> Result<(), InvalidSpec> {
    let mut texts = texts.unwrap_or_default().iter().enumerate();
    texts.try_for_each(|(index, text)| no_nul(&format!("{path}[{index}]"), text))
}

/// A path from the root, without a NUL.
pub(super) fn absolute(path: &str, value: &Path) -> Result<(), InvalidSpec> {
    if !value.is_absolute() {
        let value = PathBuf::from(value);
        return Err(InvalidSpec::NotAbsolute { path: path.to_owned(), value });
    }
    no_nul(path, &value.to_string_lossy())
}
