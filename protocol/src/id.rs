//! The names of things: containers, and processes in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A path component may have 255 bytes, and an id is the name of a state folder.
const MAX_CONTAINER_ID_BYTES: usize = 255;

/// A container's id, as the caller of the OCI command line chose it: letters, digits and `_+-.`,
/// as runc has it, and neither `.` nor `..`. Safe as a path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a container id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Invalid container id {id:?}: 1 to {MAX_CONTAINER_ID_BYTES} letters, digits and any of \"_+-.\", but not \".\" or \"..\""
)]
pub struct InvalidContainerId {
    id: String,
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let valid = (1..=MAX_CONTAINER_ID_BYTES).contains(&text.len())
            && text.bytes().all(allowed)
            && text != "."
            && text != "..";
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidContainerId { id: text.chars().take(MAX_CONTAINER_ID_BYTES).collect() })
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process in a sandbox, as the runtime named it when it asked for it. Not a pid: pids are the
/// guest's, and are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessToken(pub u64);

impl ProcessToken {
    /// The first process of the container that a machine was made for. Its end is the machine's.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for ProcessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_that_runc_takes_are_taken() {
        for id in ["a", "redis-1", "A_b+c.d", &"x".repeat(255)] {
            assert_eq!(id.parse::<ContainerId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn ids_that_could_leave_the_state_folder_are_refused() {
        for id in ["", ".", "..", "a/b", "../a", "a\0b", "a b", "ä", &"x".repeat(256)] {
            assert!(id.parse::<ContainerId>().is_err(), "{id:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn an_id_is_always_one_path_component(text in any::<String>()) {
            if let Ok(id) = text.parse::<ContainerId>() {
                let path = std::path::Path::new(id.as_str());
                let components: Vec<_> = path.components().collect();
                prop_assert_eq!(components.len(), 1);
                prop_assert!(matches!(components[0], std::path::Component::Normal(_)));
            }
        }
    }
}
