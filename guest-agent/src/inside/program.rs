//! The program: where it is, what it gets, and its execution.
//!
//! The texts of failures are those of runc (that is, of Go's `os/exec`): engines look for them.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Read};

use cofferdam_protocol::plan::ProcessPlan;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::failure::{StartError, Step, errno_text};

/// Users are looked up in at most this much of `/etc/passwd`: it is the container's own file.
const MAX_PASSWD_BYTES: u64 = 4 << 20;

/// A program that was found, ready to be executed.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds the program as the user that this process has become.
    pub(crate) fn find(plan: &ProcessPlan) -> Result<Self, StartError> {
        let env = environment(plan);
        let name = plan.args.first().map(String::as_str).unwrap_or_default();
        let path = look_up(name, variable(&env, "PATH"))?;
        let invalid = || "passing arguments and environment".to_owned();
        let strings = |texts: &[String]| -> Result<Vec<CString>, StartError> {
            let converted: Result<_, _> = texts.iter().map(|text| CString::new(&**text)).collect();
            converted.map_err(io::Error::from).step(invalid)
        };
        Ok(Self {
            path: CString::new(path).map_err(io::Error::from).step(invalid)?,
            args: strings(&plan.args)?,
            env: strings(&env)?,
        })
    }

    /// What it will have for an environment.
    pub(crate) fn environment(&self) -> &[CString] {
        &self.env
    }

    /// Becomes the program. Returns only with a failure.
    pub(crate) fn execute(&self) -> StartError {
        let failed: Result<Infallible, _> = nix::unistd::execve(&self.path, &self.args, &self.env);
        let Err(error) = failed;
        let text = errno_text(&error.into());
        let text = format!("exec {}: {text}", self.path.to_string_lossy());
        match error {
            nix::errno::Errno::ENOENT => StartError::NotFound(text),
            _ => StartError::NotExecutable(text),
        }
    }
}

/// The plan's environment, with `HOME` where it is absent.
fn environment(plan: &ProcessPlan) -> Vec<String> {
    let mut env = plan.env.clone();
    if variable(&env, "HOME").is_none() {
        env.push(format!("HOME={}", home(plan.uid)));
    }
    env
}

/// As `getenv`, but that the last one counts, as with runc.
fn variable<'e>(env: &'e [String], name: &str) -> Option<&'e str> {
    let value = |entry: &'e String| entry.strip_prefix(name)?.strip_prefix('=');
    env.iter().rev().find_map(value)
}

fn home(uid: u32) -> String {
    let read = || -> io::Result<String> {
        // Not to be held up by a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, "/etc/passwd", flags, Mode::empty())?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(MAX_PASSWD_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let home = read().ok().and_then(|passwd| home_in(&passwd, uid).map(str::to_owned));
    home.unwrap_or_else(|| "/".to_owned())
}

/// The home of a user in the text of `/etc/passwd`.
fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let matches = fields.nth(2)?.parse() == Ok(uid);
        fields.nth(2).filter(|home| matches && !home.is_empty())
    })
}

/// Where the program is: a path with a slash is one, any other is looked for in `PATH`.
fn look_up(name: &str, path: Option<&str>) -> Result<String, StartError> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => Err(refused(name, error)),
        };
    }
    let mut denied = None;
    for folder in path.unwrap_or_default().split(':').filter(|_| !name.is_empty()) {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{name}");
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => denied = Some(Errno::ACCESS),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(error) => refused(name, error),
        None => StartError::NotFound(format!("exec: {name:?}: executable file not found in $PATH")),
    })
}

fn refused(name: &str, error: Errno) -> StartError {
    let text = errno_text(&error.into());
    match error {
        Errno::NOENT => StartError::NotFound(format!("exec: {name:?}: stat {name}: {text}")),
        // Docker before 23 makes 126 of these words only.
        Errno::ISDIR => {
            StartError::NotExecutable(format!("exec: {name:?}: {text}: permission denied"))
        }
        _ => StartError::NotExecutable(format!("exec: {name:?}: {text}")),
    }
}

fn executable(path: &str) -> Result<(), Errno> {
    let mode = rustix::fs::stat(path)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::Directory => return Err(Errno::ISDIR),
        _ if mode & 0o111 == 0 => return Err(Errno::ACCESS),
        _ => {}
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter that is older than this system call. The other asks for the user that this
        // process really is, who is no other by now.
        Err(Errno::PERM | Errno::NOSYS) => {
            rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_path() {
        assert_eq!(look_up("sh", Some("/nowhere:/bin")).unwrap(), "/bin/sh");
        assert_eq!(look_up("/bin/sh", None).unwrap(), "/bin/sh");
    }

    #[test]
    fn failures_have_the_words_that_engines_look_for() {
        let failure = |name| look_up(name, Some("/bin:/etc")).unwrap_err();
        let absent = failure("no-such-program");
        assert!(matches!(absent, StartError::NotFound(_)));
        assert_eq!(
            absent.message(),
            "exec: \"no-such-program\": executable file not found in $PATH"
        );
        let absent = failure("/bin/no-such-program");
        assert_eq!(
            absent.message(),
            "exec: \"/bin/no-such-program\": stat /bin/no-such-program: no such file or directory"
        );
        let denied = failure("/etc/passwd");
        assert!(matches!(denied, StartError::NotExecutable(_)));
        assert_eq!(denied.message(), "exec: \"/etc/passwd\": permission denied");
        let denied = look_up("passwd", Some("/etc")).unwrap_err();
        assert_eq!(denied.message(), "exec: \"passwd\": permission denied");
        assert_eq!(failure("/etc").message(), "exec: \"/etc\": is a directory: permission denied");
    }

    #[test]
    fn without_a_path_nothing_is_found() {
        assert!(matches!(look_up("sh", None), Err(StartError::NotFound(_))));
        assert!(matches!(look_up("", Some("/bin")), Err(StartError::NotFound(_))));
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:\nbad\nno:x:7:7::\n";
        assert_eq!(home_in(passwd, 33), Some("/var/www"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 1000), None);
    }

    proptest! {
        #[test]
        fn any_passwd_is_taken(passwd in any::<String>(), uid in any::<u32>()) {
            let _ = home_in(&passwd, uid);
        }
    }
}
