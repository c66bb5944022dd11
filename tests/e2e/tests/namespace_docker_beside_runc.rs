//! One script through one Docker, with runc and with Cofferdam: the same codes, streams, logs,
//! `inspect` and events. What differs by nature is named here, and in `docs/docker.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;

use cofferdam_e2e::{DOCKER_IMAGE, Docker, Mode, Transcript, until};

const RUNC: &str = "runc";
const OURS: &str = "cofferdam";

/// Of `inspect`: another for each container, whatever the runtime.
const OF_ONE_CONTAINER: [&str; 17] = [
    "Id",
    "Pid",
    "Created",
    "StartedAt",
    "FinishedAt",
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "LogPath",
    "GraphDriver",
    "SandboxID",
    "SandboxKey",
    "EndpointID",
    "NetworkID",
    // What is being executed at this moment, and what checks said so far.
    "ExecIDs",
    "Health",
    "Runtime",
];

/// Runs the script with both; it tells what it sees.
fn beside_runc(script: impl Fn(&Engine<'_>, &mut Transcript)) {
    let docker = Docker::start();
    let [theirs, ours] = [RUNC, OURS].map(|runtime| {
        let mut told = Transcript::default();
        script(&Engine { docker: &docker, runtime }, &mut told);
        docker.has_left_nothing();
        told
    });
    ours.is_as(&theirs);
}

/// A Docker that makes containers with one of the two.
struct Engine<'a> {
    docker: &'a Docker,
    runtime: &'a str,
}

impl Engine<'_> {
    fn does(&self, told: &mut Transcript, arguments: &[&str]) {
        told.ran(&arguments.join(" "), &self.docker.docker(arguments));
    }

    /// `docker VERB FLAGS IMAGE PROGRAM` for a verb that makes a container.
    fn makes(&self, told: &mut Transcript, verb: &str, flags: &[&str], program: &[&str]) -> i32 {
        let outcome = self.docker.docker(&self.words(verb, flags, program));
        told.ran(&format!("{verb} {} {}", flags.join(" "), program.join(" ")), &outcome);
        outcome.code
    }

    fn words<'b>(&'b self, verb: &'b str, flags: &[&'b str], program: &[&'b str]) -> Vec<&'b str> {
        [&[verb, "--runtime", self.runtime], flags, &[DOCKER_IMAGE], program].concat()
    }

    fn inspects(&self, told: &mut Transcript, when: &str, container: &str) {
        let document = self.docker.docker(&["inspect", container]).exits(0).stdout.clone();
        told.shows(&format!("inspect, {when}"), &document, &OF_ONE_CONTAINER);
    }

    fn is(&self, container: &str, template: &str, value: &str) {
        until(value, || self.docker.inspect(container, template) == value);
    }
}

/// What a process finds of its restrictions and surroundings.
const LOOK: &str = "
    id; pwd; hostname; env | sort; umask; ulimit -n; ulimit -Hn; cat /proc/1/comm
    grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj
    cd /sys/fs/cgroup
    cat memory.max memory.swap.max cpu.max pids.max memory/memory.limit_in_bytes pids/pids.max 2>/dev/null
    cat /etc/resolv.conf /etc/hosts /etc/hostname
    ip -o link show dev eth0 | grep -o 'mtu [0-9]*\\|ether [0-9a-f:]*'; ip -o -4 address show dev eth0 | grep -o 'inet [^ ]*'
    ip route; df -k /dev/shm /scratch | awk 'NR > 1 {print $2, $6}'
    awk '$2 ~ \"^/(proc|sys|dev|scratch)\" {print $2, $3}' /proc/mounts | grep -v 'tmpfs$' | sort
    ls -l /dev | awk '{print $1, $3, $4, $NF}' | grep -v total; cat /bound/file
    touch /new /bound/new; mkdir /scratch/refused; chown 0 /scratch; ping -c 1 -W 20 192.0.2.1 | grep -c 'bytes from'
    exit 9";

#[test]
fn flags_make_and_restrict_a_container_as_with_runc() {
    beside_runc(|engine, told| {
        let path = |name: &str| engine.docker.folder().join(name).display().to_string();
        fs::create_dir_all(path("bound")).unwrap();
        fs::write(path("bound/file"), "bound\n").unwrap();
        let refused = r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}"#;
        let filter = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{refused}]}}"#);
        fs::write(path("filter.json"), filter).unwrap();
        let (bind, filter) = (
            format!("type=bind,src={},dst=/bound,readonly", path("bound")),
            format!("seccomp={}", path("filter.json")),
        );
        let flags = "--rm --hostname named --user 1000:1000 --group-add 2000 --workdir /bin --env A=b --read-only \
                     --tmpfs /scratch:size=1m,mode=777 --cap-drop ALL --cap-add NET_RAW --security-opt no-new-privileges \
                     --ulimit nofile=123:456 --sysctl net.ipv4.ip_unprivileged_port_start=77 --memory 64m --memory-swap 64m \
                     --cpus 0.5 --pids-limit 50 --init --shm-size 2m --add-host other:192.0.2.77 --dns 192.0.2.53 \
                     --oom-score-adj 77";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let flags = [&flags, &["--mount", &bind, "--security-opt", &filter][..]].concat();
        assert_eq!(engine.makes(told, "run", &flags, &["sh", "-c", LOOK]), 9);
    });
}

#[test]
fn what_cannot_be_run_fails_with_the_same_code() {
    beside_runc(|engine, told| {
        let programs: [&[&str]; 4] =
            [&["nosuch"], &["/etc"], &["false"], &["sh", "-c", "kill -9 $$"]];
        for program in programs {
            let outcome = engine.docker.docker(&engine.words("run", &["--name", "one"], program));
            // What the runtime says of it is in its own words.
            told.says(&format!("{program:?}"), &format!("{} {}", outcome.code, outcome.stdout));
            let template = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}";
            told.says("afterwards", &engine.docker.inspect("one", template));
            engine.does(told, &["rm", "one"]);
        }
        for flags in [["--user", "nobody-known"], ["--workdir", "not/absolute"]] {
            let code = engine.makes(told, "run", &[&["--rm"], &flags[..]].concat(), &["true"]);
            assert_ne!(code, 0);
        }
    });
}

#[test]
fn a_container_lives_and_is_looked_at_as_with_runc() {
    beside_runc(|engine, told| {
        let script = "trap 'exit 3' TERM; trap 'echo poked' USR1; echo up; echo no >&2; touch /made; \
                      while :; do sleep 0.1; done";
        let flags =
            "--name one --memory 64m --cpus 0.5 --pids-limit 50 --stop-timeout 60 --label a=b";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let created = engine.docker.docker(&engine.words("create", &flags, &["sh", "-c", script]));
        told.ran("create", created.exits(0));
        engine.inspects(told, "created", "one");
        engine.does(told, &["start", "one"]);
        until("it is up", || engine.docker.docker(&["logs", "one"]).stdout == "up\n");
        runs_beside(engine, told);
        is_changed(engine, told);
        ends(engine, told);
    });
}

/// The size comes a moment after the terminal.
const UNTIL_SIZED: &str = "until [ \"$(stty size 2>/dev/null)\" = \"33 77\" ]; do sleep 0.1; done;";

/// What the program says; what was typed is shown when it happens to be read.
fn in_a_terminal(engine: &Engine<'_>, told: &mut Transcript, arguments: &[&str]) {
    let sized = "stty rows 33 cols 77";
    let shown = engine.docker.docker_in_a_terminal(sized, arguments, b"typed\n");
    let said: Vec<&str> = shown.stdout.lines().filter_map(what_follows).collect();
    assert_eq!(said.len(), 1, "{shown:?}");
    told.says("in a terminal", &format!("{} {said:?}", shown.code));
}

/// The terminal may show something of its own before it.
fn what_follows(line: &str) -> Option<&str> {
    line.find("= ").map(|start| &line[start..])
}

/// Further processes in the container.
fn runs_beside(engine: &Engine<'_>, told: &mut Transcript) {
    let flags = ["exec", "--user", "1000", "--workdir", "/bin", "--env", "C=d", "one"];
    let script =
        "id; pwd; env | sort; grep -E '^(Cap|Seccomp:)' /proc/self/status; echo no >&2; exit 5";
    engine.does(told, &[&flags[..], &["sh", "-c", script]].concat());
    let typed = ["exec", "--interactive", "one", "sh", "-c", "cat; exit 6"];
    told.ran("exec -i", &engine.docker.docker_with_input(&typed, b"typed\n"));
    engine.does(told, &["exec", "--detach", "one", "touch", "/detached"]);
    engine
        .docker
        .docker(&["exec", "one", "sh", "-c", "until test -e /detached; do sleep 0.1; done"])
        .exits(0);
    let script = format!("{UNTIL_SIZED} read line; echo = $line $(tty); exit 7");
    in_a_terminal(engine, told, &["exec", "--interactive", "--tty", "one", "sh", "-c", &script]);
    let missing = engine.docker.docker(&["exec", "one", "nosuch"]);
    told.says("exec of what is missing", &missing.code.to_string());
}

fn is_changed(engine: &Engine<'_>, told: &mut Transcript) {
    engine.does(told, &["pause", "one"]);
    engine.does(told, &["exec", "one", "true"]);
    told.says("paused", &engine.docker.inspect("one", "{{.State.Status}} {{.State.Paused}}"));
    engine.does(told, &["unpause", "one"]);
    let limits = ["--memory", "96m", "--memory-swap", "96m", "--pids-limit", "60", "--cpus", "0.7"];
    engine.does(told, &[&["update"], &limits[..], &["one"]].concat());
    let look = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max memory/memory.limit_in_bytes pids/pids.max 2>/dev/null";
    engine.does(told, &["exec", "one", "sh", "-c", look]);
    let file = engine.docker.folder().join("copied");
    fs::write(&file, "copied\n").unwrap();
    let copy = |from: &str, to: &str| engine.docker.docker(&["cp", "--quiet", from, to]);
    told.ran("cp into", &copy(file.to_str().unwrap(), "one:/copied"));
    engine.does(told, &["exec", "one", "cat", "/copied"]);
    let back = engine.docker.folder().join("back");
    told.ran("cp out of", &copy("one:/copied", back.to_str().unwrap()));
    told.says("what came", &fs::read_to_string(back).unwrap());
    let diff = engine.docker.docker(&["diff", "one"]).exits(0).stdout.clone();
    let changed: BTreeSet<&str> = diff.lines().collect();
    told.says("diff", &format!("{changed:?}"));
    engine.does(told, &["commit", "--message", "as it is", "one", "committed:test"]);
    let committed =
        ["run", "--rm", "--runtime", engine.runtime, "committed:test", "ls", "/copied", "/made"];
    told.ran("run of what was committed", &engine.docker.docker(&committed));
    engine.does(told, &["rmi", "--no-prune", "committed:test"]);
    engine.does(told, &["rename", "one", "two"]);
    engine.inspects(told, "running", "two");
}

fn ends(engine: &Engine<'_>, told: &mut Transcript) {
    let docker = engine.docker;
    engine.does(told, &["kill", "--signal", "USR1", "two"]);
    until("it says so", || docker.docker(&["logs", "two"]).stdout == "up\npoked\n");
    engine.does(told, &["restart", "two"]);
    until("it is up again", || docker.docker(&["logs", "two"]).stdout == "up\npoked\nup\n");
    engine.does(told, &["stop", "two"]);
    engine.does(told, &["wait", "two"]);
    engine.does(told, &["logs", "two"]);
    engine.inspects(told, "ended by itself", "two");
    engine.does(told, &["exec", "two", "true"]);
    engine.does(told, &["start", "two"]);
    engine.does(told, &["kill", "two"]);
    engine.does(told, &["wait", "two"]);
    engine.inspects(told, "killed", "two");
    engine.does(told, &["rm", "two"]);
}

#[test]
fn a_terminal_is_run_in_attached_to_and_left_as_with_runc() {
    beside_runc(|engine, told| {
        let script = format!("{UNTIL_SIZED} read line; echo = $line $(tty) $(stty size); exit 4");
        let flags = ["--rm", "--interactive", "--tty"];
        in_a_terminal(engine, told, &engine.words("run", &flags, &["sh", "-c", &script]));
        let script = "while read line; do echo got $line; test $line != last || exit 5; done";
        let flags = ["--detach", "--interactive", "--name", "one"];
        assert_eq!(engine.makes(told, "run", &flags, &["sh", "-c", script]), 0);
        let attach = ["attach", "one"];
        let typed = b"first\nlast\n";
        told.ran("attach", &engine.docker.docker_with_lasting_input(&attach, typed));
        engine.does(told, &["wait", "one"]);
        engine.does(told, &["logs", "one"]);
        engine.does(told, &["rm", "one"]);
    });
}

/// Of what ran out of memory Docker's own shim hears from the host's group, where no process of a
/// microVM's workload is; by `runtimeType` it hears from ours.
#[test]
fn what_uses_too_much_memory_ends_and_is_told_as_with_runc() {
    beside_runc(|engine, told| {
        let greedy = ["sh", "-c", "x=x; while :; do x=$x$x; done"];
        let flags = ["--name", "one", "--memory", "24m", "--memory-swap", "24m"];
        assert_eq!(engine.makes(told, "run", &flags, &greedy), 137);
        told.says(
            "afterwards",
            &engine.docker.inspect("one", "{{.State.Status}} {{.State.ExitCode}}"),
        );
        if Mode::current() == Mode::Namespace {
            told.says("why", &engine.docker.inspect("one", "{{.State.OOMKilled}}"));
        }
        engine.does(told, &["rm", "one"]);
    });
}

#[test]
fn the_same_happens_in_the_same_order_as_with_runc() {
    beside_runc(|engine, told| {
        let label = format!("of={}", engine.runtime);
        let check = ["--health-cmd", "true", "--health-interval", "1s"];
        let flags = [&check[..], &["--detach", "--label", &label, "--name", "one"]].concat();
        let _ = engine.docker.docker(&engine.words("run", &flags, &["sleep", "1000"])).exits(0);
        engine.is("one", "{{.State.Health.Status}}", "healthy");
        for arguments in [&["exec", "one", "true"][..], &["pause", "one"], &["unpause", "one"]] {
            engine.does(told, arguments);
        }
        engine.does(told, &["rm", "--force", "one"]);
        let filter = format!("label={label}");
        let template = "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}";
        // Until a moment that has not come: what just happened is in by then.
        let until = (seconds() + 2).to_string();
        let since = ["events", "--since", "1h", "--until", &until, "--filter", &filter];
        let events = engine.docker.docker(&[&since[..], &["--format", template]].concat());
        // There is another check each second.
        let mut lines: Vec<&str> = Vec::new();
        for line in events.exits(0).stdout.lines() {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        assert!(lines.len() > 8, "{lines:?}");
        told.says("events", &lines.join("\n"));
    });
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
