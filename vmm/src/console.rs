//! The guest's console: a 16550 serial port whose output is kept for the moment when the guest
//! does not boot.
//!
//! Hostile: every byte and every register access. The tail is a ring of fixed size; what leaves it
//! is text without control characters.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

use cofferdam_protocol::bounds::MAX_CONSOLE_TAIL_BYTES;
use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The registers of the serial port. Nothing is ever sent to the guest on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleState {
    divisor: [u8; 2],
    interrupt: [u8; 2],
    line: [u8; 2],
    modem: [u8; 2],
    scratch: u8,
}

/// The serial port at its registers.
pub struct Console {
    serial: Serial<Line, NoEvents, Capture>,
}

impl Console {
    /// A port that raises `line` for its interrupts, and writes to `copy` what it keeps as well.
    #[must_use]
    pub fn new(line: EventFd, copy: Option<File>) -> Self {
        let capture = Capture { tail: VecDeque::new(), copy };
        Self { serial: Serial::new(Line(line), capture) }
    }

    /// The registers, to be written down.
    #[must_use]
    pub fn state(&self) -> ConsoleState {
        let state = self.serial.state();
        ConsoleState {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt: [state.interrupt_enable, state.interrupt_identification],
            line: [state.line_control, state.line_status],
            modem: [state.modem_control, state.modem_status],
            scratch: state.scratch,
        }
    }

    /// A port whose registers are these. What was kept of an earlier console is not among them.
    ///
    /// # Errors
    /// When they are not those of such a port.
    pub fn restored(state: ConsoleState, line: EventFd, copy: Option<File>) -> io::Result<Self> {
        let registers = SerialState {
            baud_divisor_low: state.divisor[0],
            baud_divisor_high: state.divisor[1],
            interrupt_enable: state.interrupt[0],
            interrupt_identification: state.interrupt[1],
            line_control: state.line[0],
            line_status: state.line[1],
            modem_control: state.modem[0],
            modem_status: state.modem[1],
            scratch: state.scratch,
            in_buffer: Vec::new(),
        };
        let capture = Capture { tail: VecDeque::new(), copy };
        let serial = Serial::from_state(&registers, Line(line), NoEvents, capture);
        Ok(Self { serial: serial.map_err(|_| io::ErrorKind::InvalidData)? })
    }

    /// The guest writes a register.
    pub fn write(&mut self, register: u8, value: u8) {
        // A write fails when the guest reads its own loop-back too slowly, or when the interrupt
        // cannot be raised: the guest's own loss.
        let _ = self.serial.write(register, value);
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.serial.read(register)
    }

    /// The last of what the guest wrote, as text.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.serial.writer().tail.iter().copied().collect();
        let printable = |character: char| match character {
            '\n' => Some(character),
            '\r' => None,
            other if other.is_control() => Some('\u{fffd}'),
            other => Some(other),
        };
        String::from_utf8_lossy(&bytes).chars().filter_map(printable).collect()
    }
}

/// The port's interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the port's output goes.
struct Capture {
    tail: VecDeque<u8>,
    copy: Option<File>,
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(MAX_CONSOLE_TAIL_BYTES);
        self.tail.drain(..excess);
        if let Some(copy) = &mut self.copy {
            // A full pipe or a reader that went away must not stop the guest.
            let _ = copy.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> Console {
        Console::new(EventFd::new(0).unwrap(), None)
    }

    #[test]
    fn the_tail_is_what_the_guest_wrote() {
        let mut console = console();
        for byte in b"panic: \x1b[2J\r\nend" {
            console.write(0, *byte);
        }
        assert_eq!(console.tail(), "panic: \u{fffd}[2J\nend");
    }

    #[test]
    fn the_tail_is_bounded_and_keeps_the_end() {
        let mut console = console();
        for index in 0..=MAX_CONSOLE_TAIL_BYTES {
            console.write(0, if index == 0 { b'a' } else { b'b' });
        }
        let tail = console.tail();
        assert_eq!(tail.len(), MAX_CONSOLE_TAIL_BYTES);
        assert!(tail.bytes().all(|byte| byte == b'b'));
    }
}
