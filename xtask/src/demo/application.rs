//! The application in one sandbox: redis is the container's process; everything else is `exec`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::column::Column;
use crate::bench::config;
use crate::process;

/// `cargo xtask application`: what `demo` runs in the lab.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of cofferdam's programs
    programs: PathBuf,
    /// The Debian root file system
    rootfs: PathBuf,
    /// What the container runs in
    isolation: String,
    /// Where the column goes, in JSON
    report: PathBuf,
}

/// Enough to fill a second or two, in the lab too.
const REQUESTS: &str = "2000";
/// In the lab redis answers after some seconds.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Not arithmetic alone: files of the standard library are found, read and compiled.
const SCRIPT: &str = "import hashlib, json, platform
digest = hashlib.sha256(json.dumps(list(range(10000))).encode()).hexdigest()
assert digest.startswith('7d99'), digest
print(platform.python_version())";

/// `cargo xtask application`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("cofferdam-demo-").tempdir()?;
    let Arguments { programs, rootfs, isolation, report } = arguments;
    let column = observe(programs, rootfs, isolation, folder.path())?;
    fs::write(report, serde_json::to_vec(&column)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the application and looks at it.
pub(super) fn observe(
    programs: &Path,
    rootfs: &Path,
    isolation: &str,
    folder: &Path,
) -> Result<Column> {
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&bundle(rootfs)?)?)?;
    let container = Container {
        program: programs.join("cofferdam"),
        isolation: isolation.to_owned(),
        id: format!("demo-{}", std::process::id()),
    };
    let started = Instant::now();
    container.create(folder)?;
    container.verb("start", &[])?;
    let start_ms = milliseconds(started);
    container.wait_for_redis()?;
    let ready_ms = milliseconds(started);

    let state: Value = serde_json::from_str(&container.verb("state", &[])?)?;
    let annotation = |name: &str| {
        let value = &state["annotations"][format!("dev.cofferdam.isolation.{name}")];
        value.as_str().unwrap_or("not said").to_owned()
    };
    let figures = container.verb("exec", &benchmark())?;
    Ok(Column {
        isolation: isolation.to_owned(),
        in_lab: env::var_os("COFFERDAM_LAB").is_some(),
        effective: annotation("effective"),
        reason: annotation("reason"),
        kernel: container.verb("exec", &["uname", "-r"])?,
        python: container.verb("exec", &["python3", "-c", SCRIPT])?,
        start_ms,
        ready_ms,
        set_per_second: requests_per_second(&figures, "SET")?,
        get_per_second: requests_per_second(&figures, "GET")?,
    })
}

fn benchmark() -> [&'static str; 8] {
    ["redis-benchmark", "--csv", "-n", REQUESTS, "-c", "10", "-t", "set,get"]
}

/// The first figure of a line like `"SET","49019.61",...`.
fn requests_per_second(figures: &str, test: &str) -> Result<String> {
    let line = figures.lines().find(|line| line.starts_with(&format!("\"{test}\"")));
    let figure = line.and_then(|line| line.split(',').nth(1));
    let figure = figure.with_context(|| format!("redis-benchmark printed: {figures}"))?;
    let whole = figure.trim_matches('"').split('.').next().unwrap_or_default();
    Ok(whole.to_owned())
}

/// Redis in memory alone, on a root that stays as it is in the cache.
fn bundle(rootfs: &Path) -> Result<Value> {
    let rootfs = rootfs.to_str().context("A root file system whose path is not text")?;
    let args = ["redis-server", "--save", "", "--dir", "/tmp", "--bind", "127.0.0.1"];
    let mut config = config(rootfs, &args);
    config["root"]["readonly"] = json!(true);
    if let Some(mounts) = config["mounts"].as_array_mut() {
        for folder in ["/tmp", "/run"] {
            let options = ["nosuid", "nodev", "mode=1777", "size=65536k"];
            mounts.push(json!({
                "destination": folder, "type": "tmpfs", "source": "tmpfs", "options": options
            }));
        }
    }
    Ok(config)
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The demo's container; it does not outlive this.
struct Container {
    program: PathBuf,
    isolation: String,
    id: String,
}

impl Container {
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--isolation", &self.isolation, verb]).stdin(Stdio::null());
        command
    }

    /// Its output goes to a file: redis has it for as long as it lives, and nobody waits for it.
    fn create(&self, bundle: &Path) -> Result<()> {
        let log = bundle.join("log");
        let file = File::create(&log)?;
        let mut command = self.command("create");
        command.arg("--bundle").arg(bundle).arg(&self.id);
        command.stdout(file.try_clone()?).stderr(file);
        if !process::status(&mut command)?.success() {
            bail!("create failed: {}", fs::read_to_string(&log)?.trim_end());
        }
        Ok(())
    }

    /// A verb on the container, and what it prints.
    fn verb(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let output = process::output(self.command(verb).arg(&self.id).args(arguments))?;
        Ok(output.trim_end().to_owned())
    }

    fn wait_for_redis(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.verb("exec", &["redis-cli", "ping"]) {
                Ok(answer) if answer == "PONG" => return Ok(()),
                outcome if started.elapsed() > READY_LIMIT => {
                    bail!("Redis does not answer: {outcome:?}");
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = process::output(self.command("delete").args(["--force", &self.id])) {
            eprintln!("error: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_the_first_of_its_line() {
        let figures =
            "\"test\",\"rps\",\"avg\"\n\"SET\",\"49019.61\",\"0.5\"\n\"GET\",\"7.00\",\"1\"";
        assert_eq!(requests_per_second(figures, "SET").unwrap(), "49019");
        assert_eq!(requests_per_second(figures, "GET").unwrap(), "7");
        assert!(requests_per_second("error", "GET").is_err());
    }
}
