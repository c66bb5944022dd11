//! The lab: a software-emulated machine that has a real, complete KVM, for machines without one.
//!
//! ```text
//!  this machine ── QEMU, TCG only: an AMD CPU with SVM ──▶ the lab: Debian's cloud kernel, kvm-amd
//!    /            ── virtiofs, read-only ────────────────▶   the lower layer of /
//!    OUTDIR       ── virtiofs ───────────────────────────▶   OUTDIR
//!    stdout/err   ◀── virtio-serial ports 1 and 2 ───────    the command's
//!    exit status  ◀── virtio-serial port 3 ──────────────    "up", "exit CODE"
//! ```
//!
//! What this is not: a boundary. The lab sees every file of this machine, as root, and may be
//! handed nothing that this machine should not run.
//!
//! [`emulator`] finds a QEMU, [`image`] makes its kernel and initramfs, [`job`] the script that it
//! runs, [`machine`] the processes that it is made of.

mod emulator;
mod frequency;
mod image;
mod job;
mod machine;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use machine::Ending;

/// `cargo xtask lab`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Virtual CPUs
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory, as QEMU writes it
    #[arg(short, long, default_value = "4G")]
    memory: String,
    /// End the lab after this many seconds
    #[arg(short = 't', long = "time", value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
    /// One CPU whose clock counts instructions, one nanosecond each
    #[arg(long)]
    icount: bool,
    /// A folder that the lab may write to, at the same path
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The command
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// What runs in the lab, and how the machine is made.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    /// Virtual CPUs.
    pub(crate) cpus: u32,
    /// Memory, as QEMU writes it.
    pub(crate) memory: String,
    /// When to give up.
    pub(crate) limit: Duration,
    /// A file that the command writes to again and again while the machine is well.
    pub(crate) heartbeat: Option<PathBuf>,
    /// Count instructions.
    pub(crate) icount: bool,
    /// Shared read-write.
    pub(crate) out: Option<PathBuf>,
    /// Set for the command beside the caller's own environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The command.
    pub(crate) command: Vec<OsString>,
}

impl Lab {
    /// A lab of two CPUs for a command.
    pub(crate) fn new<T: Into<OsString>>(command: impl IntoIterator<Item = T>) -> Self {
        Self {
            cpus: 2,
            memory: "4G".to_owned(),
            limit: Duration::from_secs(600),
            heartbeat: None,
            icount: false,
            out: None,
            environment: Vec::new(),
            command: command.into_iter().map(Into::into).collect(),
        }
    }

    /// Runs the command, its output where ours goes. The result is the command's exit status, or
    /// [`TIMED_OUT`], or [`NOT_UP`], the reason being on stderr then.
    pub(crate) fn run(&self) -> Result<u8> {
        let (emulator, image) = (emulator::ensure()?, image::ensure()?);
        let outcome = machine::run(self, &emulator, &image)?;
        match outcome.ending {
            Ending::Exited(code) => return Ok(code),
            Ending::TimedOut => {
                eprintln!("lab: the command did not finish in {} s", self.limit.as_secs());
            }
            Ending::NeverUp => eprintln!("lab: the machine did not come up"),
            Ending::Stopped => eprintln!("lab: the machine stands still"),
            Ending::Lost => eprintln!("lab: the machine ended before the command did"),
            Ending::Interrupted(signal) => return Ok(128 + signal),
        }
        if !outcome.console.is_empty() {
            eprintln!("lab: the last lines of its console:\n{}", outcome.console);
        }
        Ok(if outcome.ending == Ending::TimedOut { TIMED_OUT } else { NOT_UP })
    }
}

/// Makes what the lab is made of, unless it is there.
pub(crate) fn prepare() -> Result<()> {
    emulator::ensure()?;
    image::ensure().map(drop)
}

/// The exit status for a command that did not finish, as `timeout` has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// The exit status for a lab that did not come up or broke down.
pub(crate) const NOT_UP: u8 = 125;

/// `cargo xtask lab`.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let lab = Lab {
        cpus: arguments.cpus,
        memory: arguments.memory,
        limit: Duration::from_secs(arguments.seconds),
        icount: arguments.icount,
        out: arguments.out,
        ..Lab::new(arguments.command)
    };
    lab.run().map(ExitCode::from)
}
