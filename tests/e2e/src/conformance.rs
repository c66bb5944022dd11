//! The project's own cases of the runtime specification, each with runc as the oracle.
//!
//! A *scene* is one configuration, whose *cases* are what a program sees in it. The same bundle is
//! run by Cofferdam and by runc, and what the two programs saw is compared case by case. A
//! difference that is meant is written down with its reason, and has to be there: one that has gone
//! fails as well. `docs/oci-cases.md` is made of what is declared here ([`page`]).
//!
//! | module | of the specification |
//! |---|---|
//! | [`config`] | `config.md` |
//! | [`config_linux`] | `config-linux.md` |
//! | [`lifecycle`] | `runtime.md` |

pub mod config;
pub mod config_linux;
pub mod lifecycle;

use std::fmt::Write as _;

use crate::{Bundle, Mode, Runtime};

/// A configuration, and what a program sees in it.
pub struct Scene {
    /// Makes the bundle: it is given one of busybox.
    pub bundle: fn(Bundle) -> Bundle,
    /// In this order they are looked at, in one container.
    pub cases: &'static [Case],
}

/// One thing that the specification says of a container.
pub struct Case {
    /// What is so, in a few words: unique in its scene.
    pub name: &'static str,
    /// Where the specification says it: a file's heading.
    pub section: &'static str,
    /// A script that prints it.
    pub look: &'static str,
    /// Where it is otherwise than with runc.
    pub differs: Differs,
}

/// One thing that the specification says of a container's life.
pub struct Behaviour {
    /// What is so, in a few words.
    pub name: &'static str,
    /// Where the specification says it: a file's heading.
    pub section: &'static str,
    /// Does it, and tells what happened.
    pub observe: fn(&Runtime) -> String,
    /// Where it is otherwise than with runc.
    pub differs: Differs,
}

/// Where what is seen is not what runc's container sees.
pub type Differs = &'static [Difference];

/// A difference that is meant.
pub struct Difference {
    /// In this mode,
    pub mode: Mode,
    /// this is seen,
    pub seen: &'static str,
    /// and why.
    pub reason: &'static str,
}

/// What is always as under runc.
const fn seen(name: &'static str, section: &'static str, look: &'static str) -> Case {
    Case { name, section, look, differs: ALWAYS_AS_RUNC }
}

/// A difference in either mode.
const fn in_both_modes(seen: &'static str, reason: &'static str) -> [Difference; 2] {
    [
        Difference { mode: Mode::Namespace, seen, reason },
        Difference { mode: Mode::MicroVm, seen, reason },
    ]
}

const ALWAYS_AS_RUNC: Differs = &[];

impl Scene {
    /// Compares what a container of this run's mode sees with what runc's sees.
    pub fn is_as_under_the_oracle(&self) {
        let ours = self.seen_by(&Runtime::cofferdam());
        let theirs = self.seen_by(&Runtime::runc());
        let complaints: Vec<String> = (self.cases.iter().zip(ours).zip(theirs))
            .filter_map(|((case, ours), theirs)| complaint(case.name, case.differs, &ours, &theirs))
            .collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    /// By case.
    fn seen_by(&self, runtime: &Runtime) -> Vec<String> {
        let bundle = (self.bundle)(Bundle::script(&self.script()));
        let outcome = runtime.run(&bundle);
        outcome.exits(0);
        let seen: Vec<String> = outcome
            .stdout
            .split("== case\n")
            .skip(1)
            .map(|text| text.trim_end().to_owned())
            .collect();
        assert_eq!(seen.len(), self.cases.len(), "{}", outcome.stdout);
        seen
    }

    /// Each case in a shell of its own; that one fails is something to see, too.
    fn script(&self) -> String {
        let mut script = String::new();
        for Case { look, .. } in self.cases {
            writeln!(script, "echo '== case'; ( {look} ) 2>&1").unwrap();
        }
        script + "exit 0"
    }
}

impl Behaviour {
    /// Compares what happens in this run's mode with what happens with runc.
    pub fn is_as_under_the_oracle(&self) {
        let ours = (self.observe)(&Runtime::cofferdam());
        let theirs = (self.observe)(&Runtime::runc());
        let complaint = complaint(self.name, self.differs, &ours, &theirs);
        assert!(complaint.is_none(), "{}", complaint.unwrap_or_default());
    }
}

/// What is not as declared.
fn complaint(name: &str, differs: Differs, ours: &str, theirs: &str) -> Option<String> {
    let meant = differs.iter().find(|difference| difference.mode == Mode::current());
    let expected = meant.map_or(theirs, |difference| difference.seen);
    if ours != expected {
        Some(format!("{name}: here it is\n{ours}\nand should be\n{expected}\n"))
    } else if meant.is_some() && ours == theirs {
        Some(format!("{name}: it is as with the oracle, and is said to differ:\n{ours}\n"))
    } else {
        None
    }
}

/// `docs/oci-cases.md`.
#[must_use]
pub fn page() -> String {
    let mut page = HEADER.to_owned();
    let chapters = [("config.md", config::SCENES), ("config-linux.md", config_linux::SCENES)];
    for (chapter, scenes) in chapters {
        heading(&mut page, chapter);
        for case in scenes.iter().flat_map(|scene| scene.cases) {
            row(&mut page, case.section, case.name, case.differs);
        }
    }
    heading(&mut page, "runtime.md");
    for behaviour in lifecycle::BEHAVIOURS {
        row(&mut page, behaviour.section, behaviour.name, behaviour.differs);
    }
    page
}

const HEADER: &str = "# The project's own cases of the specification

Made from `tests/e2e/src/conformance` by `UPDATE=1 cargo test -p cofferdam-e2e --test oci_cases`. Each case is run by
`make test` in both modes, in namespaces with cgroup v1 (where the machine has it) and v2 (in the lab), and once more by runc
with the same bundle; what the two saw is compared. Where a difference is meant its reason stands here, and the
case fails when the difference is gone.

What the public suites say is in [conformance.md](conformance.md); what becomes of each field, in [oci.md](oci.md).
";

fn heading(page: &mut String, chapter: &str) {
    write!(page, "\n## {chapter}\n\n| | case | namespaces | microVM |\n|---|---|---|---|\n")
        .unwrap();
}

fn row(page: &mut String, section: &str, name: &str, differs: Differs) {
    let cell = |wanted: Mode| {
        let found = differs.iter().find(|difference| difference.mode == wanted);
        found.map_or("as runc", |difference| difference.reason)
    };
    let (namespace, microvm) = (cell(Mode::Namespace), cell(Mode::MicroVm));
    writeln!(page, "| {section} | {name} | {namespace} | {microvm} |").unwrap();
}
