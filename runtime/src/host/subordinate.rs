//! The subordinate users and groups of the caller: what `/etc/subuid` and `/etc/subgid` give, and
//! whether the programs that map them are there.

use std::fs;

/// The first of some ids, and how many.
pub type Range = (u32, u32);

/// The subordinate ids that this process's user can map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subordinate {
    /// Users.
    pub users: Option<Range>,
    /// Groups.
    pub groups: Option<Range>,
}

impl Subordinate {
    /// Those of whoever runs this process.
    #[must_use]
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
        let name = known.ok().flatten().map(|user| user.name).unwrap_or_default();
        let read = |file, program| {
            let text = fs::read_to_string(file).unwrap_or_default();
            find(&text, &name, uid).filter(|_| is_program(program))
        };
        Self { users: read("/etc/subuid", "newuidmap"), groups: read("/etc/subgid", "newgidmap") }
    }
}

/// The first range of this user, who is named or numbered.
fn find(text: &str, name: &str, uid: u32) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().splitn(3, ':');
        let owner = fields.next()?;
        let is_own = (!name.is_empty() && owner == name) || owner == uid.to_string();
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (is_own && range.1 > 0).then_some(range)
    })
}

/// Whether a program is where programs are looked for.
#[must_use]
pub fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| {
        let access = rustix::fs::Access::EXEC_OK;
        rustix::fs::access(folder.join(name), access).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "root:1:2\nalice:100000:65536\nalice:300000:1\n1001:200000:10\nbob:x:y\n";

    #[test]
    fn a_user_is_found_by_name_or_number() {
        assert_eq!(find(FILE, "alice", 1000), Some((100_000, 65536)));
        assert_eq!(find(FILE, "carol", 1001), Some((200_000, 10)));
    }

    #[test]
    fn who_is_not_in_the_file_has_none() {
        assert_eq!(find(FILE, "bob", 1002), None);
        assert_eq!(find(FILE, "ali", 10), None);
        assert_eq!(find("", "", 0), None);
    }
}
