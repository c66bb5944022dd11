//! The system calls on guest memory and KVM that the compiler cannot check.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

use kvm_bindings::{kvm_irqchip, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Address as _, GuestMemory as _, GuestMemoryRegion as _};

use super::memory::Memory;

/// Takes `/dev/kvm` over from its descriptor.
pub(super) fn kvm_from(descriptor: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned and open, and its ownership moves into the result. Whether
    // it is /dev/kvm is found out by the first ioctl, which fails on anything else.
    unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Gives guest memory to the VM, one slot for each region.
pub(super) fn register_memory(vm: &VmFd, memory: &Memory) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in memory.iter().enumerate() {
        let description = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for its whole length, and stays so: the caller keeps
        // `memory` as long as the VM (both live as long as the process). Slots do not overlap,
        // since the regions of a `GuestMemoryMmap` do not.
        unsafe { vm.set_user_memory_region(description) }?;
    }
    Ok(())
}

/// Maps a part of a file privately over memory of the guest.
///
/// `address` is the start of `bytes` bytes of guest memory, page-aligned both.
pub(super) fn map_file_over(
    address: *mut u8,
    bytes: usize,
    file: BorrowedFd<'_>,
    offset: u64,
) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the range lies in a mapping of guest memory (the caller has checked it against the
    // region's bounds), which no Rust reference ever points into; replacing its pages by others
    // that are readable and writable as well breaks no one's assumption.
    let mapped = unsafe {
        libc::mmap(
            address.cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads a part of a file into memory of the guest.
///
/// `address` is the start of `bytes` bytes of guest memory.
pub(super) fn read_file_into(
    address: *mut u8,
    bytes: usize,
    file: BorrowedFd<'_>,
    offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let position = libc::off_t::try_from(offset + done as u64)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `done < bytes`, so the pointer stays within the range that the caller has
        // checked against the region's bounds.
        let target = unsafe { address.add(done) };
        // SAFETY: the kernel writes at most `bytes - done` bytes from there, all guest memory.
        let read = unsafe { libc::pread(file.as_raw_fd(), target.cast(), bytes - done, position) };
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            1.. => done += read as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The interrupts that wait in a PIC's request register.
///
/// `chip` was filled in by KVM for one of the two PICs.
pub(super) fn pending_of(chip: &kvm_irqchip) -> u8 {
    // SAFETY: KVM filled the union in for a PIC; and every bit pattern is a valid PIC state.
    unsafe { chip.chip.pic }.irr
}
