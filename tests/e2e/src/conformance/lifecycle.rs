//! `runtime.md`: the states, the operations, and hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::{ALWAYS_AS_RUNC, Behaviour, in_both_modes};
use crate::{Bundle, Container};

/// The chapter's behaviours.
pub const BEHAVIOURS: &[Behaviour] = &[
    STATE,
    CREATE_TWICE,
    NOT_BEFORE_START,
    START_TWICE,
    KILL,
    DELETE,
    EXIT_CODE,
    ANNOTATIONS,
    HOOKS,
    FAILING_HOOK,
    NO_CONFIG,
];

/// `state` at each step.
pub const STATE: Behaviour = Behaviour {
    name: "`state` in each status",
    section: "State",
    observe: |runtime| {
        let container = runtime.create(&Bundle::busybox(&["sleep", "600"]));
        let mut seen = vec![status(&container)];
        container.verb("start").exits(0);
        seen.push(status(&container));
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        seen.push(status(&container));
        seen.join("\n")
    },
    differs: ALWAYS_AS_RUNC,
};

/// An id that is taken.
pub const CREATE_TWICE: Behaviour = Behaviour {
    name: "`create` with an id that is taken fails and changes nothing",
    section: "Create",
    observe: |runtime| {
        let bundle = Bundle::busybox(&["sleep", "600"]);
        let container = runtime.start(&bundle);
        let path = bundle.path().to_str().unwrap();
        let again = runtime.verb(&["create", "--bundle", path, &container.id]);
        format!("{}, {}", again.code, container.status())
    },
    differs: ALWAYS_AS_RUNC,
};

/// What `create` does not do.
pub const NOT_BEFORE_START: Behaviour = Behaviour {
    name: "the program runs at `start`, not at `create`",
    section: "Start",
    observe: |runtime| {
        let bundle = Bundle::script("echo ran > /ran; sleep 600");
        let container = runtime.create(&bundle);
        let ran = bundle.rootfs().join("ran");
        let before = ran.exists();
        container.verb("start").exits(0);
        crate::until("the program runs", || ran.exists());
        format!("{before}, {}", ran.exists())
    },
    differs: ALWAYS_AS_RUNC,
};

/// `start` is for what was created.
pub const START_TWICE: Behaviour = Behaviour {
    name: "`start` of what runs, has ended or is not there fails",
    section: "Start",
    observe: |runtime| {
        let container = runtime.start(&Bundle::busybox(&["sleep", "600"]));
        let running = container.verb("start").code;
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        let stopped = container.verb("start").code;
        format!("{running}, {stopped}, {}", runtime.verb(&["start", "nobody"]).code)
    },
    differs: ALWAYS_AS_RUNC,
};

/// Signals.
pub const KILL: Behaviour = Behaviour {
    name: "`kill` sends the signal that is named, TERM where none is, and nothing to what has ended",
    section: "Kill",
    observe: |runtime| {
        let script = "trap 'echo term >> /got' TERM; trap 'echo usr1 >> /got' USR1
                      trap 'exit 3' HUP; echo ready > /got; while :; do sleep 0.1; done";
        let bundle = Bundle::script(script);
        let container = runtime.start(&bundle);
        let got = bundle.rootfs().join("got");
        for (signal, lines) in [(None, 1), (Some("USR1"), 2), (Some("10"), 3), (Some("SIGHUP"), 4)]
        {
            crate::until("the signal before arrived", || line_count(&got) == lines);
            let sent = signal.map_or_else(|| container.verb("kill"), |name| container.kill(name));
            sent.exits(0);
        }
        container.becomes("stopped");
        let text = fs::read_to_string(got).unwrap();
        let unknown = container.kill("NOSUCH").code;
        format!("{text}{}, {unknown}", container.kill("TERM").code)
    },
    differs: ALWAYS_AS_RUNC,
};

/// `delete` is for what has ended.
pub const DELETE: Behaviour = Behaviour {
    name: "`delete` of what runs fails, of what has ended takes it away, of what is not there fails",
    section: "Delete",
    observe: |runtime| {
        let container = runtime.start(&Bundle::busybox(&["sleep", "600"]));
        let running = container.verb("delete").code;
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        let codes = ["delete", "state", "delete"].map(|verb| container.verb(verb).code);
        format!("{running}, {codes:?}, {}", runtime.verb(&["delete", "--force", "nobody"]).code)
    },
    differs: ALWAYS_AS_RUNC,
};

/// `run` ends as the program does.
pub const EXIT_CODE: Behaviour = Behaviour {
    name: "the exit code is the program's, and 128 and its number for a signal",
    section: "Lifecycle",
    observe: |runtime| {
        let code = |script| runtime.run(&Bundle::script(script)).code;
        format!("{}, {}, {}", code("true"), code("exit 42"), code("kill -KILL $$; sleep 5"))
    },
    differs: ALWAYS_AS_RUNC,
};

/// Annotations are handed on.
pub const ANNOTATIONS: Behaviour = Behaviour {
    name: "annotations are in the state",
    section: "State",
    observe: |runtime| {
        let bundle = Bundle::busybox(&["true"]).edit(|config| {
            config["annotations"] =
                json!({ "com.example.key": "a value", "com.example.empty": "" });
        });
        let container = runtime.create(&bundle);
        let annotations = container.state()["annotations"].clone();
        format!("{} {}", annotations["com.example.key"], annotations["com.example.empty"])
    },
    differs: ALWAYS_AS_RUNC,
};

/// The order of hooks, and what they are told.
pub const HOOKS: Behaviour = Behaviour {
    name: "hooks are run in their order, each with the state on its standard input",
    section: "Lifecycle",
    observe: |runtime| {
        let bundle = with_hooks(Bundle::busybox(&["sleep", "600"]), "0");
        let log = bundle.path().join("log");
        let container = runtime.create(&bundle);
        let mut seen = vec![told(&log)];
        container.verb("start").exits(0);
        seen.push(told(&log));
        assert_ne!(container.verb("delete").code, 0);
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        container.verb("delete").exits(0);
        seen.push(told(&log));
        seen.join("\n--\n")
    },
    differs: &in_both_modes(
        "prestart \"created\" [true, true, true]\n\
         createRuntime \"creating\" [true, true, true]\n\
         --\n\
         poststart \"running\" [true, true, true]\n\
         --\n\
         poststop \"stopped\" [true, true, true]",
        "the statuses are the specification's: runc 1.1 tells `prestart` that it is `creating`, \
         `poststart` that it is `created`",
    ),
};

/// A hook of `create` that fails.
pub const FAILING_HOOK: Behaviour = Behaviour {
    name: "a `createRuntime` hook that fails makes `create` fail, and the container is gone",
    section: "Lifecycle",
    observe: |runtime| {
        let bundle = with_hooks(Bundle::busybox(&["sleep", "600"]), "7");
        let path = bundle.path().to_str().unwrap();
        let id = runtime.id("hooked");
        let created = crate::finish_detaching(runtime.command(&["create", "--bundle", path, &id]));
        let state = runtime.verb(&["state", &id]);
        format!("{}, {}", created.code, state.code)
    },
    differs: ALWAYS_AS_RUNC,
};

/// A bundle that is none.
pub const NO_CONFIG: Behaviour = Behaviour {
    name: "a bundle without `config.json`, and one that is no JSON, is an error",
    section: "Create",
    observe: |runtime| {
        let broken = Bundle::busybox(&["true"]).with_config_text("{");
        let empty = tempfile::tempdir().unwrap();
        let code = |path: &std::path::Path| {
            runtime.verb(&["create", "--bundle", path.to_str().unwrap(), &runtime.id("x")]).code
        };
        format!("{}, {}", code(broken.path()), code(empty.path()))
    },
    differs: ALWAYS_AS_RUNC,
};

/// What the state says, but for what differs from one container to the next.
fn status(container: &Container<'_>) -> String {
    let state = container.state();
    let pid = state["pid"].as_i64().unwrap();
    let own = [state["id"] == container.id.as_str(), state["bundle"].is_string(), pid > 0];
    format!("{} {own:?}", state["status"])
}

fn line_count(file: &std::path::Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Hooks on the host that write down their names and what they are told. The one of `createRuntime`
/// ends with this code.
fn with_hooks(bundle: Bundle, code: &str) -> Bundle {
    let hook = bundle.path().join("hook");
    let script =
        "#!/bin/sh\nprintf '%s ' \"$1\" >> \"$2\"; cat >> \"$2\"; echo >> \"$2\"; exit $3\n";
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let log = bundle.path().join("log").display().to_string();
    let named =
        |name: &str, code: &str| json!([{ "path": hook, "args": ["hook", name, log, code] }]);
    let hooks = json!({
        "prestart": named("prestart", "0"),
        "createRuntime": named("createRuntime", code),
        "poststart": named("poststart", "0"),
        "poststop": named("poststop", "0")
    });
    bundle.edit(|config| config["hooks"] = hooks)
}

/// The hooks that were run since this was asked last, with the status that each was told, and whether the rest of the
/// state was right.
fn told(log: &std::path::Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    fs::write(log, "").unwrap();
    let line = |line: &str| {
        let (name, state) = line.split_once(' ').unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        let has = ["ociVersion", "id", "bundle"].map(|field| state[field].is_string());
        format!("{name} {} {has:?}", state["status"])
    };
    text.lines().filter(|line| !line.is_empty()).map(line).collect::<Vec<_>>().join("\n")
}
