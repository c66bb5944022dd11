//! Tells from inside a container what its process really has: one JSON document on stdout.
//!
//! The end-to-end tests run it under Cofferdam and under an oracle with the same `config.json` and
//! compare. It looks, it does not judge; the one thing it does is `--try PATH`, which reports what
//! happens when PATH is opened for reading and for writing.
//!
//! `--files FOLDER` is another program in the same file: what a file system must do ([`files`]),
//! and so are `--notify FILE PATH…` ([`notify`]), `--echo-datagrams ADDRESS:PORT` ([`datagrams`]) and
//! `--traffic ADDRESS:PORT` ([`traffic`]).

mod datagrams;
mod files;
mod notify;
mod sys;
mod traffic;

use std::collections::BTreeMap;
use std::{env, fs, io};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd;
use serde::Serialize;

/// What the process has.
#[derive(Debug, Serialize)]
struct Facts {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    cwd: String,
    hostname: String,
    kernel: String,
    environment: BTreeMap<String, String>,
    /// `Cap*`, `NoNewPrivs`, `Seccomp` of `/proc/self/status`.
    status: BTreeMap<String, String>,
    oom_score_adj: String,
    rlimits: BTreeMap<String, (u64, u64)>,
    /// Target, type, and the options that a test can rely on.
    mounts: BTreeMap<String, Mount>,
    /// Names below `/dev`, but for pseudo-terminals.
    devices: Vec<String>,
    /// Pids that `/proc` shows.
    pids: Vec<u32>,
    /// Files of the process's own cgroup (v2), where it is mounted.
    cgroup: BTreeMap<String, String>,
    /// What happened to each `--try` path.
    tried: BTreeMap<String, Tried>,
}

#[derive(Debug, Serialize)]
struct Mount {
    fstype: String,
    options: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tried {
    read: String,
    write: String,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((flag, rest)) if flag == "--files" => return files::run(rest),
        Some((flag, rest)) if flag == "--notify" => return notify::run(rest),
        Some((flag, rest)) if flag == "--echo-datagrams" => return datagrams::echo(rest),
        Some((flag, rest)) if flag == "--traffic" => return traffic::serve(rest),
        Some((flag, rest)) if flag == "--as" => return files::play(rest),
        _ => {}
    }
    let paths: Vec<String> = arguments.into_iter().filter(|arg| arg != "--try").collect();
    serde_json::to_writer(io::stdout(), &facts(&paths)?)?;
    println!();
    Ok(())
}

fn facts(paths: &[String]) -> io::Result<Facts> {
    Ok(Facts {
        uid: unistd::getuid().as_raw(),
        gid: unistd::getgid().as_raw(),
        groups: groups()?,
        umask: current_umask(),
        cwd: env::current_dir()?.display().to_string(),
        hostname: text("/proc/sys/kernel/hostname"),
        kernel: text("/proc/sys/kernel/osrelease"),
        environment: env::vars().collect(),
        status: status()?,
        oom_score_adj: text("/proc/self/oom_score_adj"),
        rlimits: rlimits()?,
        mounts: mounts()?,
        devices: devices(),
        pids: pids()?,
        cgroup: cgroup(),
        tried: paths.iter().map(|path| (path.clone(), tried(path))).collect(),
    })
}

/// A file's text, or why it cannot be read.
fn text(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim_end().to_owned(),
        Err(error) => error.kind().to_string(),
    }
}

fn groups() -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> =
        unistd::getgroups().map_err(io::Error::from)?.iter().map(|gid| gid.as_raw()).collect();
    groups.sort_unstable();
    Ok(groups)
}

fn current_umask() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    mask.bits()
}

fn status() -> io::Result<BTreeMap<String, String>> {
    let wanted = |key: &str| key.starts_with("Cap") || key == "NoNewPrivs" || key == "Seccomp";
    Ok(fs::read_to_string("/proc/self/status")?
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| wanted(key))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect())
}

fn rlimits() -> io::Result<BTreeMap<String, (u64, u64)>> {
    let named = [
        ("core", Resource::RLIMIT_CORE),
        ("nofile", Resource::RLIMIT_NOFILE),
        ("nproc", Resource::RLIMIT_NPROC),
        ("stack", Resource::RLIMIT_STACK),
    ];
    named.into_iter().map(|(name, resource)| Ok((name.to_owned(), getrlimit(resource)?))).collect()
}

fn mounts() -> io::Result<BTreeMap<String, Mount>> {
    let stable = ["ro", "rw", "nosuid", "nodev", "noexec"];
    let text = fs::read_to_string("/proc/self/mounts")?;
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields
        .filter(|fields| fields.len() >= 4)
        .map(|fields| {
            let options = fields[3].split(',').filter(|option| stable.contains(option));
            let mount = Mount {
                fstype: fields[2].to_owned(),
                options: options.map(str::to_owned).collect(),
            };
            (fields[1].to_owned(), mount)
        })
        .collect())
}

fn devices() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/dev") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn pids() -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

fn cgroup() -> BTreeMap<String, String> {
    ["memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"]
        .into_iter()
        .filter_map(|name| {
            let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
            Some((name.to_owned(), text.trim_end().to_owned()))
        })
        .collect()
}

fn tried(path: &str) -> Tried {
    let outcome = |result: io::Result<fs::File>| match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.kind().to_string(),
    };
    let read = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => match fs::read_dir(path) {
            Ok(entries) => format!("{} entries", entries.count()),
            Err(error) => error.kind().to_string(),
        },
        _ => outcome(fs::File::open(path)),
    };
    Tried { read, write: outcome(fs::OpenOptions::new().write(true).open(path)) }
}
