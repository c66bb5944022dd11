//! Running programs, with errors that say which program it was and what to do.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end, its output where ours goes. Not to succeed is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a program to its end and says how it ended.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("Could not start {}", shown(command)))
}

/// What a program prints. Not to succeed is an error that holds what it wrote on stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Could not start {}", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}\n{}", shown(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", shown(command)))
}

/// [`followed`], printing what the program writes.
pub(crate) fn watched(command: &mut Command) -> Result<(String, ExitStatus)> {
    followed(command, |line| println!("{line}"))
}

/// Runs a program to its end, handing on each line that it writes (stdout and stderr in one order)
/// and returning them all. What the program leaves running with the same output is not waited for.
pub(crate) fn followed(
    command: &mut Command,
    line_came: impl Fn(&str),
) -> Result<(String, ExitStatus)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child =
        command.spawn().with_context(|| format!("Could not start {}", shown(command)))?;
    // The command holds the writing ends too: without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut output = String::new();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                line_came(&line);
                output.push_str(&line);
                output.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    Ok((output, child.wait()?))
}

/// Where a program is: in `PATH`, or in the folders that a user's `PATH` often lacks.
pub(crate) fn find(program: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program.as_ref()))
        .find(|candidate| candidate.is_file())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_a_program_leaves_running_is_not_waited_for() {
        let started = Instant::now();
        let script = "echo out; echo err >&2; sleep 60 & exit 3";
        let (output, status) = watched(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!((output.as_str(), status.code()), ("out\nerr\n", Some(3)));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_failure_names_the_program_and_what_it_wrote() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 1"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("reason"), "{text}");
    }
}
