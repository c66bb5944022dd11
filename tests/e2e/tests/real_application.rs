//! Real programs from Debian's packages: redis under load, python3 with threads and subprocesses.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

fn debian(script: &str) -> Bundle {
    Bundle::debian(&["sh", "-c", script]).edit(|config| {
        config["mounts"].as_array_mut().expect("a list").push(json!({
            "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]
        }));
    })
}

#[test]
fn redis_serves_its_own_benchmark() {
    let bundle = debian(
        "cd /tmp && redis-server --save '' --daemonize yes >/dev/null && \
         until redis-cli ping >/dev/null 2>&1; do sleep 0.1; done && \
         redis-benchmark -t set,get -n 200 -c 4 -q && redis-cli dbsize && redis-cli shutdown nosave",
    );
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0);
    assert!(
        outcome.stdout.contains("SET:") && outcome.stdout.contains("GET:"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn python_runs_threads_subprocesses_and_sockets() {
    let program = "import threading, subprocess, socket, os\n\
                   r = []\n\
                   t = [threading.Thread(target=lambda n=n: r.append(n * n)) for n in range(8)]\n\
                   [x.start() for x in t]; [x.join() for x in t]\n\
                   a, b = socket.socketpair(); a.send(b'hi')\n\
                   print(sorted(r), subprocess.check_output(['echo', 'sub']).decode().strip(), b.recv(2).decode(), os.getpid())";
    let bundle = Bundle::debian(&["python3", "-c", program]);
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("[0, 1, 4, 9, 16, 25, 36, 49] sub hi 1\n");
}
