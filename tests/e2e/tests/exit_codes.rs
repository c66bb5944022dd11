//! How a container's process ended is how `run` ends, as with runc.

use cofferdam_e2e::{Bundle, Runtime};

#[test]
fn the_exit_code_of_the_program_is_that_of_run() {
    for code in [0, 1, 3, 255] {
        let bundle = Bundle::script(&format!("exit {code}"));
        Runtime::cofferdam().run(&bundle).exits(code);
        Runtime::runc().run(&bundle).exits(code);
    }
}

#[test]
fn a_program_ended_by_a_signal_counts_128_more() {
    for (signal, code) in [("KILL", 137), ("TERM", 143)] {
        // The first process of a pid namespace takes no signal from inside that it does not
        // handle: a child of it does.
        let bundle = Bundle::script(&format!("sh -c 'kill -{signal} $$'; exit $?"));
        Runtime::cofferdam().run(&bundle).exits(code);
        Runtime::runc().run(&bundle).exits(code);
    }
}

#[test]
fn a_program_that_does_not_exist_is_127_and_named() {
    for program in ["nonexistent", "/nonexistent"] {
        let outcome = Runtime::cofferdam().run(&Bundle::busybox(&[program]));
        outcome.exits(127).complains(&[program]);
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_126_and_named() {
    let bundle = Bundle::busybox(&["/plain"]);
    std::fs::write(bundle.rootfs().join("plain"), "not a program").unwrap();
    Runtime::cofferdam().run(&bundle).exits(126).complains(&["/plain", "permission denied"]);
}
