//! The agent's connection to its monitor, for as long as the guest lives: ends of processes go out,
//! and the host's words come in: that the machine is about to be saved, that files be forgotten, that
//! somebody has sent the container a signal.

use std::io;

use cofferdam_protocol::bounds::{HOST_CID, LIFELINE_PORT};
use cofferdam_protocol::lifeline::{FORGET, LifelineFrame, RESUME, SUSPEND, signal_in};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::agent::Agent;

/// Connects to the host and says that the agent serves.
///
/// # Errors
/// When nobody is there.
pub(crate) async fn connect() -> io::Result<VsockStream> {
    let host = u32::try_from(HOST_CID).map_err(io::Error::other)?;
    let mut lifeline = VsockStream::connect(VsockAddr::new(host, LIFELINE_PORT)).await?;
    lifeline.write_all(&LifelineFrame::ready().to_bytes()).await?;
    Ok(lifeline)
}

/// Tells the host of ends, and does what it says, until it hangs up.
pub(crate) async fn hold(
    mut lifeline: VsockStream,
    mut exits: mpsc::UnboundedReceiver<LifelineFrame>,
    agent: Agent,
) {
    let mut word = [0];
    loop {
        let done = tokio::select! {
            Some(frame) = exits.recv() => lifeline.write_all(&frame.to_bytes()).await,
            read = lifeline.read(&mut word) => match (read, word) {
                (Ok(1), [SUSPEND]) => suspend(&mut lifeline, &mut exits, &agent).await,
                // What cannot be done is asked for again, and nobody waits for it.
                (Ok(1), [FORGET]) => {
                    let _ = agent.forget_files();
                    Ok(())
                }
                // It was late: everything goes on already.
                (Ok(1), [RESUME]) => Ok(()),
                (Ok(1), [other]) => match signal_in(other) {
                    // One that has just ended takes no signal any more.
                    Some(signal) => {
                        let _ = agent.signal_first(signal);
                        Ok(())
                    }
                    None => return,
                },
                // The host hung up.
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

/// From the word to suspend until the machine goes on, in whatever life.
async fn suspend(
    lifeline: &mut VsockStream,
    exits: &mut mpsc::UnboundedReceiver<LifelineFrame>,
    agent: &Agent,
) -> io::Result<()> {
    let suspended = agent.suspend().await;
    // What ended before is told before.
    while let Ok(frame) = exits.try_recv() {
        lifeline.write_all(&frame.to_bytes()).await?;
    }
    let answer = LifelineFrame::Suspended { still: suspended.is_some() };
    lifeline.write_all(&answer.to_bytes()).await?;
    let Some(suspended) = suspended else { return Ok(()) };
    if sleep_until_resumed(lifeline)? {
        agent.resume(suspended);
    } else {
        agent.restored();
        *lifeline = connect().await?;
    }
    Ok(())
}

/// Stops the thread until the host says that it goes on. False: the lifeline broke, which ends with
/// its machine.
fn sleep_until_resumed(lifeline: &VsockStream) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(lifeline, PollFlags::IN)], None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut word = [0];
        match rustix::io::read(lifeline, &mut word) {
            Ok(1) if word == [RESUME] => return Ok(true),
            Ok(1..) | Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => return Ok(false),
        }
    }
}
