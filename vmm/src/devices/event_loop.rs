//! The loop itself: waits, hands each event to its owner, and tells the main thread what matters.
//!
//! ```text
//!  booting ──lifeline: Ready──▶ up ──Exit of the process that ends the sandbox──▶ ending
//!     └──────────── lifeline broken ──────┴──▶ lost (terminal)      output written ──▶ ended
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Instant;

use cofferdam_protocol::boot::BootStage;
use cofferdam_protocol::bounds::{AGENT_RPC_PORT, CHANGES_PORT, NAMES_PORT};
use cofferdam_protocol::control::{
    Attach, AttachCommand, AttachDisk, AttachNetwork, CheckpointCommand, ControlRequest,
    ControlResponse, Statistics,
};
use cofferdam_protocol::id::ProcessToken;
use cofferdam_protocol::lifeline::{FORGET, RESUME, SUSPEND};
use cofferdam_protocol::monitor_metrics::MonitorMetrics;
use cofferdam_virtio::poll::{Events, Poller, Readiness, Token};
use cofferdam_virtio::rng::Rng;
use cofferdam_virtio::vsock::{Endpoint, Vsock, VsockEvent};

use super::checkpoint::{self, Checkpoint};
use super::client::Received;
use super::control::{ClientId, Control, Phase};
use super::disks::Disks;
use super::forwards::Forwards;
use super::lifeline::{Exit, Lifeline, LifelineError, News};
use super::names::{Names, Way};
use super::network::Network;
use super::signals::Signals;
use super::statistics::{Resident, ResidentSource};
use super::streams::Streams;
use crate::figures::Figures;
use crate::happening::Happening;
use crate::machine::hot_memory::HotMemory;
use crate::machine::kvm_statistics::KvmStatistics;
use crate::report::chain;
use crate::snapshot::{OwnDevices, Saver};

const UNKNOWN_COMMAND: &str = "The command is not one of this version";

/// Who owns a descriptor in the poller.
pub mod owner {
    /// The entropy device.
    pub const RNG: u32 = 1;
    /// The socket device.
    pub const VSOCK: u32 = 2;
    /// The control socket.
    pub const CONTROL: u32 = 3;
    /// The descriptor of signals.
    pub const SIGNALS: u32 = 4;
    /// The event of a file server with little room.
    pub const CROWDED: u32 = 5;
    /// The sockets of questions for names.
    pub const NAMES: u32 = 6;
    /// The sockets of connections that are carried into the guest.
    pub const FORWARDS: u32 = 7;
    /// The first network device; the others come after it.
    pub const FIRST_NETWORK: u32 = 16;
}

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The poller failed.
    #[error("The device loop cannot wait")]
    Wait(#[source] io::Error),
    /// The guest broke its lifeline's rules.
    #[error("The guest broke the protocol")]
    Lifeline(#[from] LifelineError),
    /// The lifeline is gone, and the agent with it.
    #[error("The agent closed its lifeline")]
    LifelineClosed,
}

/// What the loop works on.
pub struct Devices {
    /// Where everything is registered.
    pub poller: Arc<Poller>,
    /// The entropy device's worker.
    pub rng: Rng,
    /// The socket device's worker.
    pub vsock: Vsock,
    /// The control socket.
    pub control: Control,
    /// What is sent to the monitor.
    pub signals: Signals,
    /// What the file server tells the agent, until they are connected.
    pub changes: Option<OwnedFd>,
    /// Raised when the guest should forget files.
    pub crowded: OwnedFd,
    /// Memory that comes and goes.
    pub hot_memory: HotMemory,
    /// Network devices that come, if there is room for any.
    pub network: Option<Network>,
    /// Disks that come, if there is room for any.
    pub disks: Option<Disks>,
    /// Memory figures.
    pub resident: ResidentSource,
    /// Saves the machine.
    pub saver: Saver,
    /// What the other threads count.
    pub figures: Arc<Figures>,
    /// What KVM counts.
    pub kvm: KvmStatistics,
    /// The main thread's ear.
    pub happenings: Sender<Happening>,
}

/// The loop's own state.
struct Loop {
    devices: Devices,
    lifeline: Lifeline,
    streams: Streams,
    ending: Option<(ProcessToken, Exit)>,
    checkpoint: Option<Checkpoint>,
    names: Option<Names>,
    forwards: Option<Forwards>,
}

impl Devices {
    /// Runs the loop. It ends only when the guest is lost.
    pub fn run(self) -> DevicesError {
        let mut state = Loop {
            devices: self,
            lifeline: Lifeline::default(),
            streams: Streams::default(),
            ending: None,
            checkpoint: None,
            names: None,
            forwards: None,
        };
        let mut events = Events::new();
        loop {
            if let Err(error) = state.turn(&mut events) {
                return error;
            }
        }
    }
}

impl Loop {
    /// Waits once and handles what is ready.
    fn turn(&mut self, events: &mut Events) -> Result<(), DevicesError> {
        let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let poller = Arc::clone(&self.devices.poller);
        for (token, readiness) in poller.wait(events, timeout).map_err(DevicesError::Wait)? {
            self.dispatch(*token, *readiness)?;
        }
        if timeout.is_some() {
            let now = Instant::now();
            self.devices.vsock.expire(now);
            self.devices.control.expire(now);
            self.streams.expire(now);
            self.hear_vsock()?;
        }
        self.pass_signals_on();
        self.answer_drained();
        self.end_when_drained();
        self.advance_checkpoint();
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let checkpoint = self.checkpoint.as_ref().and_then(Checkpoint::deadline);
        let (vsock, control) = (self.devices.vsock.deadline(), self.devices.control.deadline());
        let deadlines = [vsock, control, checkpoint, self.streams.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn dispatch(&mut self, token: Token, readiness: Readiness) -> Result<(), DevicesError> {
        match token.owner {
            owner::RNG => self.devices.rng.handle(token, readiness),
            owner::VSOCK => {
                self.devices.vsock.handle(token, readiness);
                self.hear_vsock()?;
            }
            owner::CONTROL => {
                if let Some((id, phase, received)) = self.devices.control.handle(token) {
                    self.serve(id, phase, received);
                    self.hear_vsock()?;
                }
            }
            owner::SIGNALS => {
                self.take_signals();
            }
            owner::CROWDED => self.make_room(),
            owner::NAMES => self.advance_names(token),
            owner::FORWARDS => {
                if let Some(forwards) = &mut self.forwards {
                    forwards.take(token, &mut self.devices.vsock);
                    self.hear_vsock()?;
                }
            }
            owner::FIRST_NETWORK.. => {
                if let Some(network) = &mut self.devices.network {
                    network.handle(token, readiness);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn advance_names(&mut self, token: Token) {
        if self.names.as_mut().is_some_and(|names| names.handle(token) == Way::Over) {
            self.names = None;
        }
    }

    /// What changes the size of the container's terminal has no other meaning.
    fn take_signals(&mut self) {
        self.devices.signals.take();
        let resize = nix::libc::SIGWINCH.cast_unsigned();
        if self.streams.has_terminal() && self.devices.signals.withdraw(resize) {
            self.streams.resized();
        }
    }

    /// What arrives before there is an agent, or while the machine is being saved, waits.
    fn pass_signals_on(&mut self) {
        if self.lifeline.is_up() && self.checkpoint.is_none() {
            let words = self.devices.signals.words();
            if !words.is_empty() {
                self.devices.vsock.tell(&words);
            }
        }
    }

    /// A guest without an agent yet has used few files; the server asks again.
    fn make_room(&mut self) {
        // It has been raised, so there is something to read.
        let _ = rustix::io::read(&self.devices.crowded, &mut [0; 8]);
        if self.lifeline.is_up() && self.checkpoint.is_none() {
            self.devices.vsock.tell(&[FORGET]);
        }
    }

    fn hear_vsock(&mut self) -> Result<(), DevicesError> {
        while let Some(event) = self.devices.vsock.next_event() {
            match event {
                VsockEvent::DriverReady => {
                    self.tell(Happening::Reached(BootStage::Devices, Instant::now()));
                }
                VsockEvent::Connected(_) => {}
                VsockEvent::Refused(id) | VsockEvent::Closed(id) => {
                    self.streams.closed(id);
                    if let Some(forwards) = &mut self.forwards {
                        forwards.closed(id);
                    }
                }
                VsockEvent::LifelineFrame(frame) => match self.lifeline.take(frame)? {
                    News::Ready => self.agent_ready(),
                    News::Exit(process, exit) => self.process_ended(process, exit),
                    News::Suspended { still } => self.suspended(still),
                },
                VsockEvent::LifelineClosed if self.ending.is_some() => {}
                VsockEvent::LifelineClosed => return Err(DevicesError::LifelineClosed),
            }
        }
        Ok(())
    }

    fn agent_ready(&mut self) {
        self.tell(Happening::Reached(BootStage::Ready, Instant::now()));
        if let Some(changes) = self.devices.changes.take() {
            // An agent that does not take it hears of no changes.
            let _ = self.devices.vsock.connect(CHANGES_PORT, Endpoint::Stream(changes), &[]);
        }
    }

    fn process_ended(&mut self, process: ProcessToken, exit: Exit) {
        if self.streams.ends_sandbox(process) {
            self.ending = Some((process, exit));
            self.tell(Happening::Ending);
        } else {
            self.lifeline.keep(process, exit);
        }
    }

    /// The main thread outlives this one, so it always hears.
    fn tell(&self, happening: Happening) {
        let _ = self.devices.happenings.send(happening);
    }

    fn serve(&mut self, id: ClientId, phase: Phase, received: Received) {
        match phase {
            Phase::Request(_) => match serde_json::from_slice(&received.body) {
                Ok(request) => self.serve_request(id, request, received.descriptors),
                Err(_) => self.refuse(id, "The request is not one of this version".to_owned()),
            },
            Phase::Attached(process) | Phase::Draining(process) => {
                match serde_json::from_slice(&received.body) {
                    Ok(AttachCommand::Drain) => {
                        self.devices.control.set_phase(id, Phase::Draining(process));
                    }
                    Err(_) => self.refuse(id, UNKNOWN_COMMAND.to_owned()),
                }
            }
            Phase::Saving => match serde_json::from_slice(&received.body) {
                Ok(CheckpointCommand::Resume) => self.resume_saved(id),
                Err(_) => self.refuse(id, UNKNOWN_COMMAND.to_owned()),
            },
        }
    }

    fn serve_request(&mut self, id: ClientId, request: ControlRequest, descriptors: Vec<OwnedFd>) {
        match request {
            ControlRequest::Statistics => {
                let answer = self.statistics();
                self.devices.control.dismiss(id, &answer);
            }
            ControlRequest::Metrics => {
                let answer = self.metrics();
                self.devices.control.dismiss(id, &answer);
            }
            _ if !self.lifeline.is_up() => self.refuse(id, "The agent is not up".to_owned()),
            _ if self.checkpoint.is_some() => {
                self.refuse(id, "The machine is being saved".to_owned());
            }
            ControlRequest::Checkpoint => self.begin_checkpoint(id, descriptors),
            ControlRequest::SetMemoryBlocks(blocks) => self.set_memory_blocks(id, blocks),
            ControlRequest::AttachNetwork(network) => {
                self.attach_network(id, network, descriptors);
            }
            ControlRequest::DetachNetwork(device) => self.detach_network(id, device),
            ControlRequest::AttachDisk(disk) => self.attach_disk(id, disk, descriptors),
            ControlRequest::DetachDisk(device) => self.detach_disk(id, device),
            ControlRequest::ServeNames => self.serve_names(id, descriptors),
            ControlRequest::Forward => self.forward(id, descriptors),
            ControlRequest::ConnectAgent => self.connect_agent(id),
            ControlRequest::Attach(attach) => self.attach(id, attach, descriptors),
        }
    }

    /// Has the agent suspend; the rest follows as it comes.
    fn begin_checkpoint(&mut self, id: ClientId, descriptors: Vec<OwnedFd>) {
        if self.ending.is_some() {
            return self.refuse(id, "The container has ended".to_owned());
        }
        if self.devices.saver.bus.slots.in_use() {
            return self
                .refuse(id, "A machine with devices that came later cannot be saved".to_owned());
        }
        if self.forwards.is_some() {
            return self.refuse(id, "A machine with forwarded ports cannot be saved".to_owned());
        }
        let Some(checkpoint) = Checkpoint::begin(id, descriptors, Instant::now()) else {
            return self.refuse(id, "A checkpoint comes with two descriptors".to_owned());
        };
        self.checkpoint = Some(checkpoint);
        self.devices.control.set_phase(id, Phase::Saving);
        self.devices.vsock.hold(true);
        self.devices.vsock.tell(&[SUSPEND]);
    }

    fn suspended(&mut self, still: bool) {
        // An answer that nobody waits for any more: the agent has been told to go on.
        let Some(checkpoint) = &mut self.checkpoint else { return };
        if checkpoint.suspended(still, Instant::now()) {
            self.devices.vsock.ask();
        } else {
            self.give_up("The container's processes do not stand still in time".to_owned());
        }
    }

    fn advance_checkpoint(&mut self) {
        let Some(checkpoint) = &self.checkpoint else { return };
        if !self.devices.control.has(checkpoint.client) {
            self.end_checkpoint();
        } else if let Some(late) = checkpoint.overdue(Instant::now()) {
            self.give_up(late.to_owned());
        } else if matches!(checkpoint.phase, checkpoint::Phase::Settling(_))
            && self.devices.vsock.settled()
        {
            self.save();
        }
    }

    fn save(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let Devices { vsock, rng, saver, .. } = &self.devices;
        let positions = [vsock.positions(), rng.positions()];
        let own = OwnDevices { positions, vsock: vsock.save() };
        match saver.save(own, &checkpoint.memory, &checkpoint.state) {
            Ok(()) => {
                checkpoint.phase = checkpoint::Phase::Saved;
                let client = checkpoint.client;
                self.devices.control.answer(client, &ControlResponse::Saved);
            }
            Err(error) => self.give_up(chain(&error)),
        }
    }

    fn resume_saved(&mut self, id: ClientId) {
        self.end_checkpoint();
        self.devices.control.dismiss(id, &ControlResponse::Done);
    }

    fn give_up(&mut self, reason: String) {
        let client = self.checkpoint.as_ref().map(|checkpoint| checkpoint.client);
        self.end_checkpoint();
        if let Some(client) = client {
            self.refuse(client, reason);
        }
    }

    /// Everything goes on.
    fn end_checkpoint(&mut self) {
        if let Some(checkpoint) = self.checkpoint.take() {
            if checkpoint.phase == checkpoint::Phase::Saved {
                self.devices.saver.let_go();
            }
            self.devices.vsock.tell(&[RESUME]);
            self.devices.vsock.hold(false);
        }
    }

    fn set_memory_blocks(&mut self, id: ClientId, blocks: u32) {
        match self.devices.hot_memory.set_blocks(blocks) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(first_block) => {
                self.devices.control.dismiss(id, &ControlResponse::Memory { first_block });
            }
        }
    }

    fn attach_network(&mut self, id: ClientId, request: AttachNetwork, taps: Vec<OwnedFd>) {
        let Some(network) = &mut self.devices.network else {
            return self.refuse(id, "The machine has no room for a network device".to_owned());
        };
        match network.attach(request, taps) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(device) => self.devices.control.dismiss(id, &ControlResponse::Network { device }),
        }
    }

    fn detach_network(&mut self, id: ClientId, device: u32) {
        match self.devices.network.as_mut().map_or(Ok(()), |network| network.detach(device)) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(()) => self.devices.control.dismiss(id, &ControlResponse::Done),
        }
    }

    fn attach_disk(&mut self, id: ClientId, request: AttachDisk, descriptors: Vec<OwnedFd>) {
        let Some(disks) = &mut self.devices.disks else {
            return self.refuse(id, "The machine has no room for a disk".to_owned());
        };
        match disks.attach(request, descriptors) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(device) => self.devices.control.dismiss(id, &ControlResponse::Disk { device }),
        }
    }

    fn detach_disk(&mut self, id: ClientId, device: u32) {
        match self.devices.disks.as_mut().map_or(Ok(()), |disks| disks.detach(device)) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(()) => self.devices.control.dismiss(id, &ControlResponse::Done),
        }
    }

    /// Those who asked before on another way ask again on this one.
    fn serve_names(&mut self, id: ClientId, descriptors: Vec<OwnedFd>) {
        let Ok([server, ours, theirs]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return self.refuse(id, "Names come with three descriptors".to_owned());
        };
        let opened = Names::open(Arc::clone(&self.devices.poller), owner::NAMES, server, ours);
        let connected = opened.map_err(|error| error.to_string()).and_then(|names| {
            let connected = self.devices.vsock.connect(NAMES_PORT, Endpoint::Stream(theirs), &[]);
            connected.map(|_| names).map_err(|error| error.to_string())
        });
        match connected {
            Err(reason) => self.refuse(id, reason),
            Ok(names) => {
                self.names = Some(names);
                self.devices.control.dismiss(id, &ControlResponse::Done);
            }
        }
    }

    fn forward(&mut self, id: ClientId, mut descriptors: Vec<OwnedFd>) {
        if self.forwards.is_some() {
            return self.refuse(id, "Connections are carried into the guest already".to_owned());
        }
        if !(2..=3).contains(&descriptors.len()) {
            return self.refuse(id, "Forwarding comes with two or three descriptors".to_owned());
        }
        let link = descriptors.remove(0);
        let poller = Arc::clone(&self.devices.poller);
        match Forwards::open(poller, owner::FORWARDS, link, descriptors) {
            Err(error) => self.refuse(id, error.to_string()),
            Ok(forwards) => {
                self.forwards = Some(forwards);
                self.devices.control.dismiss(id, &ControlResponse::Done);
            }
        }
    }

    fn refuse(&mut self, id: ClientId, reason: String) {
        self.devices.control.dismiss(id, &ControlResponse::Refused(reason));
    }

    fn statistics(&self) -> ControlResponse {
        match self.devices.resident.read() {
            Ok(resident) => ControlResponse::Statistics(Statistics {
                monitor_kib: resident.monitor_kib,
                guest_kib: resident.guest_kib,
                exits: self.devices.figures.exits.sum(),
                boot_us: self.devices.figures.boot_us.load(Ordering::Relaxed),
            }),
            Err(error) => ControlResponse::Refused(format!("The figures cannot be read: {error}")),
        }
    }

    fn metrics(&self) -> ControlResponse {
        let Devices { resident, saver, figures, kvm, .. } = &self.devices;
        match resident.read() {
            Ok(Resident { monitor_kib, guest_kib }) => ControlResponse::Metrics(MonitorMetrics {
                monitor_kib,
                guest_kib,
                monitor_exits: figures.exits.now(),
                kvm_exits: kvm.exits(),
                devices: saver.bus.device_metrics(),
            }),
            Err(error) => ControlResponse::Refused(format!("The figures cannot be read: {error}")),
        }
    }

    /// The answer goes first: after it the connection's bytes are the agent's. An agent that does
    /// not take the connection ends it, which the client sees.
    fn connect_agent(&mut self, id: ClientId) {
        self.devices.control.answer(id, &ControlResponse::Done);
        if let Some(socket) = self.devices.control.release(id) {
            // An error has closed the socket: the same end for the client.
            let _ = self.devices.vsock.connect(AGENT_RPC_PORT, Endpoint::Stream(socket), &[]);
        }
    }

    fn attach(&mut self, id: ClientId, attach: Attach, descriptors: Vec<OwnedFd>) {
        match self.streams.attach(attach, descriptors, &mut self.devices.vsock) {
            Err(error) => self.refuse(id, chain(&error)),
            Ok(()) => {
                self.devices.control.set_phase(id, Phase::Attached(attach.process));
                self.devices.control.answer(id, &ControlResponse::Done);
                if let Some(exit) = self.lifeline.claim(attach.process) {
                    self.process_ended(attach.process, exit);
                }
            }
        }
    }

    fn answer_drained(&mut self) {
        for (id, process) in self.devices.control.draining() {
            if self.streams.drained(process, &self.devices.vsock) {
                self.devices.control.set_phase(id, Phase::Attached(process));
                self.devices.control.answer(id, &ControlResponse::Drained);
            }
        }
    }

    fn end_when_drained(&mut self) {
        let Some((process, Exit { code, oom })) = self.ending else { return };
        if self.streams.drained(process, &self.devices.vsock) {
            self.tell(Happening::Ended { code, oom });
        }
    }
}
