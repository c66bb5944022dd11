//! Each system call that a verb makes fails once, or the process that makes it is killed there:
//! create is all or nothing, and `delete --force` takes what a killed runtime left.
//!
//! A run visits a sample of the steps, spread evenly; `COFFERDAM_INJECTIONS` says how many (10000
//! visits each step with several errors and takes most of an hour), `COFFERDAM_INJECTIONS_FROM` how many
//! of them were visited before, so that a long run can be divided.

use std::process::Command;

use cofferdam_e2e::{
    Bundle, Fault, Injection, Leftovers, Mode, Outcome, Runtime, Step, finish_detaching, steps_of,
};
use serde_json::json;

/// How many faults a verb meets if nothing else is said. In the lab each takes seconds.
fn injections() -> usize {
    said("COFFERDAM_INJECTIONS").unwrap_or(match Mode::current() {
        Mode::Namespace => 20,
        Mode::MicroVm => 4,
    })
}

fn said(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// A run that has seen so much need not go on.
const TOO_MANY: usize = 10;

/// A container that takes most of what there is to make one: mounts, a hook, limits, a filter.
fn rich() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
        .mount(json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs" }))
        .mount(json!({
            "destination": "/host", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]
        }))
        .edit(|config| {
            config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/true" }] });
            config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
            config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        })
}

/// As many faults as asked for: a few are spread over all steps, many visit each step several times.
fn sample(steps: &[Step], count: usize) -> Vec<Injection> {
    let spread = |n: usize| if count < steps.len() { n * steps.len() / count } else { n };
    (0..count)
        .map(|n| (spread(n) % steps.len(), spread(n) / steps.len() + n))
        .map(|(at, round)| Injection { step: steps[at].clone(), fault: Fault::of_round(round) })
        .collect()
}

/// What a verb with a fault in it left behind, if it left anything.
fn tried(
    target: &Target,
    command: &Command,
    injection: &Injection,
    clean: &Leftovers,
) -> Option<String> {
    let outcome = finish_detaching(injection.applied_to(command));
    // Whoever failed tidied up; who was killed could not, and who met a second fault in tidying up
    // (each process meets its own) says what is left, which is there, and alone.
    let failed = target.before == Before::Nothing && outcome.code != 0;
    let tidy_by_itself = failed && injection.fault != Fault::Killed;
    let named = outcome.not_removed();
    let untidy = tidy_by_itself.then(|| clean.since_but(&target.runtime, &named)).flatten();
    let invented = named.iter().find(|path| tidy_by_itself && !path.exists());
    let invented = invented.map(|path| format!("{} is named and not left", path.display()));
    let deleted = target.delete();
    let complaint = (deleted.code != 0).then(|| format!("delete: {}", deleted.stderr));
    let left = clean.since(&target.runtime);
    let said =
        [untidy, invented, complaint, left].into_iter().flatten().collect::<Vec<_>>().join("\n");
    (!said.is_empty()).then(|| format!("{injection}: {}\n{said}", outcome.stderr.trim()))
}

/// What a container's state is before a verb is tried on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Created,
    Running,
}

/// The container that a verb is tried on, again and again.
struct Target {
    runtime: Runtime,
    bundle: Bundle,
    id: String,
    before: Before,
}

impl Target {
    fn new(before: Before) -> Self {
        let runtime = Runtime::cofferdam();
        let id = runtime.id("injected");
        Self { runtime, bundle: rich(), id, before }
    }

    fn create(&self) -> Command {
        let path = self.bundle.path().display().to_string();
        self.runtime.command(&["create", "--bundle", &path, &self.id])
    }

    fn make(&self) {
        if self.before != Before::Nothing {
            finish_detaching(self.create()).exits(0);
        }
        if self.before == Before::Running {
            self.runtime.verb(&["start", &self.id]).exits(0);
        }
    }

    fn delete(&self) -> Outcome {
        self.runtime.verb(&["delete", "--force", &self.id])
    }
}

/// Tries a verb with as many faults as a run visits, each on a container of its own.
fn every_fault_is_survived(target: &Target, command: &Command) {
    let clean = Leftovers::before(&target.runtime);
    target.make();
    let steps = steps_of(command);
    target.delete().exits(0);

    let mut faults = sample(&steps, injections());
    faults.drain(..said("COFFERDAM_INJECTIONS_FROM").unwrap_or(0).min(faults.len()));
    assert!(!faults.is_empty(), "COFFERDAM_INJECTIONS counts those before, too");
    let mut bad = Vec::new();
    for fault in &faults {
        target.make();
        bad.extend(tried(target, command, fault, &clean));
        assert!(bad.len() < TOO_MANY, "{}", bad.join("\n"));
    }
    eprintln!("{} faults in {} steps", faults.len(), steps.len());
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), faults.len(), bad.join("\n"));
}

#[test]
fn create_is_all_or_nothing_wherever_it_fails() {
    let target = Target::new(Before::Nothing);
    every_fault_is_survived(&target, &target.create());
}

#[test]
fn start_leaves_nothing_that_delete_does_not_take() {
    let target = Target::new(Before::Created);
    every_fault_is_survived(&target, &target.runtime.command(&["start", &target.id]));
}

#[test]
fn exec_leaves_nothing_that_delete_does_not_take() {
    let target = Target::new(Before::Running);
    let exec = ["exec", "--detach", &target.id, "sleep", "1000"];
    every_fault_is_survived(&target, &target.runtime.command(&exec));
}

#[test]
fn a_delete_that_fails_can_be_said_again() {
    let target = Target::new(Before::Running);
    every_fault_is_survived(&target, &target.runtime.command(&["delete", "--force", &target.id]));
}
