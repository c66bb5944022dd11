//! Writes to the files of control groups: all are done, or what was there before is written back.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::Groups;

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefusal {
    /// The limits cannot be set.
    Fail,
    /// Nothing where there is no such file.
    IgnoreMissing,
    /// An invalid value may be a valid one after the other writes.
    RetryLast,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// File and value: the first of them whose file is there.
    choices: Vec<(String, String)>,
    on_refusal: OnRefusal,
}

impl Write {
    /// To this file. It must not be refused.
    pub fn new(file: impl Into<String>, value: impl ToString) -> Self {
        let choices = vec![(file.into(), value.to_string())];
        Self { choices, on_refusal: OnRefusal::Fail }
    }

    /// To another file, where the first is not there.
    #[must_use]
    pub fn or(mut self, file: impl Into<String>, value: impl ToString) -> Self {
        self.choices.push((file.into(), value.to_string()));
        self
    }

    /// What is written to a file with this name, if this writes there.
    #[must_use]
    pub fn value_of(&self, name: &str) -> Option<&str> {
        self.choices.iter().find(|(file, _)| file == name).map(|(_, value)| value.as_str())
    }

    /// Whether zero is what is written.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.choices.iter().all(|(_, value)| value == "0")
    }

    /// With this when it is refused.
    #[must_use]
    pub const fn refused(mut self, on_refusal: OnRefusal) -> Self {
        self.on_refusal = on_refusal;
        self
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (file, value)) in self.choices.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", or " };
            write!(f, "{separator}{file} = {value}")?;
        }
        f.write_str(match self.on_refusal {
            OnRefusal::Fail => "",
            OnRefusal::IgnoreMissing => " (if there is one)",
            OnRefusal::RetryLast => " (or at the end)",
        })
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The kernel has no such controller, or it is not enabled here.
    #[error("The container's control groups have no {0}")]
    Missing(String),
    /// The kernel refused.
    #[error("failed to write {value:?} to {}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it did not take.
        value: String,
        /// Why.
        source: io::Error,
    },
}

/// Does all writes in their order.
///
/// # Errors
/// The first that cannot be done; what the others changed is written back as far as it can be.
pub fn apply(groups: Groups<'_>, writes: &[Write]) -> Result<(), WriteError> {
    apply_and(groups, writes, || Ok(()))
}

/// Does all writes in their order, and what is to be done with them.
///
/// # Errors
/// The first that cannot be done, or that of what is to be done with them; what was changed is written
/// back as far as it can be.
pub fn apply_and<E: From<WriteError>>(
    groups: Groups<'_>,
    writes: &[Write],
    then: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let mut done = Vec::new();
    let result = perform_all(groups, writes, &mut done).map_err(E::from).and_then(|()| then());
    if result.is_err() {
        undo(&done);
    }
    result
}

fn perform_all(
    groups: Groups<'_>,
    writes: &[Write],
    done: &mut Vec<(PathBuf, String)>,
) -> Result<(), WriteError> {
    let mut queue: VecDeque<Write> = writes.iter().cloned().collect();
    while let Some(write) = queue.pop_front() {
        match perform(groups, &write, done) {
            Err(WriteError::Refused { source, .. })
                if write.on_refusal == OnRefusal::RetryLast
                    && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                queue.push_back(write.refused(OnRefusal::Fail));
            }
            Err(WriteError::Missing(_)) if write.on_refusal == OnRefusal::IgnoreMissing => {}
            other => other?,
        }
    }
    Ok(())
}

fn perform(
    groups: Groups<'_>,
    write: &Write,
    done: &mut Vec<(PathBuf, String)>,
) -> Result<(), WriteError> {
    let found = write.choices.iter().find_map(|(file, value)| Some((groups.file(file)?, value)));
    let Some((path, value)) = found else {
        let names: Vec<_> = write.choices.iter().map(|(file, _)| file.as_str()).collect();
        return Err(WriteError::Missing(names.join(" or ")));
    };
    let before = fs::read_to_string(&path);
    match super::write(&path, value) {
        Ok(()) => {
            done.extend(before.ok().map(|text| (path, text)));
            Ok(())
        }
        Err(source) => Err(WriteError::Refused { path, value: value.clone(), source }),
    }
}

/// Backwards, so that the kernel finds each value valid again.
fn undo(done: &[(PathBuf, String)]) {
    for (path, text) in done.iter().rev() {
        if let Err(error) = super::write(path, text.trim_end()) {
            tracing::warn!("Cannot write {} back: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_takes_back_what_was_written_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        fs::write(folders[0].join("a"), "old\n").unwrap();
        // Nothing can be written to a folder.
        fs::create_dir(folders[0].join("b")).unwrap();
        let list = [Write::new("a", "new"), Write::new("b", 1)];
        let refused = apply(Groups::new(&folders), &list);
        assert!(matches!(refused, Err(WriteError::Refused { .. })), "{refused:?}");
        assert!(fs::read_to_string(folders[0].join("a")).unwrap().starts_with("old"));
    }

    #[test]
    fn what_is_done_with_the_writes_fails_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        fs::write(folders[0].join("a"), "old\n").unwrap();
        let refuse = || Err(WriteError::Missing("b".to_owned()));
        assert!(apply_and(Groups::new(&folders), &[Write::new("a", "new")], refuse).is_err());
        assert!(fs::read_to_string(folders[0].join("a")).unwrap().starts_with("old"));
    }

    #[test]
    fn a_missing_file_is_an_error_unless_it_may_be_missing_or_has_another() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        fs::write(folders[0].join("a"), "").unwrap();
        let groups = Groups::new(&folders);
        let missing = apply(groups, &[Write::new("x", 1).or("y", 1)]);
        assert_eq!(
            missing.unwrap_err().to_string(),
            "The container's control groups have no x or y"
        );
        apply(groups, &[Write::new("x", 1).refused(OnRefusal::IgnoreMissing)]).unwrap();
        apply(groups, &[Write::new("x", 1).or("a", 7)]).unwrap();
        assert_eq!(fs::read_to_string(folders[0].join("a")).unwrap(), "7");
    }
}
