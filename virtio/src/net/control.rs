//! The control queue (virtio 1.2, section 5.1.6.5): how many pairs of queues the driver uses. It is
//! the only thing that can be asked for here; all else is refused.
//!
//! Hostile: all of it. Bounds: commands in one go; as much of a command is read as there is of one
//! that is understood.

use crate::chain::Chain;
use crate::memory::{Bytes as _, GuestRam};
use crate::queue::{BrokenQueue, DeviceQueue};

/// In one go, before others get their turn. Drivers wait for each answer.
const MAX_COMMANDS_IN_ONE_GO: usize = 4;

/// Class, command, and a number of 16 bits.
const COMMAND_BYTES: usize = 4;
const CLASS_PAIRS: u8 = 4;
const SET_PAIRS: u8 = 0;

const OK: u8 = 0;
const REFUSED: u8 = 1;

/// Does what the driver asks for, of which it has `pairs` at most; true when it wants to hear of it.
pub(super) fn serve(
    queue: &mut DeviceQueue,
    memory: &GuestRam,
    pairs: usize,
    in_use: &mut usize,
) -> Result<bool, BrokenQueue> {
    let mut served = 0;
    while served < MAX_COMMANDS_IN_ONE_GO {
        if let Some(chain) = queue.pop(memory)? {
            let head = chain.head_index();
            let wanted =
                command(chain.clone(), memory).and_then(|bytes| pairs_wanted(bytes, pairs));
            let written = answer(chain, memory, if wanted.is_some() { OK } else { REFUSED });
            *in_use = wanted.unwrap_or(*in_use);
            queue.push(memory, head, written)?;
            served += 1;
        } else if !queue.rearm(memory)? {
            break;
        }
    }
    if served == MAX_COMMANDS_IN_ONE_GO {
        queue.call_again();
    }
    Ok(served > 0 && queue.wants_interrupt(memory)?)
}

/// How many pairs a command says, if there are as many.
fn pairs_wanted(command: [u8; COMMAND_BYTES], pairs: usize) -> Option<usize> {
    let [CLASS_PAIRS, SET_PAIRS, low, high] = command else { return None };
    Some(usize::from(u16::from_le_bytes([low, high]))).filter(|wanted| (1..=pairs).contains(wanted))
}

/// A command's bytes, however they are cut into pieces.
fn command(chain: Chain<'_>, memory: &GuestRam) -> Option<[u8; COMMAND_BYTES]> {
    let mut bytes = [0; COMMAND_BYTES];
    let mut done = 0;
    for descriptor in chain.readable() {
        let length = usize::try_from(descriptor.len()).ok()?.min(COMMAND_BYTES - done);
        memory.read_slice(bytes.get_mut(done..done + length)?, descriptor.addr()).ok()?;
        done += length;
    }
    (done == COMMAND_BYTES).then_some(bytes)
}

/// Writes the answer into the first byte that is there for it; how many bytes were written.
fn answer(chain: Chain<'_>, memory: &GuestRam, answer: u8) -> u32 {
    let place = chain.writable().find(|descriptor| descriptor.len() > 0);
    let written = place.map(|place| memory.write_obj(answer, place.addr()));
    u32::from(written.is_some_and(|written| written.is_ok()))
}
