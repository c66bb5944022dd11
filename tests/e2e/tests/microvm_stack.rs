//! A real stack: PostgreSQL, redis, a web application twice and nginx, each in a microVM of its own on
//! one network of Docker's, under load through nginx's published port while one after another of those
//! behind it is started again.
//!
//! That no request is lost is the work of three: nginx asks the other web server when one is gone, the
//! application makes its connections anew and does again what it was asked, and what PostgreSQL and
//! redis have said to be done is on their disk. A request that was done twice has the same id twice, so
//! that both of them hold each request once: not more than were sent, not fewer than were answered.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::env;
use std::io::{Read as _, Write as _, stdout};
use std::process::{Child, Stdio};
use std::time::Instant;

use cofferdam_e2e::{Docker, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder with a Dockerfile for each image.
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/stack");
/// Of wrk's, each with one request under way.
const CONNECTIONS: u64 = 2;
const URL: &str = "http://127.0.0.1:8080/";
/// What is started again, in this order.
const BEHIND: [&str; 4] = ["web1", "web2", "cache", "database"];

struct Stack {
    docker: Docker,
    begun: Instant,
}

impl Stack {
    fn start() -> Self {
        let begun = Instant::now();
        let stack = Self { docker: Docker::start_with_stack(), begun };
        for image in ["database", "cache", "web", "proxy"] {
            let folder = format!("{IMAGES}/{image}");
            stack.docker.docker(&["build", "--quiet", "--tag", image, &folder]).exits(0);
        }
        stack.says("the images are built");
        stack.docker.docker(&["network", "create", "stack"]).exits(0);
        stack.run("database", &[], "database");
        stack.run("cache", &[], "cache");
        for web in ["web1", "web2"] {
            stack.run(web, &["--hostname", web, "--network-alias", "web"], "web");
        }
        stack.run("proxy", &["--publish", "8080:80"], "proxy");
        let fetch = ["busybox", "wget", "-q", "-O", "-", URL];
        until("nginx answers", || stack.docker.on_the_host(&fetch).code == 0);
        stack.says("nginx answers what the others have done");
        stack
    }

    fn run(&self, name: &str, flags: &[&str], image: &str) {
        let network = ["run", "--detach", "--name", name, "--network", "stack"];
        self.docker.docker(&[&network, flags, &[image]].concat()).exits(0);
        self.says(&format!("{name} is started"));
    }

    /// For whoever watches: past the test's own capture.
    fn says(&self, what: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let _ = writeln!(stdout(), "  [{seconds:>3} s] {what}");
    }

    fn load(&self) -> Load {
        let mut command = self.docker.command_on_the_host(&["chroot"]);
        command.arg(env::var_os("COFFERDAM_STACK").unwrap());
        command.args(["wrk", "-t1", "-c", &CONNECTIONS.to_string(), "-d900s"]);
        command.args(["--timeout", "300s", URL]);
        Load(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// How many requests are in the database, by the server that did them; none while it cannot say.
    fn rows(&self) -> Option<BTreeMap<String, u64>> {
        let query = "SELECT server, count(*) FROM visits GROUP BY server";
        let psql = "/usr/lib/postgresql/15/bin/psql";
        let rows = self.docker.docker(&["exec", "database", psql, "-h", "/tmp", "-Atc", query]);
        let row = |line: &str| {
            let (server, count) = line.split_once('|')?;
            Some((server.to_owned(), count.parse().ok()?))
        };
        if rows.code == 0 { rows.stdout.lines().map(row).collect() } else { None }
    }

    /// How many requests are in redis.
    fn members(&self) -> u64 {
        let count = ["exec", "cache", "redis-cli", "scard", "visits"];
        self.docker.docker(&count).exits(0).stdout.trim().parse().unwrap()
    }

    /// Waits until both web servers have done more than they had by now.
    fn both_serve(&self) {
        let mut by_now = None;
        until("the database says what it has", || {
            by_now = self.rows();
            by_now.is_some()
        });
        let done = |rows: &Option<BTreeMap<_, _>>, web| rows.as_ref()?.get(web).copied();
        until("both web servers serve", || {
            self.both_run();
            let rows = self.rows();
            ["web1", "web2"].iter().all(|&web| done(&rows, web) > done(&by_now, web))
        });
    }

    /// One that has ended says why, instead of being waited for.
    fn both_run(&self) {
        for web in ["web1", "web2"] {
            let state = self.docker.docker(&["inspect", "--format", "{{.State.Running}}", web]);
            if state.exits(0).stdout.trim() != "true" {
                panic!("{web} has ended: {}", self.docker.docker(&["logs", web]).stderr);
            }
        }
    }
}

/// wrk, until it is told to stop.
struct Load(Child);

impl Load {
    /// Its summary.
    fn stop(mut self) -> String {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT).unwrap();
        let mut summary = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
        assert!(self.0.wait().unwrap().success(), "{summary}");
        summary
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `  123 requests in 4.00s, …`.
fn answered(summary: &str) -> u64 {
    let (count, _) = summary.split_once(" requests in ").unwrap_or_else(|| panic!("{summary}"));
    count.lines().last().unwrap().trim().parse().unwrap()
}

#[test]
fn no_request_is_lost_while_one_container_after_another_is_started_again() {
    let stack = Stack::start();
    let before = stack.members();
    let load = stack.load();
    stack.both_serve();
    stack.says("the load goes to both web servers");
    for name in BEHIND {
        stack.docker.docker(&["restart", "--time", "30", name]).exits(0);
        stack.says(&format!("{name} is started again"));
        stack.both_serve();
        stack.says("both web servers serve");
    }
    let summary = load.stop();
    summary.lines().for_each(|line| stack.says(line));
    let answered = answered(&summary);
    // wrk has these lines only when there is something to say in them.
    if summary.contains("Non-2xx") || summary.contains("Socket errors") {
        panic!("{summary}{}", stack.docker.docker(&["logs", "--tail", "50", "proxy"]).stderr);
    }
    let rows = stack.rows().unwrap().values().sum::<u64>() - before;
    let members = stack.members() - before;
    for held in [rows, members] {
        assert!((answered..=answered + CONNECTIONS).contains(&held), "{held}: {summary}");
    }
    for name in ["proxy"].iter().chain(&BEHIND) {
        stack.docker.docker(&["rm", "--force", name]).exits(0);
    }
    stack.docker.docker(&["network", "rm", "stack"]).exits(0);
    stack.docker.has_left_nothing();
    stack.says(&format!("{answered} requests answered, {rows} rows, {members} members, none lost"));
}
