//! The guest kernel's command line: the monitor's own words, none of them a tenant's.

use super::layout::{MAX_COMMAND_LINE_BYTES, MMIO_ADDRESS, MMIO_FIRST_IRQ, MMIO_WINDOW_BYTES};

/// What every guest gets, each with its reason; the rest is built into the kernel. A word more is
/// 70 virtual microseconds of each boot: the kernel compares it with the names of all parameters.
/// - `console=ttyS0`: the last words of a guest that fails.
/// - `quiet`: a console line costs the boot two exits for each character.
/// - `panic=-1`: a panic is a reset at once, which ends the VM.
/// - `virtio_net.napi_tx=0`: what was sent is cleaned up with the next frame, not after an interrupt
///   for each.
const FIXED: &str = "console=ttyS0 quiet panic=-1 virtio_net.napi_tx=0";

/// With one vCPU: the switch to x2APIC saves and restores the IO-APIC, in 600 exits, and a single
/// processor hardly touches its interrupt controller.
const ONE_VCPU: &str = " nox2apic";

/// Where the `index`-th virtio-mmio device has its registers.
#[must_use]
pub const fn device_address(index: u32) -> u64 {
    MMIO_ADDRESS + index as u64 * MMIO_WINDOW_BYTES
}

/// The interrupt of the `index`-th virtio-mmio device.
#[must_use]
pub const fn device_irq(index: u32) -> u32 {
    MMIO_FIRST_IRQ + index
}

/// How many vCPUs there are.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    /// That the kernel starts by itself.
    pub first: u8,
    /// With those that it starts when it is told to.
    pub all: u8,
}

/// The command line for a guest with this many virtio-mmio devices and vCPUs, without the final
/// zero.
#[must_use]
pub fn build(devices: u32, processors: Processors) -> String {
    let mut line = FIXED.to_owned();
    if processors.all == 1 {
        line.push_str(ONE_VCPU);
    }
    if processors.first < processors.all {
        line.push_str(&format!(" maxcpus={}", processors.first));
    }
    for index in 0..devices {
        let (address, irq) = (device_address(index), device_irq(index));
        line.push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{irq}"));
    }
    debug_assert!(line.len() < MAX_COMMAND_LINE_BYTES);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_announced_at_its_place() {
        let line = build(2, Processors { first: 2, all: 2 });
        assert!(line.starts_with(FIXED));
        assert!(
            line.ends_with(
                " virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"
            )
        );
    }

    #[test]
    fn only_a_single_processor_stays_with_its_old_interrupt_controller() {
        assert!(build(1, Processors { first: 1, all: 1 }).contains(ONE_VCPU));
        assert!(!build(1, Processors { first: 1, all: 2 }).contains(ONE_VCPU));
    }

    #[test]
    fn processors_that_may_come_later_are_not_started() {
        assert!(build(1, Processors { first: 2, all: 4 }).contains(" maxcpus=2 "));
        assert!(!build(1, Processors { first: 4, all: 4 }).contains("maxcpus"));
    }
}
