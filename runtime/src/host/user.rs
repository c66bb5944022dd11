//! Who runs the runtime: root, an ordinary user, or the root of a user namespace, who is an ordinary
//! user outside of it.

use std::fs;

/// The map of a user namespace that is the machine's own, or as good as it.
const EVERY_ID: [u64; 3] = [0, 0, 4_294_967_295];

/// The user of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// As this process's user namespace has it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Whether this is a user namespace that lacks some of the machine's users.
    pub in_user_namespace: bool,
}

impl User {
    /// Whoever runs this process.
    #[must_use]
    pub fn current() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            in_user_namespace: lacks_users(&map),
        }
    }

    /// Whether what only the machine's root may do is out of reach.
    #[must_use]
    pub const fn is_rootless(self) -> bool {
        self.uid != 0 || self.in_user_namespace
    }

    /// Whether this user has no privilege at all: no root, not even that of a user namespace.
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        self.uid != 0
    }
}

/// No map (a kernel without user namespaces) is every user.
fn lacks_users(map: &str) -> bool {
    let fields: Vec<u64> =
        map.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
    !map.is_empty() && fields != EVERY_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_map_with_every_user_is_the_machine_s_own() {
        assert!(!lacks_users("         0          0 4294967295\n"));
        assert!(!lacks_users(""));
        assert!(lacks_users("         0       1000          1\n"));
        assert!(lacks_users("0 1000 1\n1 100000 65536\n"));
    }

    #[test]
    fn the_root_of_a_user_namespace_is_rootless_and_not_without_privilege() {
        let user = |uid, in_user_namespace| User { uid, gid: uid, in_user_namespace };
        assert!(!user(0, false).is_rootless());
        assert!(user(0, true).is_rootless() && !user(0, true).is_ordinary());
        assert!(user(1000, false).is_rootless() && user(1000, false).is_ordinary());
    }
}
