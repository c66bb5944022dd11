//! What a command did.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;

/// Exit code and output of a command.
#[derive(Debug)]
pub struct Outcome {
    /// As a shell has it: the code, or 128 + the signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The command ended with this code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// It wrote exactly this on stdout.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        assert_eq!(self.stdout, text, "stderr: {}", self.stderr);
        self
    }

    /// What it said on stderr that it could not remove.
    #[must_use]
    pub fn not_removed(&self) -> Vec<PathBuf> {
        let said = self.stderr.split("Cannot remove ").skip(1);
        let paths = said.filter_map(|rest| rest.split_whitespace().next());
        paths.map(|path| path.trim_end_matches([',', ':']).into()).collect()
    }

    /// It said something with all of these words on stderr.
    #[track_caller]
    pub fn complains(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in stderr: {}", self.stderr);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_removed_is_read_from_the_words_on_stderr() {
        let stderr = "cofferdam: warning: Cannot remove /sys/fs/cgroup/a, a control group: EIO\n\
                      cofferdam: error: Cannot make b: EIO\n\
                      cofferdam: warning: Cannot remove /run/a~7: EIO\n";
        let outcome = Outcome { code: 1, stdout: String::new(), stderr: stderr.to_owned() };
        let paths = ["/sys/fs/cgroup/a", "/run/a~7"].map(PathBuf::from);
        assert_eq!(outcome.not_removed(), paths);
    }
}
