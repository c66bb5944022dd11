//! `exec --cgroup`: a control group below the container's.

use std::path::{Component, Path, PathBuf};

/// The path relative to the container's group; `None` when it could lead out of it.
pub(super) fn stay_below(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let stays = path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
    stays.then(|| path.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_to_the_containers_group_whatever_it_begins_with() {
        assert_eq!(stay_below("/"), Some(PathBuf::new()));
        assert_eq!(stay_below("/a/b"), Some("a/b".into()));
        assert_eq!(stay_below("a"), Some("a".into()));
    }

    #[test]
    fn a_path_that_leads_upwards_is_none() {
        assert_eq!(stay_below(".."), None);
        assert_eq!(stay_below("/a/../../b"), None);
        assert_eq!(stay_below("./a"), None);
    }
}
