//! The environment of a container's process, with what the container's own files say of its user.
//!
//! Hostile: those files. No library of the container's is loaded: no lookup goes through NSS.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use crate::plan::last_of_each_name;

/// Most of the container's `/etc/passwd` that is read for `HOME`: it is the image's to write, and
/// this runs with the host's memory.
const MAX_PASSWD_BYTES: u64 = 256 * 1024;

/// The environment as runc has it: of a name that is there twice the last holds, and `HOME` is
/// added where there is none, or an empty one. To be called inside the container's root.
pub(super) fn complete(env: &[String], uid: u32) -> Vec<String> {
    let mut env = last_of_each_name(env);
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home_of(uid)));
    }
    env
}

/// The user's folder by the container's own `/etc/passwd`, read without any library of its own.
fn home_of(uid: u32) -> String {
    read_passwd().ok().and_then(|passwd| home_in(&passwd, uid)).unwrap_or_else(|| "/".to_owned())
}

fn read_passwd() -> io::Result<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open("/etc/passwd")?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_PASSWD_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id.parse() == Ok(uid) && home.starts_with('/')).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_number_and_must_be_absolute() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nr:x:7:7:::\nredis:x:100:101::/var/lib/redis:/bin/false\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 100).as_deref(), Some("/var/lib/redis"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 4), None);
    }
}
