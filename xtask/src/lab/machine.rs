//! The processes that a lab is made of, for one command.
//!
//! ```text
//!            sockets listen      QEMU connects        "up"          "exit CODE"
//!   Starting ──────────────▶ Booting ─────────▶ (NeverUp) ─▶ Running ─────────▶ Exited
//!                              │ QEMU ends                      │ QEMU ends: Lost, no heartbeat: Stopped
//!                              └──────────────── the limit: TimedOut, a signal: Interrupted
//! ```
//!
//! All of them are bound to this process: they end when it ends, however that happens.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use super::emulator::Emulator;
use super::image::Image;
use super::{Lab, frequency, job};
use crate::{process, sys};

/// On an idle machine it is 12 s; with the machine shared and instructions counted it was 60.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Longer than the busiest lab takes for a write.
const HEART_LIMIT: Duration = Duration::from_secs(120);

/// How a run of the lab ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The command ended, with this status.
    Exited(u8),
    /// The limit was reached.
    TimedOut,
    /// It did not come so far as to run the command.
    NeverUp,
    /// It ended while the command ran.
    Lost,
    /// The command's heart stood still.
    Stopped,
    /// We were told to stop, by this signal.
    Interrupted(u8),
}

/// What a run leaves.
pub(super) struct Outcome {
    pub(super) ending: Ending,
    /// The end of the kernel's console.
    pub(super) console: String,
}

/// Runs the lab's command.
pub(super) fn run(lab: &Lab, emulator: &Emulator, image: &Image) -> Result<Outcome> {
    let signals = Signals::catch()?;
    let folder = tempfile::Builder::new().prefix("cofferdam-lab-").tempdir()?;
    job::write(lab, folder.path())?;
    let mut shares = vec![Share::serve("root", Path::new("/"), &folder)?];
    let out = lab.out.as_deref().map(prepared_out).transpose()?;
    if let Some(out) = &out {
        shares.push(Share::serve("out", out, &folder)?);
    }
    for share in &mut shares {
        share.wait_until_it_listens()?;
    }
    let ports = Ports::listen(&folder)?;
    let mut command = emulator.command();
    command.args(qemu_arguments(lab, image, &folder, &shares, out.as_deref()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let qemu = sys::bind_to_this_process(&mut command)
        .spawn()
        .context("Could not start QEMU: run `cargo xtask setup`")?;
    let mut qemu = Bound(qemu);
    let complaints = forward_complaints(&mut qemu);
    let ending = wait(lab, &mut qemu, &ports, &signals)?;
    drop(qemu);
    ports.drain();
    if let Some(thread) = complaints {
        // It has nothing to tell but that it is done.
        let _ = thread.join();
    }
    Ok(Outcome { ending, console: console_tail(&folder.path().join("console")) })
}

/// An existing folder, absolute: the lab has it at the same path.
fn prepared_out(out: &Path) -> Result<PathBuf> {
    fs::create_dir_all(out)
        .and_then(|()| out.canonicalize())
        .with_context(|| format!("Could not create {}", out.display()))
}

fn wait(lab: &Lab, qemu: &mut Bound, ports: &Ports, signals: &Signals) -> Result<Ending> {
    let started = Instant::now();
    let mut up = false;
    let mut heart = lab.heartbeat.as_deref().map(Heart::new);
    loop {
        match ports.events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Up) => up = true,
            Ok(Event::Exit(code)) => {
                // It powers itself off, having synced what it mounted of ours.
                let _ = qemu.ends_within(Duration::from_secs(20));
                return Ok(Ending::Exited(code));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // The port closes when QEMU ends.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let _ = qemu.ends_within(Duration::from_secs(20));
                return Ok(if up { Ending::Lost } else { Ending::NeverUp });
            }
        }
        if let Some(signal) = signals.received() {
            return Ok(Ending::Interrupted(signal));
        }
        if qemu.0.try_wait()?.is_some() && !ports.connected() {
            return Ok(Ending::NeverUp);
        }
        if up && heart.as_mut().is_some_and(|heart| !heart.beats()) {
            return Ok(Ending::Stopped);
        }
        if started.elapsed() > lab.limit {
            return Ok(Ending::TimedOut);
        }
        if !up && started.elapsed() > BOOT_LIMIT {
            return Ok(Ending::NeverUp);
        }
    }
}

/// A file that changes as long as all is well.
struct Heart<'a> {
    file: &'a Path,
    last: Option<SystemTime>,
    since: Instant,
}

impl<'a> Heart<'a> {
    fn new(file: &'a Path) -> Self {
        Self { file, last: None, since: Instant::now() }
    }

    fn beats(&mut self) -> bool {
        let now = fs::metadata(self.file).and_then(|metadata| metadata.modified()).ok();
        if now != self.last {
            (self.last, self.since) = (now, Instant::now());
        }
        self.since.elapsed() < HEART_LIMIT
    }
}

fn qemu_arguments(
    lab: &Lab,
    image: &Image,
    folder: &TempDir,
    shares: &[Share],
    out: Option<&Path>,
) -> Vec<OsString> {
    let (accelerator, cpus) = if lab.icount {
        // One instruction is 2^0 nanoseconds.
        ("-accel tcg,tb-size=512 -icount shift=0,sleep=on", 1)
    } else {
        ("-accel tcg,thread=multi,tb-size=512", lab.cpus)
    };
    let fixed = format!(
        "{accelerator} -cpu EPYC,+svm,+npt -machine q35 -smp {cpus} -m {memory} \
         -object memory-backend-memfd,id=memory,size={memory},share=on -numa node,memdev=memory \
         -nodefaults -no-reboot -display none -device virtio-rng-pci \
         -device virtio-serial-pci,max_ports=8",
        memory = lab.memory
    );
    let mut arguments: Vec<OsString> = fixed.split_whitespace().map(OsString::from).collect();
    let mut add = |option: &str, value: String| {
        arguments.extend([OsString::from(option), OsString::from(value)]);
    };
    add("-serial", format!("file:{}", folder.path().join("console").display()));
    for (number, name) in PORT_NAMES.iter().enumerate() {
        let number = number + 1;
        let socket = folder.path().join(format!("{name}.port"));
        add("-chardev", format!("socket,id=port{number},path={}", socket.display()));
        add("-device", format!("virtserialport,chardev=port{number},nr={number},name={name}"));
    }
    for share in shares {
        let tag = share.tag;
        add("-chardev", format!("socket,id=fs-{tag},path={}", share.socket.display()));
        add("-device", format!("vhost-user-fs-pci,chardev=fs-{tag},tag={tag}"));
    }
    let mut kernel_line = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off tsc=reliable \
                           no_timer_check"
        .to_owned();
    kernel_line.push_str(&format!(" tsc_early_khz={}", frequency::of_the_counter(lab.icount)));
    kernel_line.push_str(&format!(" lab.job={}", folder.path().display()));
    if let Some(out) = out {
        kernel_line.push_str(&format!(" lab.out={}", out.display()));
    }
    add("-append", kernel_line);
    arguments.extend(["-kernel".into(), image.kernel.clone().into()]);
    arguments.extend(["-initrd".into(), image.initramfs.clone().into()]);
    arguments
}

/// A process that does not outlive its owner.
struct Bound(Child);

impl Bound {
    fn ends_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of this machine, served to the lab by a virtiofsd.
struct Share {
    tag: &'static str,
    socket: PathBuf,
    server: Bound,
}

impl Share {
    fn serve(tag: &'static str, source: &Path, folder: &TempDir) -> Result<Self> {
        let program = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.is_file())
            .or_else(|| process::find("virtiofsd"))
            .context("The lab needs virtiofsd (qemu-system-common): run `cargo xtask setup`")?;
        let socket = folder.path().join(format!("{tag}.sock"));
        let log = File::create(folder.path().join(format!("{tag}.log")))?;
        let mut command = Command::new(program);
        command.arg(option("--socket-path=", &socket)).arg("-o").arg(option("source=", source));
        // Nothing on the host changes under the lab's feet but what it wrote itself.
        command.args(["-o", "cache=always", "-o", "xattr", "-o", "sandbox=chroot"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server =
            sys::bind_to_this_process(&mut command).spawn().context("Could not start virtiofsd")?;
        Ok(Self { tag, socket, server: Bound(server) })
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let started = Instant::now();
        while !self.socket.exists() {
            let ended = self.server.0.try_wait()?;
            if ended.is_some() || started.elapsed() > Duration::from_secs(20) {
                let log = fs::read_to_string(self.socket.with_extension("log"));
                bail!("virtiofsd did not start: {}", log.unwrap_or_default().trim_end());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // It keeps a lock file for each socket, named after the socket's path, and leaves it.
        let name = self.socket.to_string_lossy().trim_start_matches('/').replace('/', ".");
        for folder in ["/run/virtiofsd", "/var/lib/qemu/run/virtiofsd"] {
            let _ = fs::remove_file(Path::new(folder).join(format!("{name}.pid")));
        }
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

/// What port 3 says.
enum Event {
    Up,
    Exit(u8),
}

/// In the order of their numbers, from 1 on.
const PORT_NAMES: [&str; 3] = ["stdout", "stderr", "status"];

/// The lab's side channels. Each is a socket to which QEMU connects once.
struct Ports {
    threads: Vec<JoinHandle<()>>,
    events: mpsc::Receiver<Event>,
    connections: Arc<AtomicUsize>,
}

impl Ports {
    fn listen(folder: &TempDir) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for name in PORT_NAMES {
            let listener = UnixListener::bind(folder.path().join(format!("{name}.port")))?;
            let (sender, connections) = (sender.clone(), Arc::clone(&connections));
            threads.push(thread::spawn(move || {
                let Ok((stream, _)) = listener.accept() else { return };
                connections.fetch_add(1, Ordering::Relaxed);
                match name {
                    "stdout" => copy(stream, io::stdout()),
                    "stderr" => copy(stream, io::stderr()),
                    _ => report(stream, &sender),
                }
            }));
        }
        Ok(Self { threads, events, connections })
    }

    fn connected(&self) -> bool {
        self.connections.load(Ordering::Relaxed) == PORT_NAMES.len()
    }

    /// Waits until everything that the lab wrote is written here. QEMU has ended; a port to which
    /// it never connected has a thread that waits for ever, and is left to the process's end.
    fn drain(self) {
        if self.connected() {
            for thread in self.threads {
                let _ = thread.join();
            }
        }
    }
}

/// Copies until the lab closes the port. A reader of ours that went away does not stop the lab.
fn copy(mut from: UnixStream, mut to: impl Write) {
    let mut buffer = [0; 1 << 14];
    while let Ok(length @ 1..) = io::Read::read(&mut from, &mut buffer) {
        let _ = to.write_all(&buffer[..length]).and_then(|()| to.flush());
    }
}

fn report(stream: UnixStream, events: &mpsc::Sender<Event>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let event = match line.split_once(' ') {
            None if line == "up" => Some(Event::Up),
            Some(("exit", code)) => code.parse().ok().map(Event::Exit),
            _ => None,
        };
        if let Some(event) = event {
            // The receiver may have given up on us.
            let _ = events.send(event);
        }
    }
}

/// QEMU's own messages, but for the one that it prints at every start.
fn forward_complaints(qemu: &mut Bound) -> Option<JoinHandle<()>> {
    let stderr = BufReader::new(qemu.0.stderr.take()?);
    Some(thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if !line.contains("TCG doesn't support") {
                eprintln!("lab: {line}");
            }
        }
    }))
}

/// The last lines that the kernel printed, without what a terminal would act on.
fn console_tail(path: &Path) -> String {
    let console = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&console);
    let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> = text.lines().map(printable).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// The signals that ask us to stop.
struct Signals(Arc<AtomicUsize>);

impl Signals {
    fn catch() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        for (signal, number) in [(SIGINT, 2), (SIGTERM, 15), (SIGHUP, 1)] {
            signal_hook::flag::register_usize(signal, Arc::clone(&received), number)?;
        }
        Ok(Self(received))
    }

    fn received(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            number => u8::try_from(number).ok(),
        }
    }
}
