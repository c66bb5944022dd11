//! Terminals: detached with a console socket, as engines use them, and in the foreground.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::process::{Command, Stdio};

use cofferdam_e2e::{Bundle, ConsoleSocket, Outcome, Runtime};
use serde_json::json;

fn with_terminal(script: &str) -> Bundle {
    Bundle::script(script).edit(|config| config["process"]["terminal"] = json!(true))
}

/// Runs a verb under a terminal of its own; `\r` is taken out of what it shows.
fn in_a_terminal(command: &Command) -> Outcome {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
    let mut script = Command::new("script");
    script.args(["-qefc", &line.join(" "), "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("script(1) is there");
    // An end of its input would make script(1) type an end of file into the terminal.
    let open = child.stdin.take();
    let mut outcome = Outcome::from(child.wait_with_output().expect("it ends"));
    drop(open);
    outcome.stdout = outcome.stdout.replace('\r', "");
    outcome
}

#[test]
fn an_engine_gets_the_terminal_through_the_console_socket() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let console = ConsoleSocket::listen();
        let bundle = with_terminal(
            "test -t 0 && test -t 1 && echo on $(tty); read line; echo got $line; sleep 1000",
        );
        let (path, socket) =
            (bundle.path().display().to_string(), console.path().display().to_string());
        let id = runtime.id("console");
        let create = ["create", "--bundle", &path, "--console-socket", &socket, &id];
        let mut creating = runtime.command(&create).spawn().expect("create starts");
        let mut terminal = console.terminal();
        assert!(creating.wait().expect("create ends").success());
        runtime.verb(&["start", &id]).exits(0);
        terminal.shows("on /dev/");
        terminal.types("words\n");
        terminal.shows("got words");
        runtime.verb(&["delete", "--force", &id]).exits(0);
    }
}

#[test]
fn a_resize_of_the_master_reaches_the_program() {
    let console = ConsoleSocket::listen();
    let runtime = Runtime::cofferdam();
    let bundle =
        with_terminal("trap 'stty size' WINCH; echo ready; while true; do sleep 0.1; done");
    let (path, socket) =
        (bundle.path().display().to_string(), console.path().display().to_string());
    let id = runtime.id("resize");
    let mut creating = runtime
        .command(&["create", "--bundle", &path, "--console-socket", &socket, &id])
        .spawn()
        .expect("create starts");
    let mut terminal = console.terminal();
    assert!(creating.wait().expect("create ends").success());
    runtime.verb(&["start", &id]).exits(0);
    terminal.shows("ready");
    terminal.resizes(41, 91);
    terminal.shows("41 91");
    runtime.verb(&["delete", "--force", &id]).exits(0);
}

#[test]
fn run_in_the_foreground_relays_the_users_terminal() {
    let runtime = Runtime::cofferdam();
    let bundle = with_terminal("test -t 1 && echo yes; exit 6");
    let path = bundle.path().display().to_string();
    let outcome =
        in_a_terminal(&runtime.command(&["run", "--bundle", &path, &runtime.id("foreground")]));
    outcome.exits(6).prints("yes\n");
}

#[test]
fn exec_can_have_a_terminal() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let command =
        runtime.command(&["exec", "-t", &container.id, "sh", "-c", "test -t 0 && tty; exit 2"]);
    let outcome = in_a_terminal(&command);
    outcome.exits(2);
    assert!(outcome.stdout.contains("/dev/pts/"), "{}", outcome.stdout);
}

#[test]
fn a_terminal_without_a_console_socket_is_refused_when_detached() {
    let runtime = Runtime::cofferdam();
    let bundle = with_terminal("true");
    let path = bundle.path().display().to_string();
    let outcome = runtime.verb(&["create", "--bundle", &path, &runtime.id("nosocket")]);
    outcome.exits(1).complains(&["console"]);
}

#[test]
fn what_run_shows_in_the_foreground_ends_lines_as_the_program_does() {
    let bundle = with_terminal("echo one; echo two");
    // runc shows the same, but only where it has a terminal itself.
    Runtime::cofferdam().run(&bundle).exits(0).prints("one\ntwo\n");
}
