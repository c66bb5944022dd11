//! `cargo xtask demo`: one real application, redis on Debian, in hardened namespaces and in a
//! microVM, side by side.
//!
//! Where this machine's KVM is unfit the microVM runs in the lab. The lab's clock is its own, so
//! namespaces run there once more, for figures that compare.

mod application;
mod column;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile, Tree};
use crate::lab::Lab;
use crate::rootfs::{self, Image};
use crate::table::Table;
use crate::{kvm, progress, workspace};

pub(crate) use application::Arguments as ApplicationArguments;
pub(crate) use application::run as run_application;
use column::Column;

/// The lab takes a minute for both of its columns.
const LAB_LIMIT: Duration = Duration::from_secs(15 * 60);

/// `cargo xtask demo`.
pub(crate) fn run() -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("The demo makes containers: run it as root");
    }
    let tree = build::ensure(Profile::Release)?;
    let rootfs = rootfs::ensure(Image::Debian)?;
    let obstacle = kvm::obstacle(&tree)?;
    let mut columns = vec![here(&tree, &rootfs, "namespace")?];
    if let Some(reason) = &obstacle {
        println!("This machine's KVM cannot run a guest: {reason}");
        println!(
            "The microVM therefore runs in the lab, a machine in software with a complete KVM.\n"
        );
        for isolation in ["namespace", "microvm"] {
            columns.push(in_the_lab(&tree, &rootfs, isolation)?);
        }
    } else {
        columns.push(here(&tree, &rootfs, "microvm")?);
    }
    print(&columns);
    if obstacle.is_some() {
        println!(
            "The lab is slow; times compare within it. `cargo xtask bench start` measures them."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn here(tree: &Tree, rootfs: &Path, isolation: &str) -> Result<Column> {
    let step = progress::step(format!("Running redis here [{isolation}]"));
    let folder = tempfile::Builder::new().prefix("cofferdam-demo-").tempdir()?;
    let column = application::observe(&tree.programs(), rootfs, isolation, folder.path())?;
    step.done();
    Ok(column)
}

fn in_the_lab(tree: &Tree, rootfs: &Path, isolation: &str) -> Result<Column> {
    let step = progress::step(format!("Running redis in the lab [{isolation}]"));
    let folder = tempfile::Builder::new().prefix("demo-").tempdir_in(workspace::cache())?;
    let report = folder.path().join("column.json");
    let command: [OsString; 6] = [
        workspace::own_program()?.into(),
        "application".into(),
        tree.programs().into(),
        rootfs.into(),
        isolation.into(),
        report.clone().into(),
    ];
    let out = Some(folder.path().to_owned());
    let lab = Lab { icount: true, limit: LAB_LIMIT, out, ..Lab::new(command) };
    let status = lab.run()?;
    if status != 0 {
        bail!("The {isolation} half of the demo ended with status {status} in the lab");
    }
    let text = fs::read(&report).context("The lab left no report")?;
    step.done();
    serde_json::from_slice(&text).context("The lab's report")
}

fn print(columns: &[Column]) {
    let is_coloured = std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    let mut table = Table::new([""].into_iter().chain(columns.iter().map(Column::title)));
    for (name, cell) in column::ROWS {
        table.row(std::iter::once((*name).to_owned()).chain(columns.iter().map(cell)));
    }
    for (index, line) in table.to_string().lines().enumerate() {
        if is_coloured && index == 0 {
            println!("\x1b[1m{line}\x1b[0m");
        } else {
            println!("{line}");
        }
    }
    println!();
}
