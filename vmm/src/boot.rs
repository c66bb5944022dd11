//! The boot: a list of phases, each made from the one before.
//!
//! ```text
//!  Inheritance ─▶ Confined ─▶ Loaded ─▶ Equipped ─▶ Watch (the guest runs)
//!    config,       the jail's   VM, RAM,   devices,
//!    descriptors   walls        kernel     their threads
//! ```
//!
//! A phase that fails ends the monitor with a boot report that names the stage.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cofferdam_protocol::boot::BootStage;
use cofferdam_protocol::vm_config::{FILE_SERVER_THREAD, ShareKind, VmConfig};
use cofferdam_virtio::device::VirtioDevice;
use cofferdam_virtio::fs::{AttachedFs, FsConfig, FsDevice, FsError, FsSaver, FsServer};
use cofferdam_virtio::mmio::{MmioTransport, RegisterPage, RegisterPages};
use cofferdam_virtio::poll::{Interest, Poller, Token};
use cofferdam_virtio::{fs, rng, vsock};
use kvm_ioctls::VcpuFd;
use nix::sys::signal::{SigSet, Signal};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console::Console;
use crate::crew::{Crew, CrewError};
use crate::descriptors::{self, Inheritance, SavedFiles};
use crate::devices::control::Control;
use crate::devices::disks::{self, Disks};
use crate::devices::event_loop::{Devices, owner};
use crate::devices::network::Network;
use crate::devices::signals::Signals;
use crate::devices::statistics::ResidentSource;
use crate::devices::wiring::Wiring;
use crate::figures::Figures;
use crate::file_server;
use crate::happening::Happening;
use crate::jail::landlock::{self, Enforcement, LandlockError};
use crate::jail::limits::{self, LimitError};
use crate::jail::privileges::{self, PrivilegeError};
use crate::jail::root::{self, Luggage, RootError};
use crate::jail::seccomp::Role;
use crate::locking::lock;
use crate::log;
use crate::machine::command_line::Processors;
use crate::machine::hot_memory::HotMemory;
use crate::machine::initramfs::{self, InitramfsError};
use crate::machine::kernel_image::{KernelImage, KernelImageError};
use crate::machine::kvm::{CapableKvm, KvmError, Vm, set_entry};
use crate::machine::kvm_statistics::KvmStatistics;
use crate::machine::layout::{self, MemoryLayout};
use crate::machine::memory::{self, Memory, MemoryError};
use crate::machine::vcpu_state::VcpuStateError;
use crate::machine::{boot_params, command_line, memory_file, mptable, registers};
use crate::parking::Parking;
use crate::report::{BootClock, chain};
use crate::slots::Slots;
use crate::snapshot::{MachineState, Saver, SnapshotError};
use crate::sys;
use crate::vcpu::{self, Bus, Saving};
use crate::watch::{BOOT_FAILED, Outlets, Watch};

/// Why a guest does not come to its first instruction.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// KVM.
    #[error("KVM cannot serve")]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error("Guest memory cannot be set up")]
    Memory(#[from] MemoryError),
    /// The kernel.
    #[error("The guest kernel cannot be loaded")]
    Kernel(#[from] KernelImageError),
    /// The first file system.
    #[error("The guest's initramfs cannot be loaded")]
    Initramfs(#[from] InitramfsError),
    /// A device.
    #[error("A device cannot be made")]
    Device(#[source] std::io::Error),
    /// The threads.
    #[error("The monitor's threads cannot be set to work")]
    Crew(#[from] CrewError),
    /// A wall of the jail.
    #[error("The monitor cannot leave the host's files")]
    Root(#[from] RootError),
    /// A wall of the jail.
    #[error("The monitor cannot be limited")]
    Limits(#[from] LimitError),
    /// A wall of the jail.
    #[error("The monitor cannot give up its privileges")]
    Privileges(#[from] PrivilegeError),
    /// A wall of the jail.
    #[error("The monitor cannot be kept from files")]
    Landlock(#[from] LandlockError),
    /// The file system device.
    #[error("The file system device cannot be made")]
    Fs(#[from] FsError),
    /// A machine that was saved.
    #[error("The machine cannot go on from its snapshot")]
    Snapshot(#[from] SnapshotError),
    /// A vCPU that was saved.
    #[error("A vCPU cannot go on from its snapshot")]
    VcpuState(#[from] VcpuStateError),
    /// Signals.
    #[error("Signals cannot be redirected")]
    Signals(#[source] nix::errno::Errno),
}

/// Runs one virtual machine to its end; the container's exit code.
#[must_use]
pub fn run(config: RawFd) -> ExitCode {
    let clock = BootClock::start(Instant::now());
    let code = match descriptors::inherit(config) {
        Ok(inheritance) => run_inherited(inheritance, clock),
        // There is no descriptor yet to say it on.
        Err(error) => {
            eprintln!("cofferdam-vmm: {}", chain(&error));
            BOOT_FAILED
        }
    };
    ExitCode::from(code)
}

fn run_inherited(inheritance: Inheritance, mut clock: BootClock) -> u8 {
    let Inheritance { config, report, exit_record, .. } = inheritance;
    let outlets = Outlets { report, exit_record };
    let boot_timeout = Duration::from_millis(config.boot_timeout_ms);
    if let Some(log) = inheritance.log {
        log::start(log);
    }
    let provisions = Provisions {
        config,
        kernel: inheritance.kernel,
        initramfs: inheritance.initramfs,
        kvm: inheritance.kvm,
        control: inheritance.control,
        console: inheritance.console,
        restore: inheritance.restore,
    };
    match boot(provisions, inheritance.shares, &mut clock) {
        Ok(Running { vm: _kept_open, happenings, bus }) => {
            Watch { happenings, clock, boot_timeout, outlets, bus }.run()
        }
        Err(error) => outlets.boot_failed(clock.stage(), chain(&error), String::new()),
    }
}

/// The phases, in order.
fn boot(
    provisions: Provisions,
    shares: Vec<(OwnedFd, ShareKind)>,
    clock: &mut BootClock,
) -> Result<Running, BootError> {
    let confined = Confined::enter(provisions, shares)?;
    clock.reach(BootStage::Load, Instant::now());
    let loaded = confined.load()?;
    let equipped = loaded.equip()?;
    clock.reach(BootStage::Kernel, Instant::now());
    equipped.start()
}

/// What a boot is made from.
struct Provisions {
    config: VmConfig,
    kernel: File,
    initramfs: File,
    kvm: OwnedFd,
    control: OwnedFd,
    console: Option<File>,
    restore: Option<SavedFiles>,
}

/// The monitor is behind its walls, but for the seccomp filters. The file server's thread is on
/// its way behind its own.
struct Confined {
    provisions: Provisions,
    smaps: File,
    signals: Signals,
    fs_device: FsDevice,
    files: FsSaver,
    crowded: OwnedFd,
    saved: Option<MachineState>,
    /// Where the file server says what the host changes, if it shares more than the root.
    changes: Option<OwnedFd>,
    crew: Crew,
    happenings: Receiver<Happening>,
}

impl Confined {
    fn enter(provisions: Provisions, shares: Vec<(OwnedFd, ShareKind)>) -> Result<Self, BootError> {
        limits::apply()?;
        let signals = redirect_signals().map_err(BootError::Signals)?;
        let Luggage { proc, smaps } = root::leave_host()?;
        let (sender, happenings) = mpsc::channel();
        let mut crew = Crew::new(provisions.config.vcpus_max, sender);
        let saved = read_saved(&provisions)?;
        let places = provisions.config.pod_places;
        let (fs_device, mut server) = fs::open(file_server::TAG, FsConfig::default())?;
        let files = server.saver().map_err(BootError::Device)?;
        let crowded = server.crowded_event().map_err(BootError::Device)?;
        if let Some(saved) = &saved {
            server.restore(saved.files.clone());
        }
        // A guest that goes on has an agent that hears of nothing any more.
        let changes = match &saved {
            Some(_) => None,
            None if shares.len() > 1 || places > 0 => {
                Some(follow_host(&mut server, &mut crew, &proc)?)
            }
            None => None,
        };
        crew.spawn(FILE_SERVER_THREAD.to_owned(), Role::Fs, move || {
            let server = file_server::confine(server, shares, places, &proc)?;
            drop(proc);
            Ok(move || serve_files(server))
        })?;
        privileges::reduce_to(&[])?;
        let enforcement = landlock::deny_all()?;
        if enforcement != Enforcement::Full {
            tracing::warn!(?enforcement, "This kernel's Landlock does not know all that is denied");
        }
        Ok(Self {
            provisions,
            smaps,
            signals,
            fs_device,
            files,
            crowded,
            saved,
            changes,
            crew,
            happenings,
        })
    }

    /// Makes the VM and fills its memory.
    fn load(self) -> Result<Loaded, BootError> {
        let Provisions { config, kernel, initramfs, kvm, control, console, restore } =
            self.provisions;
        let layout = MemoryLayout::of_mib(config.memory_mib);
        let processors = Processors { first: config.vcpus, all: config.vcpus_max };
        let (memory, beginning) = match (restore, self.saved) {
            (Some(files), Some(saved)) => {
                (memory_file::map(layout, &files.memory)?, Beginning::Saved(Box::new(saved)))
            }
            _ => {
                let memory = memory::allocate(layout, config.memory_blocks_max)?;
                let slots = u32::from(config.network_slots + config.disk_slots);
                let entry = fill(&memory, layout, processors, slots, [&kernel, &initramfs])?;
                (memory, Beginning::Kernel { entry })
            }
        };
        let vm = CapableKvm::check(kvm)?.create_vm()?;
        vm.set_memory(&memory, layout.ranges().len())?;
        let (vm, memory) = (Arc::new(vm), Arc::new(memory));
        let hot_memory = HotMemory::new(Arc::clone(&vm), Arc::clone(&memory), layout);
        Ok(Loaded {
            vm,
            memory,
            hot_memory,
            beginning,
            vcpus: config.vcpus_max,
            memory_mib: config.memory_mib,
            network_slots: config.network_slots,
            disk_slots: config.disk_slots,
            control,
            console,
            smaps: self.smaps,
            signals: self.signals,
            fs_device: self.fs_device,
            files: self.files,
            crowded: self.crowded,
            changes: self.changes,
            crew: self.crew,
            happenings: self.happenings,
        })
    }
}

/// Has the file server follow what the host changes below the bind mounts, which are the shares
/// after the first; the other end of what it says.
fn follow_host(
    server: &mut FsServer,
    crew: &mut Crew,
    proc: &OwnedFd,
) -> Result<OwnedFd, BootError> {
    let (ours, theirs) = UnixStream::pair().map_err(BootError::Device)?;
    let watcher = server.follow_host(theirs.into()).map_err(BootError::Device)?;
    let proc = proc.try_clone().map_err(BootError::Device)?;
    crew.spawn("watch".to_owned(), Role::Watch, move || {
        file_server::confine_watcher(&watcher, &proc)?;
        drop(proc);
        Ok(move || chain(&watcher.run()))
    })?;
    Ok(ours.into())
}

/// The machine that goes on, if one does: read behind the first walls, before anything is made.
fn read_saved(provisions: &Provisions) -> Result<Option<MachineState>, BootError> {
    let Some(files) = &provisions.restore else { return Ok(None) };
    let saved = MachineState::read(&files.state)?;
    saved.check(provisions.config.vcpus_max, provisions.config.memory_mib, DEVICES)?;
    Ok(Some(saved))
}

/// Where the guest begins.
enum Beginning {
    /// With its kernel.
    Kernel {
        /// The kernel's first instruction.
        entry: u64,
    },
    /// Where it was saved.
    Saved(Box<MachineState>),
}

/// Puts everything into memory that the guest finds there; the kernel's first instruction.
fn fill(
    memory: &Memory,
    layout: MemoryLayout,
    processors: Processors,
    slots: u32,
    images: [&File; 2],
) -> Result<u64, BootError> {
    let [kernel, initramfs] = images;
    let image = KernelImage::open(kernel)?;
    memory::advise_huge_pages(memory, &image.range());
    image.place(kernel, memory, layout)?;
    let initramfs = initramfs::place(initramfs, memory, layout, image.range().end)?;
    let command_line = command_line::build(DEVICES as u32 + slots, processors);
    memory::write(memory, layout::COMMAND_LINE_ADDRESS, command_line.as_bytes())?;
    boot_params::write(memory, layout, command_line.len() as u32, initramfs)?;
    memory::write(memory, layout::MP_TABLE_ADDRESS, &mptable::build(processors.all))?;
    registers::write_tables(memory)?;
    Ok(image.entry())
}

/// Until the device fails; the reason.
fn serve_files(server: AttachedFs) -> String {
    match server.run() {
        Ok(()) => "The file server stopped".to_owned(),
        Err(error) => chain(&error),
    }
}

/// Signals are read from a descriptor; a reader that goes away is an error of the write. Before any
/// other thread is there, so that all inherit it.
fn redirect_signals() -> nix::Result<Signals> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGPIPE);
    blocked.thread_block()?;
    sys::ignore_interruptions()?;
    Signals::redirect()
}

/// The name of the thread that serves disks.
const DISKS_THREAD: &str = "disks";

/// How many virtio-mmio devices there are.
const DEVICES: usize = 3;

/// The machine is there, with the kernel in its memory.
struct Loaded {
    vm: Arc<Vm>,
    memory: Arc<Memory>,
    hot_memory: HotMemory,
    beginning: Beginning,
    vcpus: u8,
    memory_mib: u32,
    network_slots: u8,
    disk_slots: u8,
    control: OwnedFd,
    console: Option<File>,
    smaps: File,
    signals: Signals,
    fs_device: FsDevice,
    files: FsSaver,
    crowded: OwnedFd,
    /// Where the file server says what the host changes, if it shares more than the root.
    changes: Option<OwnedFd>,
    crew: Crew,
    happenings: Receiver<Happening>,
}

impl Loaded {
    /// Puts the devices into the machine.
    fn equip(mut self) -> Result<Equipped, BootError> {
        let poller = Arc::new(Poller::open().map_err(BootError::Device)?);
        let (rng_device, rng) =
            rng::open(Arc::clone(&poller), owner::RNG).map_err(BootError::Device)?;
        let (vsock_device, mut vsock) =
            vsock::open(Arc::clone(&poller), owner::VSOCK).map_err(BootError::Device)?;
        let devices: [Box<dyn VirtioDevice>; DEVICES] =
            [Box::new(vsock_device), Box::new(rng_device), Box::new(self.fs_device)];
        let slots = usize::from(self.network_slots + self.disk_slots);
        let registers = RegisterPages::placeholders(DEVICES + slots);
        self.vm.set_registers(&registers)?;
        let mut pages = registers.iter();
        let windows = windows(&self.vm, &self.memory, devices, &mut pages)?;
        let figures = Arc::new(Figures::default());
        let line = event().map_err(BootError::Device)?;
        self.vm.set_interrupt(&line, layout::SERIAL_IRQ)?;
        let console = match &self.beginning {
            Beginning::Kernel { .. } => Console::new(line, self.console),
            Beginning::Saved(saved) => {
                vsock.restore(saved.vsock);
                Console::restored(saved.console, line, self.console).map_err(BootError::Device)?
            }
        };
        let console = Mutex::new(console);
        let slots = Slots::new(pages);
        let device_figures = windows.iter().map(|window| lock(window).figures()).collect();
        let figures_of_bus = Arc::clone(&figures);
        let bus = Bus { console, devices: windows, device_figures, slots, figures: figures_of_bus };
        let bus = Arc::new(bus);
        hear(&poller, &self.signals, owner::SIGNALS)?;
        hear(&poller, &self.crowded, owner::CROWDED)?;
        let control = Control::open(Arc::clone(&poller), owner::CONTROL, self.control)
            .map_err(BootError::Device)?;
        let resident = ResidentSource::new(self.smaps, memory::host_ranges(&self.memory));
        let parking = Arc::new(Parking::default());
        let wiring = Wiring {
            vm: Arc::clone(&self.vm),
            bus: Arc::clone(&bus),
            memory: Arc::clone(&self.memory),
        };
        let network = (self.network_slots > 0).then(|| network(&wiring, &poller));
        let disks = (self.disk_slots > 0).then(|| serve_disks(&mut self.crew, wiring));
        let disks = disks.transpose()?;
        let saver = Saver {
            vm: Arc::clone(&self.vm),
            bus: Arc::clone(&bus),
            parking: Arc::clone(&parking),
            memory: self.memory,
            files: self.files,
            memory_mib: self.memory_mib,
        };
        let devices = Devices {
            poller,
            rng,
            vsock,
            control,
            signals: self.signals,
            changes: self.changes,
            crowded: self.crowded,
            resident,
            saver,
            hot_memory: self.hot_memory,
            network,
            disks,
            figures,
            // Once there are vCPUs.
            kvm: KvmStatistics::default(),
            happenings: self.crew.happenings(),
        };
        Ok(Equipped {
            vm: self.vm,
            parking,
            beginning: self.beginning,
            vcpus: self.vcpus,
            devices,
            bus,
            crew: self.crew,
            happenings: self.happenings,
        })
    }
}

/// Has the devices thread hear of what is to be read of a descriptor.
fn hear(poller: &Poller, descriptor: impl AsFd, owner: u32) -> Result<(), BootError> {
    let token = Token { owner, index: 0 };
    poller.add(descriptor, token, Interest::READ).map_err(BootError::Device)
}

/// Interfaces that come are served by the devices thread.
fn network(wiring: &Wiring, poller: &Arc<Poller>) -> Network {
    Network {
        wiring: wiring.clone(),
        poller: Arc::clone(poller),
        first_owner: owner::FIRST_NETWORK,
        plugged: BTreeMap::new(),
    }
}

/// Disks that come are served by a thread of their own.
fn serve_disks(crew: &mut Crew, wiring: Wiring) -> Result<Disks, BootError> {
    let (link, server) = disks::pair().map_err(BootError::Device)?;
    crew.spawn(DISKS_THREAD.to_owned(), Role::Disks, || Ok(|| server.run()))?;
    Ok(Disks { wiring, link, plugged: BTreeMap::new() })
}

/// Each device at its window, with its interrupt and notifications.
fn windows(
    vm: &Vm,
    memory: &Arc<Memory>,
    devices: [Box<dyn VirtioDevice>; DEVICES],
    pages: impl Iterator<Item = RegisterPage>,
) -> Result<Vec<Mutex<MmioTransport>>, BootError> {
    let mut windows = Vec::with_capacity(DEVICES);
    for ((index, device), page) in (0..).zip(devices).zip(pages) {
        let line = event().map_err(BootError::Device)?;
        vm.set_interrupt(&line, command_line::device_irq(index))?;
        let transport = MmioTransport::new(Arc::clone(memory), device, line, page)
            .map_err(BootError::Device)?;
        let unheard = event().map_err(BootError::Device)?;
        vm.connect(&transport, command_line::device_address(index), &unheard)?;
        windows.push(Mutex::new(transport));
    }
    Ok(windows)
}

fn event() -> std::io::Result<EventFd> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
}

/// Everything is in place.
struct Equipped {
    vm: Arc<Vm>,
    parking: Arc<Parking>,
    beginning: Beginning,
    vcpus: u8,
    devices: Devices,
    bus: Arc<Bus>,
    crew: Crew,
    happenings: Receiver<Happening>,
}

/// The guest runs.
struct Running {
    /// Closing it would cut the interrupts, though the vCPUs run on.
    vm: Arc<Vm>,
    happenings: Receiver<Happening>,
    bus: Arc<Bus>,
}

impl Equipped {
    /// Puts the vCPUs where the guest begins. One that was saved has its interrupt controllers
    /// before its devices, which may raise an interrupt.
    fn begin(&mut self, vcpus: &[VcpuFd]) -> Result<(), BootError> {
        match &self.beginning {
            Beginning::Kernel { entry } => {
                vcpus.first().map_or(Ok(()), |first| set_entry(first, *entry))?;
            }
            Beginning::Saved(saved) => {
                // A file server that has not found the guest's files says so first.
                self.crew.settle()?;
                for (id, (vcpu, state)) in (0..).zip(vcpus.iter().zip(&saved.vcpus)) {
                    state.check(&self.vm.cpuid(id, self.vcpus))?;
                    state.restore(vcpu)?;
                }
                self.vm.restore(&saved.vm)?;
                saved.restore_devices(&self.bus.devices)?;
            }
        }
        Ok(())
    }

    /// Sets the threads to work.
    fn start(mut self) -> Result<Running, BootError> {
        let ids = 0..self.vcpus;
        let vcpus =
            ids.map(|id| self.vm.create_vcpu(id, self.vcpus)).collect::<Result<Vec<_>, _>>()?;
        self.devices.kvm = KvmStatistics::open(&vcpus);
        self.begin(&vcpus)?;
        for (id, vcpu) in (0..).zip(vcpus) {
            let (bus, parking) = (Arc::clone(&self.bus), Arc::clone(&self.parking));
            let cpuid = self.vm.cpuid(id, self.vcpus);
            let saving = Saving { parking: Arc::clone(&parking), cpuid, vm: Arc::clone(&self.vm) };
            let prepare = move || {
                parking.enlist(id);
                Ok(move || chain(&vcpu::run(id, vcpu, &bus, &saving)))
            };
            self.crew.spawn(format!("vcpu-{id}"), Role::Vcpu, prepare)?;
        }
        let devices = self.devices;
        let prepare = || {
            // Refused, it costs time and nothing else.
            let _ = sys::wait_for_a_turn();
            Ok(|| chain(&devices.run()))
        };
        self.crew.spawn("devices".to_owned(), Role::Devices, prepare)?;
        self.crew.release()?;
        Ok(Running { vm: self.vm, happenings: self.happenings, bus: self.bus })
    }
}
