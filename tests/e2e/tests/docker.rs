//! Docker with Cofferdam as its default runtime: what people type gives what it gives with runc.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::{DOCKER_IMAGE, Disk, Docker, Mode, SHARING, until};

#[test]
fn run_has_the_streams_the_code_and_the_restrictions_that_its_flags_say() {
    let docker = Docker::start();
    let run =
        ["run", "--rm", "--interactive", DOCKER_IMAGE, "sh", "-c", "cat; echo no >&2; exit 7"];
    docker.docker_with_input(&run, b"typed\n").exits(7).prints("typed\n").complains(&["no"]);
    docker.run(&["--rm"], &["nosuch"]).exits(127).complains(&["nosuch", "not found"]);
    docker.run(&["--rm"], &["/etc"]).exits(126);
    let flags = ["--rm", "--read-only", "--user", "1000:1000", "--cap-drop", "ALL", "--init"];
    let script = "id -u; id -g; touch /x; grep CapBnd /proc/self/status; cat /proc/1/comm";
    docker
        .run(&flags, &["sh", "-c", script])
        .exits(0)
        .prints("1000\n1000\nCapBnd:\t0000000000000000\ndocker-init\n")
        .complains(&["Read-only file system"]);
    let greedy = ["sh", "-c", "x=x; while :; do x=$x$x; done"];
    docker.run(&["--memory", "24m", "--name", "greedy"], &greedy).exits(137);
    assert_eq!(docker.inspect("greedy", "{{.State.ExitCode}}"), "137");
    docker.docker(&["rm", "greedy"]).exits(0);
    docker.has_left_nothing();
}

#[test]
fn a_container_in_the_background_is_looked_at_changed_and_stopped() {
    let docker = Docker::start();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let flags = ["--detach", "--name", "back", "--memory", "64m", "--pids-limit", "50"];
    docker.run(&flags, &["sh", "-c", script]).exits(0);
    until("it has said so", || docker.docker(&["logs", "back"]).stdout == "up\n");
    let exec = ["exec", "--interactive", "back", "sh", "-c", "cat; exit 5"];
    docker.docker_with_input(&exec, b"typed\n").exits(5).prints("typed\n");
    let missing = docker.docker(&["exec", "back", "nosuch"]);
    // 126 with this Docker, as with runc: 127 since Docker 23.
    assert!([126, 127].contains(&missing.code) && missing.stdout.contains("nosuch"), "{missing:?}");
    // Numbers of the host's: those of a guest would be somebody else's there.
    let top = docker.docker(&["top", "back", "-o", "pid"]).exits(0).stdout.clone();
    let pid = docker.inspect("back", "{{.State.Pid}}");
    assert!(top.lines().any(|line| line.trim() == pid), "{pid} is not in {top}");
    assert!(Mode::current() == Mode::Namespace || top.lines().count() == 2, "{top}");
    let stats = ["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "back"];
    let stats = docker.docker(&stats).exits(0).stdout.clone();
    // Docker's own shim for a runtime's path reads the sandbox's group: a microVM's, not its workload's.
    let limit = if Mode::current() == Mode::Namespace { " 64MiB " } else { "MiB " };
    assert!(stats.contains(limit) && !stats.starts_with("0B"), "{stats}");
    docker.docker(&["pause", "back"]).exits(0);
    assert_eq!(docker.inspect("back", "{{.State.Status}}"), "paused");
    docker.docker(&["unpause", "back"]).exits(0);
    let update = ["update", "--memory", "96m", "--memory-swap", "96m", "back"];
    docker.docker(&update).exits(0);
    let file = docker.folder().join("copied");
    fs::write(&file, "copied\n").unwrap();
    docker.docker(&["cp", file.to_str().unwrap(), "back:/copied"]).exits(0);
    docker.docker(&["exec", "back", "cat", "/copied"]).exits(0).prints("copied\n");
    assert!(docker.docker(&["diff", "back"]).stdout.contains("A /copied"));
    docker.docker(&["restart", "--time", "20", "back"]).exits(0);
    docker.docker(&["exec", "back", "cat", "/copied"]).exits(0).prints("copied\n");
    docker.docker(&["stop", "--time", "20", "back"]).exits(0);
    assert_eq!(docker.inspect("back", "{{.State.ExitCode}}"), "3");
    docker.docker(&["wait", "back"]).exits(0).prints("3\n");
    docker.docker(&["rm", "back"]).exits(0);
    docker.has_left_nothing();
}

#[test]
fn a_bridge_carries_published_ports_and_what_containers_say_to_each_other() {
    let docker = Docker::start();
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    let web = ["--detach", "--runtime", SHARING, "--name", "web", "--publish", "8080:80"];
    docker.run(&web, &serve).exits(0);
    let address = docker.inspect("web", "{{.NetworkSettings.IPAddress}}");
    let fetch = |host: &str, port: &str| docker.on_the_host(&["busybox", "nc", host, port]);
    until("it serves", || fetch(&address, "80").stdout == "served\n");
    until("its port is published", || fetch("127.0.0.1", "8080").stdout == "served\n");
    docker.run(&["--rm"], &["nc", "-w", "20", &address, "80"]).exits(0).prints("served\n");
    docker.run(&["--rm"], &["ping", "-c", "1", "-W", "20", &address]).exits(0);
    let addresses =
        ["sh", "-c", "ip -o address show dev eth0; cat /etc/hostname; grep -c web /etc/hosts"];
    let flags = ["--rm", "--hostname", "named", "--link", "web"];
    let said = docker.run(&flags, &addresses).exits(0).stdout.clone();
    assert!(said.contains("192.0.2.") && said.contains("named\n"), "{said}");
    let guest = ["--rm", "--runtime", SHARING, "--network", "container:web"];
    docker.run(&guest, &["nc", "-w", "20", "127.0.0.1", "80"]).exits(0).prints("served\n");
    let alone = docker.run(&["--rm", "--network", "none"], &["ip", "-o", "link"]);
    assert!(!alone.exits(0).stdout.contains("eth0"), "{alone:?}");
    docker.docker(&["rm", "--force", "web"]).exits(0);
    docker.has_left_nothing();
}

/// A question for the address of `web` in a stream, behind its length.
const QUESTION: &str = r"\0\025\022\064\01\0\0\01\0\0\0\0\0\0\03web\0\0\01\0\01";

/// Docker's name server listens on the loopback interface of the namespace on the host.
#[test]
fn containers_find_each_other_by_name_on_a_network_of_a_users() {
    let docker = Docker::start();
    docker.docker(&["network", "create", "--subnet", "198.51.100.0/24", "lan"]).exits(0);
    let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
    docker.run(&["--detach", "--name", "web", "--network", "lan"], &serve).exits(0);
    let template = "{{.NetworkSettings.Networks.lan.IPAddress}}";
    let address = docker.inspect("web", template);
    let flags = ["--rm", "--network", "lan"];
    let script = format!(
        "nc -w 20 web 80 && nslookup web && ! nslookup nosuch.invalid > /dev/null 2>&1 &&
         printf '{QUESTION}' | nc -w 20 127.0.0.11 53 | od -An -tu1 | tr -s ' \n' ' ' &&
         echo | nc -l -p 53 -w 1"
    );
    let outcome = docker.run(&flags, &["sh", "-c", &script]);
    assert!(outcome.stdout.starts_with("served\n"), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("Address: {address}")), "{outcome:?}");
    // Over a stream, too: the number of the question, and the address at the end.
    let in_decimal = address.replace('.', " ");
    assert!(outcome.stdout.contains(" 18 52 "), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!(" {in_decimal} ")), "{outcome:?}");
    // And a container's own server is not in its way.
    assert!(!outcome.stderr.contains("in use"), "{outcome:?}");
    let alone = ["--detach", "--name", "late", "--network", "none"];
    docker.run(&alone, &["sleep", "1000"]).exits(0);
    docker.docker(&["network", "disconnect", "none", "late"]).exits(0);
    docker.docker(&["network", "connect", "lan", "late"]).exits(0);
    let late = |program: &[&str]| docker.docker(&[&["exec", "late"], program].concat());
    until("it is on the network", || {
        late(&["nc", "-w", "20", &address, "80"]).stdout == "served\n"
    });
    docker.docker(&["network", "disconnect", "lan", "late"]).exits(0);
    until("it is no more", || !late(&["ip", "-o", "link"]).stdout.contains("eth"));
    docker.docker(&["rm", "--force", "web", "late"]).exits(0);
    docker.docker(&["network", "rm", "lan"]).exits(0);
    docker.has_left_nothing();
}

#[test]
fn volumes_are_shared_and_outlive_their_containers() {
    let docker = Docker::start();
    let shared = docker.folder().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("host"), "of the host\n").unwrap();
    let bind = format!("{}:/shared", shared.display());
    let flags =
        ["--rm", "--volume", &bind, "--volume", "named:/named", "--tmpfs", "/memory:size=1m"];
    let script = "cat /shared/host; echo kept >/named/file; echo back >/shared/back; \
                  dd if=/dev/zero of=/memory/file bs=2M count=1 2>&1 | grep -o 'No space left'";
    let written = docker.run(&flags, &["sh", "-c", script]);
    written.exits(0).prints("of the host\nNo space left\n");
    assert_eq!(fs::read_to_string(shared.join("back")).unwrap(), "back\n");
    let readonly = ["--rm", "--volume", "named:/named:ro"];
    let script = "cat /named/file; touch /named/other";
    let read = docker.run(&readonly, &["sh", "-c", script]);
    read.exits(1).prints("kept\n").complains(&["Read-only file system"]);
    docker.docker(&["volume", "rm", "named"]).exits(0);
    let disk = Disk::of(1 << 20);
    let run = |access: &str, script: &str| {
        let device = format!("{}:/dev/xvdb:{access}", disk.path().display());
        docker.run(&["--rm", "--device", &device], &["sh", "-c", script])
    };
    run("rwm", "echo on the disk | dd of=/dev/xvdb conv=notrunc,fsync").exits(0);
    let read = run("r", "head -n 1 /dev/xvdb; echo no > /dev/xvdb");
    read.exits(1).prints("on the disk\n").complains(&["Operation not permitted"]);
    assert!(disk.is_free());
    docker.has_left_nothing();
}

#[test]
fn an_image_is_built_and_a_container_that_ends_is_started_again() {
    let docker = Docker::start();
    let context = docker.folder().join("context");
    fs::create_dir(&context).unwrap();
    let file = format!("FROM {DOCKER_IMAGE}\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]\n");
    fs::write(context.join("Dockerfile"), file).unwrap();
    let build = ["build", "--network", "none", "--tag", "made:test", context.to_str().unwrap()];
    docker.docker(&build).exits(0);
    docker.docker(&["run", "--rm", "made:test"]).exits(0).prints("built\n");
    let flags = ["--detach", "--name", "again", "--restart", "on-failure:2"];
    docker.run(&flags, &["sh", "-c", "echo tried; exit 9"]).exits(0);
    until("it has given up", || docker.inspect("again", "{{.State.Status}}") == "exited");
    assert_eq!(docker.inspect("again", "{{.RestartCount}} {{.State.ExitCode}}"), "2 9");
    assert_eq!(docker.docker(&["logs", "again"]).stdout, "tried\n".repeat(3));
    docker.docker(&["rm", "again"]).exits(0);
    docker.has_left_nothing();
}
