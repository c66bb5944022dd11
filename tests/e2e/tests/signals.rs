//! Signals from outside, to a container and to the process that stands for it on the host. In a
//! microVM that is the monitor.

use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::{Bundle, Runtime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(120);

fn both() -> [Runtime; 2] {
    [Runtime::cofferdam(), Runtime::runc()]
}

/// Waits until the program has written this and nothing else.
#[track_caller]
fn has_written(bundle: &Bundle, expected: &str) {
    let end = Instant::now() + DEADLINE;
    loop {
        let written = std::fs::read_to_string(bundle.rootfs().join("log")).unwrap_or_default();
        if written == expected {
            return;
        }
        assert!(Instant::now() < end, "{written:?} instead of {expected:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_to_the_process_of_the_host_is_the_programs() {
    let script = "trap 'echo reload >> /log' USR1; trap 'echo bigger >> /log' WINCH;
        trap 'echo end >> /log; exit 0' TERM; echo ready > /log; while :; do sleep 0.1; done";
    for runtime in both() {
        let bundle = Bundle::script(script);
        let container = runtime.start(&bundle);
        let pid = Pid::from_raw(container.pid());
        let mut expected = "ready\n".to_owned();
        has_written(&bundle, &expected);
        let signals =
            [(Signal::SIGUSR1, "reload"), (Signal::SIGWINCH, "bigger"), (Signal::SIGTERM, "end")];
        for (signal, word) in signals {
            kill(pid, signal).unwrap();
            expected.push_str(&format!("{word}\n"));
            has_written(&bundle, &expected);
        }
        container.becomes("stopped");
    }
}

#[test]
fn a_program_that_does_not_want_a_signal_runs_on() {
    for runtime in both() {
        // The first process of a pid namespace is not ended by what it has no handler for.
        let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGUSR2] {
            kill(Pid::from_raw(container.pid()), signal).unwrap();
        }
        container.exec(&["true"]).exits(0);
        assert_eq!(container.status(), "running");
    }
}

#[test]
fn a_container_that_was_not_started_ends_by_what_ends_programs() {
    for runtime in both() {
        let bundle = Bundle::busybox(&["sleep", "1000"]);
        let container = runtime.create(&bundle);
        container.kill("USR1").exits(0);
        assert_eq!(container.status(), "created");
        container.kill("TERM").exits(0);
        container.becomes("stopped");
        let container = runtime.create(&bundle);
        kill(Pid::from_raw(container.pid()), Signal::SIGINT).unwrap();
        container.becomes("stopped");
    }
}
