//! The script that the lab runs: the caller's environment, working folder and command.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::Lab;

/// The caller's terminal and shell are not the lab's.
const NOT_PASSED_ON: [&str; 5] = ["TERM", "SHLVL", "_", "PWD", "OLDPWD"];

/// Writes the script to `folder/job`.
pub(super) fn write(lab: &Lab, folder: &Path) -> io::Result<()> {
    let mut script = Vec::new();
    let ours = env::vars_os().filter(|(name, _)| !NOT_PASSED_ON.iter().any(|other| name == other));
    for (name, value) in ours.chain(lab.environment.iter().cloned()) {
        if is_name(&name) {
            script.extend([b"export ", name.as_bytes(), b"=", &quoted(&value), b"\n"].concat());
        }
    }
    script.write_all(b"export COFFERDAM_LAB=1 PATH=\"$PATH:")?;
    script.write_all(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n")?;
    let working_folder = env::current_dir()?;
    script.extend([b"cd ", &quoted(working_folder.as_os_str())[..], b" || cd /\nexec"].concat());
    for word in &lab.command {
        script.extend([b" ", &quoted(word)[..]].concat());
    }
    script.push(b'\n');
    std::fs::write(folder.join("job"), script)
}

/// Whether a shell can export it.
fn is_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.first().is_none_or(u8::is_ascii_digit)
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// One word of a shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut result = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => result.extend(b"'\\''"),
            other => result.push(other),
        }
    }
    result.push(b'\'');
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_every_byte() {
        let bytes: Vec<u8> = (1..=255).collect();
        let word = OsString::from_vec(bytes.clone());
        let mut script = b"printf %s ".to_vec();
        script.extend(quoted(&word));
        let output = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert_eq!(output.stdout, bytes);
    }

    #[test]
    fn only_what_a_shell_can_export_is_a_name() {
        assert!(is_name(OsStr::new("HOME")));
        assert!(is_name(OsStr::new("_a1")));
        assert!(!is_name(OsStr::new("1a")));
        assert!(!is_name(OsStr::new("BASH_FUNC_x%%")));
        assert!(!is_name(OsStr::new("")));
    }
}
