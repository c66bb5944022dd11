//! containerd's log URIs: a file or a program that gets what a container writes, as nerdctl has them for
//! each container that runs in the background.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cofferdam_e2e::{Containerd, Outcome, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes on both streams.
const SPEAKING: [&str; 3] = ["sh", "-c", "echo said; echo wrong >&2; exit 7"];

/// Logs a line with what it was told, then stdout, then stderr.
const HONEST: &str = "echo $CONTAINER_NAMESPACE $CONTAINER_ID $* >\"$2\"; exec 5>&-; \
                      cat <&3 >>\"$2\"; cat <&4 >>\"$2\"";

/// A program that logs, and where it writes.
struct Logger {
    program: PathBuf,
    log: PathBuf,
}

impl Logger {
    /// Of `/bin/sh`, in the daemon's folder.
    fn new(containerd: &Containerd, script: &str) -> Self {
        let folder = containerd.folder();
        let program = folder.join("logger.sh");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Self { program, log: folder.join("a log") }
    }

    fn uri(&self) -> String {
        let log = self.log.display().to_string().replace(' ', "+").replace('/', "%2F");
        format!("binary://{}?--to={log}", self.program.display())
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Nobody logs any more.
    #[track_caller]
    fn is_gone(&self) {
        let name = self.program.display().to_string();
        until("the logger is gone", || {
            let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
            let mut lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
            !lines.any(|line| String::from_utf8_lossy(&line).contains(&name))
        });
    }
}

/// A container whose log is at a URI.
fn run(containerd: &Containerd, uri: &str, id: &str, program: &[&str]) -> Outcome {
    containerd.run(&["--detach", "--log-uri", uri], id, program)
}

/// It has ended by itself, and is taken away.
fn ended(containerd: &Containerd, id: &str) {
    containerd.becomes(id, "STOPPED");
    containerd.ctr(&["task", "delete", id]).exits(0).complains(&["exit code 7"]);
    containerd.ctr(&["container", "delete", id]).exits(0);
}

#[test]
fn a_program_logs_both_streams_to_their_end_and_is_told_whose_they_are() {
    let containerd = Containerd::start();
    let logger = Logger::new(&containerd, HONEST);
    run(&containerd, &logger.uri(), "spoken", &SPEAKING).exits(0);
    ended(&containerd, "spoken");
    let told = format!("default spoken --to {}", logger.log.display());
    assert_eq!(logger.logged(), format!("{told}\nsaid\nwrong\n"));
    logger.is_gone();
    containerd.has_left_nothing();
}

#[test]
fn a_file_is_made_with_its_folder_and_appended_to() {
    let containerd = Containerd::start();
    let log = containerd.folder().join("logs/of/one");
    for id in ["first", "second"] {
        run(&containerd, &format!("file://{}", log.display()), id, &SPEAKING).exits(0);
        ended(&containerd, id);
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "said\nwrong\nsaid\nwrong\n");
    containerd.has_left_nothing();
}

#[test]
fn a_logger_that_does_not_log_is_named_and_nothing_is_left() {
    let containerd = Containerd::start();
    let logger = Logger::new(&containerd, "exit 9");
    let refused = |uri: &str, words: &[&str]| {
        run(&containerd, uri, "refused", &SPEAKING).exits(1).complains(words);
        let _ = containerd.ctr(&["container", "delete", "refused"]);
    };
    refused(&logger.uri(), &["logger.sh", "ended with code 9 before it was ready"]);
    refused("binary:///nosuch/logger", &["/nosuch/logger", "o such file"]);
    refused("npipe:///x", &["npipe://", "binary:// are possible"]);
    let stubborn = Logger::new(&containerd, "trap '' TERM; while :; do sleep 1; done");
    refused(&stubborn.uri(), &["logger.sh", "not ready after 10 s"]);
    stubborn.is_gone();
    containerd.has_left_nothing();
}

#[test]
fn a_container_outlives_its_logger_and_a_logger_does_not_outlive_the_shim() {
    let containerd = Containerd::start();
    let logger = Logger::new(&containerd, "exec 5>&-; head -n 1 <&3 >\"$2\"");
    let flood = ["sh", "-c", "while :; do echo line; done & wait"];
    run(&containerd, &logger.uri(), "flood", &flood).exits(0);
    logger.is_gone();
    assert_eq!(logger.logged(), "line\n");
    assert_eq!(containerd.status("flood").as_deref(), Some("RUNNING"));
    containerd.ctr(&["task", "delete", "--force", "flood"]).exits(0);

    let deaf = Logger::new(&containerd, "exec 5>&-; while :; do sleep 1; done");
    run(&containerd, &deaf.uri(), "silent", &["sleep", "1000"]).exits(0);
    kill(Pid::from_raw(containerd.shims()[0]), Signal::SIGKILL).unwrap();
    deaf.is_gone();
    containerd.has_left_nothing();
}
