//! Where a helper begins: it takes over what its caller left for it and does its job.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};

use super::job::Job;
use super::report::Reporter;
use super::{construct, helper, join, revive, stage, sys};

/// The helper's side: does the job that its arguments name.
pub(super) fn run(arguments: &[String]) -> Result<(), HelperError> {
    if let [kind, rest @ ..] = arguments
        && kind == stage::ARGUMENT
    {
        return run_stage(rest);
    }
    let [job, reports, caller] = arguments else { return Err(HelperError::Arguments) };
    let number = |text: &String| text.parse::<RawFd>().map_err(|_| HelperError::Arguments);
    end_with(number(caller)?)?;
    let mut job_file = File::from(inherited(number(job)?)?);
    let reporter = Reporter::new(inherited(number(reports)?)?);
    let mut bytes = Vec::new();
    job_file.read_to_end(&mut bytes).map_err(HelperError::Inherited)?;
    drop(job_file);
    match serde_json::from_slice(&bytes).map_err(HelperError::Job)? {
        Job::Construct(job) => {
            helper::reserve(job.process.preserve_fds).map_err(HelperError::Inherited)?;
            construct::run(*job, reporter);
        }
        Job::Join(job) => join::run(*job, reporter),
        Job::Revive(job) => revive::run(&job, &reporter),
    }
    Ok(())
}

/// A stage is told by its exit code: the process that runs it takes it for a hook.
fn run_stage(arguments: &[String]) -> Result<(), HelperError> {
    let [job, reports, socket] = arguments else { return Err(HelperError::Arguments) };
    let number = |text: &String| text.parse::<RawFd>().map_err(|_| HelperError::Arguments);
    let job_file = File::from(inherited(number(job)?)?);
    let reporter = Reporter::new(inherited(number(reports)?)?);
    let socket = inherited(number(socket)?)?;
    let job = serde_json::from_reader(job_file).map_err(HelperError::Job)?;
    if stage::run(&job, &reporter, &socket) { Ok(()) } else { sys::exit_now(1) }
}

/// A helper whose caller was killed has nobody to make a process for.
fn end_with(caller: i32) -> Result<(), HelperError> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| HelperError::Caller(e.into()))?;
    // It may have been killed before that.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent == Some(caller) {
        Ok(())
    } else {
        Err(HelperError::Caller(io::Error::from_raw_os_error(libc::ESRCH)))
    }
}

/// A descriptor that the caller left open.
fn inherited(number: RawFd) -> Result<OwnedFd, HelperError> {
    sys::inherited(number).map_err(HelperError::Inherited)
}

/// Why a helper could not even begin: it was not started by this program.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It takes three numbers.
    #[error("This is not a verb to be called by hand")]
    Arguments,
    /// They are no open descriptors.
    #[error("A descriptor that should have been inherited is not there")]
    Inherited(#[source] io::Error),
    /// Who started it is gone.
    #[error("The process that started this one is gone")]
    Caller(#[source] io::Error),
    /// The job is not one.
    #[error("The job cannot be read")]
    Job(#[source] serde_json::Error),
}
