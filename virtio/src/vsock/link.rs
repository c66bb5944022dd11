//! The guest's side of the muxer: its two queues, packet by packet.
//!
//! Hostile: descriptors and headers. A packet that is shorter than its header says is dropped, a
//! buffer that holds no header is returned empty.

use super::packet::{HEADER_BYTES, Header, Operation, TYPE_STREAM};
use crate::device::Activation;
use crate::memory::GuestRam;
use crate::queue::{BrokenQueue, DeviceQueue};
use crate::saved::QueuePosition;
use crate::slices::Slices;
use cofferdam_protocol::bounds::{GUEST_CID, HOST_CID};

/// Host to guest.
pub(super) const RECEIVE_QUEUE: usize = 0;
/// Guest to host.
pub(super) const TRANSMIT_QUEUE: usize = 1;
/// Host to guest: what happened to the device.
pub(super) const EVENT_QUEUE: usize = 2;
/// The event that every connection is over (virtio 1.2, section 5.10.6.7): a `u32` of zero.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// How an attempt to send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// With this many bytes of payload.
    Packet(u32),
    /// There was nothing to send after all; the buffer is kept.
    Nothing,
    /// The guest has no buffer ready; [`Link::starved`] until it has.
    NoBuffer,
}

/// The queues of a device in service.
pub(super) struct Link {
    activation: Box<Activation>,
    starved: bool,
    received: bool,
    transmitted: bool,
}

impl Link {
    /// Takes the queues into service; `None` when the device has not all of them.
    pub(super) fn new(activation: Box<Activation>) -> Option<Self> {
        let complete = activation.queues.len() > TRANSMIT_QUEUE;
        complete.then_some(Self { activation, starved: false, received: false, transmitted: false })
    }

    /// The queue with this number, [`RECEIVE_QUEUE`] or [`TRANSMIT_QUEUE`].
    pub(super) fn queue(&self, number: usize) -> &DeviceQueue {
        &self.activation.queues[number]
    }

    /// How far each queue is served.
    pub(super) fn positions(&self) -> Vec<QueuePosition> {
        self.activation.queues.iter().map(DeviceQueue::position).collect()
    }

    /// Tells the driver that every connection is over. False when it has no buffer for it.
    pub(super) fn announce_reset(&mut self) -> Result<bool, BrokenQueue> {
        let Activation { memory, queues, interrupt, .. } = &mut *self.activation;
        let memory: &GuestRam = memory;
        let Some(queue) = queues.get_mut(EVENT_QUEUE) else { return Ok(false) };
        let Some(chain) = queue.pop(memory)? else { return Ok(false) };
        let head = chain.head_index();
        let put = Slices::writable(memory, chain).is_ok_and(|mut room| room.put(&TRANSPORT_RESET));
        let written = if put { TRANSPORT_RESET.len() as u32 } else { 0 };
        queue.push(memory, head, written)?;
        interrupt.used_buffer();
        Ok(put)
    }

    /// Whether the guest has given no buffer since [`Sent::NoBuffer`].
    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    /// The guest has given buffers.
    pub(super) fn fed(&mut self) {
        self.queue(RECEIVE_QUEUE).take_notification();
        self.starved = false;
    }

    /// The driver must reset the device.
    pub(super) fn fail(&self) {
        self.activation.interrupt.needs_reset();
    }

    /// Sends one packet: `fill` puts at most `limit` bytes of payload in place and says how many,
    /// or that there are none to send; `header` is then asked for the header.
    pub(super) fn send(
        &mut self,
        limit: usize,
        fill: impl FnOnce(&mut Slices<'_>) -> Option<usize>,
        header: impl FnOnce(u32) -> Header,
    ) -> Result<Sent, BrokenQueue> {
        let Activation { memory, queues, .. } = &mut *self.activation;
        let memory: &GuestRam = memory;
        let queue = &mut queues[RECEIVE_QUEUE];
        let (head, mut room) = loop {
            let Some(chain) = queue.pop(memory)? else {
                if queue.rearm(memory)? {
                    continue;
                }
                self.starved = true;
                return Ok(Sent::NoBuffer);
            };
            let head = chain.head_index();
            match Slices::writable(memory, chain) {
                Ok(room) if room.len() >= HEADER_BYTES => break (head, room),
                _ => queue.push(memory, head, 0)?,
            }
        };
        let mut payload = room.clone();
        payload.advance(HEADER_BYTES);
        payload.truncate(limit);
        let Some(count) = fill(&mut payload).and_then(|count| u32::try_from(count).ok()) else {
            queue.undo_pop();
            return Ok(Sent::Nothing);
        };
        let _fits = room.put(&Header { length: count, ..header(count) }.to_bytes());
        queue.push(memory, head, count.saturating_add(HEADER_BYTES as u32))?;
        self.received = true;
        Ok(Sent::Packet(count))
    }

    /// Takes the next packet that the guest sends and shows it, with exactly as much payload as
    /// its header says, to `receive`. False when there is none.
    pub(super) fn receive(
        &mut self,
        receive: impl FnOnce(Header, Slices<'_>),
    ) -> Result<bool, BrokenQueue> {
        let Activation { memory, queues, .. } = &mut *self.activation;
        let memory: &GuestRam = memory;
        let queue = &mut queues[TRANSMIT_QUEUE];
        let chain = loop {
            if let Some(chain) = queue.pop(memory)? {
                break chain;
            }
            if !queue.rearm(memory)? {
                return Ok(false);
            }
        };
        let head = chain.head_index();
        if let Ok(mut slices) = Slices::readable(memory, chain) {
            queue.count_read(slices.len());
            let mut bytes = [0; HEADER_BYTES];
            let complete = slices.take(&mut bytes);
            let header = Header::from_bytes(&bytes);
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            if complete && slices.len() >= length {
                slices.truncate(length);
                receive(header, slices);
            }
        }
        queue.push(memory, head, 0)?;
        self.transmitted = true;
        Ok(true)
    }

    /// One interrupt for all that happened since the last call, if the driver wants one.
    pub(super) fn interrupt(&mut self) -> Result<(), BrokenQueue> {
        let Activation { memory, queues, interrupt, .. } = &mut *self.activation;
        let received = std::mem::take(&mut self.received);
        let transmitted = std::mem::take(&mut self.transmitted);
        let wanted = (received && queues[RECEIVE_QUEUE].wants_interrupt(memory)?)
            | (transmitted && queues[TRANSMIT_QUEUE].wants_interrupt(memory)?);
        if wanted {
            interrupt.used_buffer();
        }
        Ok(())
    }
}

/// A header from us to the guest, with neither payload nor room to announce.
pub(super) fn header(ports: Ports, operation: Operation) -> Header {
    Header {
        source_cid: HOST_CID,
        destination_cid: GUEST_CID,
        source_port: ports.host,
        destination_port: ports.guest,
        length: 0,
        socket_type: TYPE_STREAM,
        operation,
        flags: 0,
        buffer: 0,
        forwarded: 0,
    }
}
