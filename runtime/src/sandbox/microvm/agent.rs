//! What the runtime asks of the guest's agent, typed.
//!
//! Hostile: the answers. Numbers are brought into their ranges here, texts are made printable.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cofferdam_protocol::agent::start_failure::Kind;
use cofferdam_protocol::agent::{
    AddDiskRequest, AddDiskResponse, AddInterfaceRequest, AddInterfaceResponse, CgroupFile,
    ChangeInterfaceRequest, ChangeInterfaceResponse, CreateContainerRequest,
    CreateContainerResponse, ExecRequest, ExecResponse, FreezeContainerRequest,
    FreezeContainerResponse, ListProcessesRequest, ListProcessesResponse, ProcessEntry,
    ReadCgroupRequest, ReadCgroupResponse, ReawakenRequest, ReawakenResponse, RemoveDiskRequest,
    RemoveDiskResponse, RemoveInterfaceRequest, RemoveInterfaceResponse, ResizeMachineRequest,
    ResizeMachineResponse, ResizeTerminalRequest, ResizeTerminalResponse, SignalRequest,
    SignalResponse, StartContainerRequest, StartContainerResponse, StartFailure,
    UpdateContainerRequest, UpdateContainerResponse, WaitOomRequest, WaitOomResponse, WaitRequest,
    WaitResponse,
};
use cofferdam_protocol::bounds::MAX_PLAN_BYTES;
use cofferdam_protocol::id::{ContainerId, ProcessToken};
use cofferdam_protocol::network::{InterfaceChange, InterfacePlan};
use cofferdam_protocol::plan::{ContainerPlan, ProcessPlan};
use protobuf::MessageField;

use super::control::ControlError;
use super::rpc::{CallError, Connection, Pending, printable};
use crate::plan::MachineSize;
use crate::plan::disks::DiskNumber;
use crate::sandbox::request::{ProcessRow, StartFailureKind};

/// How long the agent has to answer: long enough for a machine under heavy load.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory that is given back is moved elsewhere first, page by page.
const RESIZE_TIMEOUT: Duration = Duration::from_secs(120);

/// What a guest has after it was resized, by its own word.
#[derive(Debug)]
pub(super) struct Resized {
    /// Blocks of memory beside that of the beginning.
    pub(super) memory_blocks: u32,
    /// Processors in use.
    pub(super) vcpus: u8,
    /// Why not as asked for.
    pub(super) failure: Option<String>,
}

/// Why a guest did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The monitor, through which it is reached.
    #[error("Cannot reach the guest's agent")]
    Reach(#[source] ControlError),
    /// It was not asked, or gave no answer.
    #[error("Cannot talk to the guest's agent")]
    Call(#[source] CallError),
    /// The plan is longer than any message.
    #[error("The plan has {0} bytes: at most {MAX_PLAN_BYTES} are possible")]
    PlanTooLong(usize),
    /// The plan is no document.
    #[error("The plan cannot be written")]
    Plan(#[source] serde_json::Error),
    /// A step of the container's set-up.
    #[error("The guest cannot set the process up: {0}")]
    Setup(String),
    /// A limit.
    #[error("The guest's kernel refused {0}")]
    Limits(String),
    /// A network interface.
    #[error("The guest's kernel refused {0}")]
    Interface(String),
    /// A disk.
    #[error("The guest's kernel refused {0}")]
    Disk(String),
    /// There is no such program.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be executed.
    #[error("{0}")]
    NotExecutable(String),
}

impl AgentError {
    /// Whether the program itself was at fault.
    pub(super) const fn start_failure(&self) -> Option<StartFailureKind> {
        match self {
            Self::NotFound(_) => Some(StartFailureKind::NotFound),
            Self::NotExecutable(_) => Some(StartFailureKind::NotExecutable),
            Self::Reach(_)
            | Self::Call(_)
            | Self::PlanTooLong(_)
            | Self::Plan(_)
            | Self::Setup(_)
            | Self::Limits(_)
            | Self::Interface(_)
            | Self::Disk(_) => None,
        }
    }
}

impl From<CallError> for AgentError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub(super) struct Agent {
    connection: Connection,
}

impl Agent {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Makes the container, up to its program.
    pub(super) fn create_container(
        &mut self,
        id: &ContainerId,
        process: ProcessToken,
        plan: &ContainerPlan,
        timeout: Duration,
    ) -> Result<(), AgentError> {
        let request = CreateContainerRequest {
            container_id: id.to_string(),
            process: process.0,
            plan: document(plan)?,
            ..Default::default()
        };
        let answer: CreateContainerResponse =
            self.connection.call("CreateContainer", &request, timeout)?;
        started(answer.failure)
    }

    /// Makes an interface of a network device.
    pub(super) fn add_interface(
        &mut self,
        device: u32,
        plan: &InterfacePlan,
    ) -> Result<(), AgentError> {
        let plan = document(plan)?;
        let request = AddInterfaceRequest { device, plan, ..Default::default() };
        let answer: AddInterfaceResponse =
            self.connection.call("AddInterface", &request, REQUEST_TIMEOUT)?;
        refused(&answer.failure, AgentError::Interface)
    }

    /// Makes another of an interface.
    pub(super) fn change_interface(
        &mut self,
        device: u32,
        change: &InterfaceChange,
    ) -> Result<(), AgentError> {
        let change = document(change)?;
        let request = ChangeInterfaceRequest { device, change, ..Default::default() };
        let answer: ChangeInterfaceResponse =
            self.connection.call("ChangeInterface", &request, REQUEST_TIMEOUT)?;
        refused(&answer.failure, AgentError::Interface)
    }

    /// Has the guest give a network device back.
    pub(super) fn remove_interface(&mut self, device: u32) -> Result<(), AgentError> {
        let request = RemoveInterfaceRequest { device, ..Default::default() };
        let answer: RemoveInterfaceResponse =
            self.connection.call("RemoveInterface", &request, REQUEST_TIMEOUT)?;
        refused(&answer.failure, AgentError::Interface)
    }

    /// Has the guest take a block device into use; its number there.
    pub(super) fn add_disk(
        &mut self,
        device: u32,
        timeout: Duration,
    ) -> Result<DiskNumber, AgentError> {
        let request = AddDiskRequest { device, ..Default::default() };
        let answer: AddDiskResponse = self.connection.call("AddDisk", &request, timeout)?;
        let AddDiskResponse { major, minor, failure, .. } = answer;
        refused(&failure, AgentError::Disk)?;
        Ok(DiskNumber { major, minor })
    }

    /// Has the guest give a block device back.
    pub(super) fn remove_disk(&mut self, device: u32, timeout: Duration) -> Result<(), AgentError> {
        let request = RemoveDiskRequest { device, ..Default::default() };
        let answer: RemoveDiskResponse = self.connection.call("RemoveDisk", &request, timeout)?;
        refused(&answer.failure, AgentError::Disk)
    }

    /// Lets the container's program run.
    pub(super) fn start_container(&mut self, id: &ContainerId) -> Result<(), AgentError> {
        let request = StartContainerRequest { container_id: id.to_string(), ..Default::default() };
        let answer: StartContainerResponse =
            self.connection.call("StartContainer", &request, REQUEST_TIMEOUT)?;
        started(answer.failure)
    }

    /// Starts one more process, in a cgroup below the container's if one is named.
    pub(super) fn exec(
        &mut self,
        id: &ContainerId,
        process: ProcessToken,
        plan: &ProcessPlan,
        subgroup: Option<String>,
    ) -> Result<(), AgentError> {
        let request = ExecRequest {
            container_id: id.to_string(),
            process: process.0,
            plan: document(plan)?,
            cgroup: subgroup.unwrap_or_default(),
            ..Default::default()
        };
        let answer: ExecResponse = self.connection.call("Exec", &request, REQUEST_TIMEOUT)?;
        started(answer.failure)
    }

    /// Sends a signal; false when the process had ended.
    pub(super) fn signal(
        &mut self,
        request: &SignalRequest,
        timeout: Duration,
    ) -> Result<bool, AgentError> {
        let answer: SignalResponse = self.connection.call("Signal", request, timeout)?;
        Ok(answer.delivered)
    }

    /// Sets the size of a process's terminal.
    pub(super) fn resize(
        &mut self,
        process: ProcessToken,
        rows: u16,
        columns: u16,
    ) -> Result<(), AgentError> {
        let request = ResizeTerminalRequest {
            process: process.0,
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        };
        let _: ResizeTerminalResponse =
            self.connection.call("ResizeTerminal", &request, REQUEST_TIMEOUT)?;
        Ok(())
    }

    /// The container's processes.
    pub(super) fn processes(&mut self, id: &ContainerId) -> Result<Vec<ProcessRow>, AgentError> {
        let request = ListProcessesRequest { container_id: id.to_string(), ..Default::default() };
        let answer: ListProcessesResponse =
            self.connection.call("ListProcesses", &request, REQUEST_TIMEOUT)?;
        Ok(answer.processes.into_iter().map(row).collect())
    }

    /// Freezes the container's processes or sets them going; false when they did not freeze.
    pub(super) fn freeze(&mut self, id: &ContainerId, frozen: bool) -> Result<bool, AgentError> {
        let request =
            FreezeContainerRequest { container_id: id.to_string(), frozen, ..Default::default() };
        let answer: FreezeContainerResponse =
            self.connection.call("FreezeContainer", &request, REQUEST_TIMEOUT)?;
        Ok(answer.done)
    }

    /// The machine was restored: gives it the time, new randomness, and its container's name.
    pub(super) fn reawaken(
        &mut self,
        id: &ContainerId,
        now: Duration,
        entropy: &[u8],
    ) -> Result<(), AgentError> {
        let request = ReawakenRequest {
            container_id: id.to_string(),
            now_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            entropy: entropy.to_vec(),
            ..Default::default()
        };
        let _: ReawakenResponse = self.connection.call("Reawaken", &request, REQUEST_TIMEOUT)?;
        Ok(())
    }

    /// Has the guest take memory and processors into use, or give them back. What it has then, by
    /// its own word.
    pub(super) fn resize_machine(
        &mut self,
        first_block: u64,
        size: MachineSize,
    ) -> Result<Resized, AgentError> {
        let request = ResizeMachineRequest {
            first_block,
            memory_blocks: size.memory_blocks,
            processors: size.vcpus.into(),
            ..Default::default()
        };
        let answer: ResizeMachineResponse =
            self.connection.call("ResizeMachine", &request, RESIZE_TIMEOUT)?;
        Ok(Resized {
            memory_blocks: answer.memory_blocks,
            vcpus: u8::try_from(answer.processors).unwrap_or(u8::MAX),
            failure: Some(printable(&answer.failure)).filter(|failure| !failure.is_empty()),
        })
    }

    /// Writes to files of the container's cgroup: all or none.
    pub(super) fn update(
        &mut self,
        id: &ContainerId,
        files: &[(String, String)],
    ) -> Result<(), AgentError> {
        let file = |(name, text): &(String, String)| CgroupFile {
            name: name.clone(),
            text: text.clone(),
            ..Default::default()
        };
        let request = UpdateContainerRequest {
            container_id: id.to_string(),
            files: files.iter().map(file).collect(),
            ..Default::default()
        };
        let answer: UpdateContainerResponse =
            self.connection.call("UpdateContainer", &request, REQUEST_TIMEOUT)?;
        if answer.failure.is_empty() {
            Ok(())
        } else {
            Err(AgentError::Limits(printable(&answer.failure)))
        }
    }

    /// What files of the container's cgroup say; those that there are.
    pub(super) fn read_cgroup(
        &mut self,
        id: &ContainerId,
        names: &[&str],
    ) -> Result<BTreeMap<String, String>, AgentError> {
        let request = ReadCgroupRequest {
            container_id: id.to_string(),
            files: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let answer: ReadCgroupResponse =
            self.connection.call("ReadCgroup", &request, REQUEST_TIMEOUT)?;
        let asked = answer.files.into_iter().filter(|file| names.contains(&file.name.as_str()));
        Ok(asked.map(|file| (file.name, file.text)).collect())
    }

    /// Asks to be told when the kernel has killed more for want of memory than are known.
    pub(super) fn ask_oom(&mut self, id: &ContainerId, known: u64) -> Result<Pending, AgentError> {
        let request = WaitOomRequest { container_id: id.to_string(), known, ..Default::default() };
        Ok(self.connection.send("WaitOom", &request, REQUEST_TIMEOUT)?)
    }

    /// How many it has killed, if it was told until then.
    pub(super) fn oom_kills(
        &mut self,
        pending: Pending,
        until: Instant,
    ) -> Result<Option<u64>, AgentError> {
        match self.connection.receive::<WaitOomResponse>(pending, Some(until)) {
            Ok(answer) => Ok(Some(answer.kills)),
            Err(CallError::Timeout { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a process's end; the answer comes when it has ended. Who asks may stand for the
    /// process on the host: it is killed then when whoever holds this connection is.
    pub(super) fn ask_end(
        &mut self,
        process: ProcessToken,
        stands_for: bool,
    ) -> Result<Pending, AgentError> {
        let request = WaitRequest { process: process.0, stands_for, ..Default::default() };
        Ok(self.connection.send("Wait", &request, REQUEST_TIMEOUT)?)
    }

    /// The end that was asked for: waits until then.
    pub(super) fn end_before(
        &mut self,
        pending: Pending,
        deadline: Instant,
    ) -> Result<u8, AgentError> {
        let answer: WaitResponse = self.connection.receive(pending, Some(deadline))?;
        Ok(exit_code(&answer))
    }

    /// The end that was asked for: waits as long as it takes.
    pub(super) fn end(&mut self, pending: Pending) -> Result<u8, AgentError> {
        let answer: WaitResponse = self.connection.receive(pending, None)?;
        Ok(exit_code(&answer))
    }

    /// Reads answers, of which at least a part must be there.
    pub(super) fn read_answers(&mut self) -> Result<(), AgentError> {
        Ok(self.connection.read_some("Wait", None)?)
    }

    /// The end that was asked for, if it has been received already.
    pub(super) fn taken_end(&mut self, pending: Pending) -> Result<Option<u8>, AgentError> {
        let answer: Option<WaitResponse> = self.connection.take(pending)?;
        Ok(answer.as_ref().map(exit_code))
    }

    /// To be polled for answers.
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// What became of a device, in the guest's words.
fn refused(failure: &str, error: fn(String) -> AgentError) -> Result<(), AgentError> {
    if failure.is_empty() { Ok(()) } else { Err(error(printable(failure))) }
}

fn document(plan: &impl serde::Serialize) -> Result<Vec<u8>, AgentError> {
    let bytes = serde_json::to_vec(plan).map_err(AgentError::Plan)?;
    if bytes.len() > MAX_PLAN_BYTES {
        return Err(AgentError::PlanTooLong(bytes.len()));
    }
    Ok(bytes)
}

/// The agent's words for a program's own faults are runc's, by which engines know them.
fn started(failure: MessageField<StartFailure>) -> Result<(), AgentError> {
    let Some(failure) = failure.into_option() else { return Ok(()) };
    let message = printable(&failure.message);
    Err(match failure.kind.enum_value_or_default() {
        Kind::SETUP => AgentError::Setup(message),
        Kind::NOT_FOUND => AgentError::NotFound(message),
        Kind::NOT_EXECUTABLE => AgentError::NotExecutable(message),
    })
}

fn exit_code(answer: &WaitResponse) -> u8 {
    u8::try_from(answer.code).unwrap_or(u8::MAX)
}

fn row(entry: ProcessEntry) -> ProcessRow {
    ProcessRow {
        pid: entry.pid,
        ppid: entry.ppid,
        uid: entry.uid,
        cpu_ms: entry.cpu_ms,
        started_ms: entry.started_ms,
        terminal: printable(&entry.terminal),
        command: printable(&entry.command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: Kind, message: &str) -> AgentError {
        let failure =
            StartFailure { kind: kind.into(), message: message.to_owned(), ..Default::default() };
        started(Some(failure).into()).unwrap_err()
    }

    #[test]
    fn a_programs_own_fault_has_its_kind_and_the_agents_words() {
        let words = "exec: \"nope\": executable file not found in $PATH";
        let missing = failure(Kind::NOT_FOUND, words);
        assert_eq!(missing.start_failure(), Some(StartFailureKind::NotFound));
        assert_eq!(missing.to_string(), words);
        let denied = failure(Kind::NOT_EXECUTABLE, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(denied.start_failure(), Some(StartFailureKind::NotExecutable));
        assert_eq!(failure(Kind::SETUP, "mount /proc").start_failure(), None);
    }

    #[test]
    fn a_code_out_of_range_is_not_taken_for_success() {
        let answer = WaitResponse { code: 256, ..Default::default() };
        assert_eq!(exit_code(&answer), 255);
    }
}
