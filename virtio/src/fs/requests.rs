//! FUSE's requests, one function each, as fuse-backend-rs's server asks them.
//!
//! Not answered, so that the guest's kernel does without (`ENOSYS` once, never asked again):
//! `access` (it checks permissions itself), `flush` (nothing is kept back here), locks (they are
//! the guest's own), `ioctl`, `bmap`, `poll`.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FOPEN_IN_KILL_SUIDGID, WRITE_KILL_PRIV};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::{
    AtFlags, Dev, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
    fallocate, fstatvfs, ftruncate, getxattr, getxattr_query, linkat, listxattr, listxattr_query,
    mkdirat, mknodat, openat, readlinkat, removexattr, renameat_with, seek, setxattr, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::attributes::{self, Subject};
use super::changes::Happened;
use super::folder;
use super::repeat::Own;
use super::stand_in::{self, Device};
use super::sys;
use super::tree::{Tree, component, host_flags, permissions, sync};

/// The kernel's own bound on an extended attribute and on a list of their names.
const MAX_XATTR_BYTES: usize = 64 << 10;

impl Tree {
    /// Makes something as its owner, then looks it up.
    fn make(
        &self,
        caller: &Context,
        (parent, name, mode): (u64, &CStr, u32),
        make: impl FnOnce(&std::os::fd::OwnedFd, &CStr) -> rustix::io::Result<()>,
    ) -> io::Result<Entry> {
        let name = component(name)?;
        let state = &mut *self.state();
        self.check_room(state)?;
        let appeared = |happened: &Happened| happened.appeared(parent, name);
        if let Some(current) = state.answer_agent(caller, appeared) {
            return self.make_again(state, &current?, name, mode);
        }
        state.own(parent, Own::Name(parent, name), |state| {
            let folder = &state.inodes.get(parent)?.file;
            self.identity.as_owner(caller, || Ok(make(folder, name)?))
        })?;
        self.look_up(state, parent, name)
    }

    fn remove(&self, caller: &Context, parent: u64, name: &CStr, flags: AtFlags) -> io::Result<()> {
        let name = component(name)?;
        let state = &mut *self.state();
        let vanished = |happened: &Happened| happened.vanished(parent, name);
        if let Some(current) = state.answer_agent(caller, vanished) {
            current?;
        } else {
            state.own(parent, Own::Name(parent, name), |state| {
                Ok(unlinkat(&state.inodes.get(parent)?.file, name, flags)?)
            })?;
        }
        state.unlearn(parent, name);
        Ok(())
    }

    fn resize(
        &self,
        inode: u64,
        handle: Option<u64>,
        wanted: &libc::stat64,
        kill_privileges: bool,
    ) -> io::Result<()> {
        let size = u64::try_from(wanted.st_size).map_err(|_| Errno::INVAL)?;
        self.changing(&mut self.state(), inode, kill_privileges, |state| match handle {
            Some(handle) => Ok(ftruncate(&state.handle(handle, inode)?.file, size)?),
            None => {
                let file = self.reopen(state.inodes.get(inode)?, OFlags::WRONLY)?;
                Ok(ftruncate(file, size)?)
            }
        })
    }
}

impl FileSystem for Tree {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        // A guest that initialises again has forgotten everything.
        self.forget_all()?;
        Ok(FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::BIG_WRITES
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::INIT_EXT
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::SUBMOUNTS)
    }

    fn destroy(&self) {
        if let Err(error) = self.forget_all() {
            tracing::warn!(%error, "the file server could not forget what the guest knew");
        }
    }

    fn lookup(&self, caller: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = component(name)?;
        let state = &mut *self.state();
        if let Some(again) = self.look_up_again(state, caller, parent, name) {
            return again;
        }
        match self.look_up(state, parent, name) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(self.nothing()),
            other => other,
        }
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.state().forget(inode, count);
    }

    fn batch_forget(&self, _: &Context, requests: Vec<(u64, u64)>) {
        let mut state = self.state();
        requests.into_iter().for_each(|(inode, count)| state.forget(inode, count));
    }

    fn getattr(
        &self,
        _: &Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(libc::stat64, Duration)> {
        let mut state = self.state();
        let seen = match handle {
            Some(handle) => attributes::look(&state.handle(handle, inode)?.file),
            None => attributes::look(&state.inodes.get(inode)?.file),
        };
        Ok((attributes::stat(&seen?), self.config.attribute_timeout))
    }

    fn setattr(
        &self,
        caller: &Context,
        inode: u64,
        wanted: libc::stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(libc::stat64, Duration)> {
        let repeated = self.state().answer_agent(caller, Happened::is_touch);
        if let Some(current) = repeated {
            current?;
            return self.getattr(caller, inode, handle);
        }
        if valid.contains(SetattrValid::SIZE) {
            let kill_privileges = valid.contains(SetattrValid::KILL_SUIDGID);
            self.resize(inode, handle, &wanted, kill_privileges)?;
        }
        {
            let mut state = self.state();
            state.own(inode, Own::File(inode), |state| {
                let file = &state.inodes.get(inode)?.file;
                Subject { descriptors: &self.descriptors, file }.change(&wanted, valid)
            })?;
            let known = state.inodes.get_mut(inode)?;
            if valid.contains(SetattrValid::MODE) {
                known.set_id = wanted.st_mode & attributes::SET_ID != 0;
            }
        }
        self.getattr(caller, inode, handle)
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let target = readlinkat(&state.inodes.get(inode)?.file, c"", Vec::new())?;
        Ok(target.into_bytes())
    }

    fn symlink(
        &self,
        caller: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        let mode = FileType::Symlink.as_raw_mode();
        self.make(caller, (parent, name, mode), |folder, name| symlinkat(target, folder, name))
    }

    fn mknod(
        &self,
        caller: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let kind = FileType::from_raw_mode(mode);
        let permissions = permissions(mode, umask);
        let made = self.make(caller, (parent, name, mode), |folder, name| {
            mknodat(folder, name, kind, permissions, Dev::from(device))
        });
        match (made, Device::asked_for(kind, device)) {
            (Err(error), Some(device)) if error.raw_os_error() == Some(libc::EPERM) => {
                self.make(caller, (parent, name, mode), |folder, name| {
                    make_stand_in(folder, name, permissions, device)
                })
            }
            (made, _) => made,
        }
    }

    fn mkdir(
        &self,
        caller: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let permissions = permissions(mode, umask);
        let mode = FileType::Directory.as_raw_mode();
        self.make(caller, (parent, name, mode), |folder, name| mkdirat(folder, name, permissions))
    }

    fn unlink(&self, caller: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(caller, parent, name, AtFlags::empty())
    }

    fn rmdir(&self, caller: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(caller, parent, name, AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        caller: &Context,
        from: u64,
        from_name: &CStr,
        to: u64,
        to_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let both = [(from, component(from_name)?), (to, component(to_name)?)];
        let flags = RenameFlags::from_bits_retain(flags);
        let state = &mut *self.state();
        let moved = |happened: &Happened| happened.moved(both);
        if let Some(current) = state.answer_agent(caller, moved) {
            current?;
        } else {
            state.own(from, Own::Names(both), |state| {
                let (from, to) = (&state.inodes.get(from)?.file, &state.inodes.get(to)?.file);
                Ok(renameat_with(from, from_name, to, to_name, flags)?)
            })?;
        }
        // The guest looks at what it needs again.
        both.into_iter().for_each(|(folder, name)| state.unlearn(folder, name));
        Ok(())
    }

    fn link(&self, caller: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = component(name)?;
        let state = &mut *self.state();
        if let Some(refused) = state.answer_agent(caller, |_| false) {
            refused?;
        }
        state.own(parent, Own::Name(parent, name), |state| {
            // By its name in /proc: linking a descriptor itself needs CAP_DAC_READ_SEARCH of the
            // host.
            let file = DecInt::from_fd(&state.inodes.get(inode)?.file);
            let folder = &state.inodes.get(parent)?.file;
            Ok(linkat(&self.descriptors, file, folder, name, AtFlags::SYMLINK_FOLLOW)?)
        })?;
        self.look_up(state, parent, name)
    }

    fn open(
        &self,
        caller: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let kill_privileges = fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
        let mut state = self.state();
        // The agent only seems to write.
        let flags = if state.answer_agent(caller, |_| false).is_some() { 0 } else { flags };
        let (handle, options) = self.open_handle(&mut state, inode, flags, kill_privileges)?;
        Ok((Some(handle), options, None))
    }

    fn create(
        &self,
        caller: &Context,
        parent: u64,
        name: &CStr,
        wanted: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let name = component(name)?;
        let mut state = self.state();
        self.check_room(&state)?;
        if let Some(refused) = state.answer_agent(caller, |_| false) {
            refused?;
        }
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = host_flags(wanted.flags) | exclusive;
        let permissions = permissions(wanted.mode, wanted.umask);
        let made = state.own(parent, Own::Name(parent, name), |state| {
            let folder = &state.inodes.get(parent)?.file;
            self.identity.as_owner(caller, || Ok(openat(folder, name, flags, permissions)?))
        });
        let must_be_new = OFlags::from_bits_retain(wanted.flags).contains(OFlags::EXCL);
        let file = match made {
            Ok(file) => Some(file),
            // Somebody else made it first, which the caller does not mind.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !must_be_new => None,
            Err(error) => return Err(error),
        };
        let entry = self.look_up(&mut state, parent, name)?;
        let handle = match file {
            Some(file) => self.keep(&mut state, entry.inode, file, wanted.flags),
            None => {
                let kill_privileges = wanted.fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
                self.open_handle(&mut state, entry.inode, wanted.flags, kill_privileges)?.0
            }
        };
        Ok((entry, Some(handle), OpenOptions::empty(), None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        let mut state = self.state();
        let count = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        to.write_from(&mut state.handle(handle, inode)?.file, count, offset)
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let count = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        let append = host_flags(flags).contains(OFlags::APPEND);
        let kill_privileges = fuse_flags & WRITE_KILL_PRIV != 0;
        self.changing(&mut self.state(), inode, kill_privileges, |state| {
            let handle = state.handle(handle, inode)?;
            handle.set_append(append)?;
            from.read_to(&mut handle.file, count, offset)
        })
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        let mut state = self.state();
        state.handle(handle, inode)?;
        state.own(inode, Own::File(inode), |state| {
            state.handles.remove(handle);
            Ok(())
        })
    }

    fn fsync(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        sync(&self.state().handle(handle, inode)?.file, data_only)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode);
        // The guest's kernel asks by itself for the bits to be taken.
        self.changing(&mut self.state(), inode, false, |state| {
            Ok(fallocate(&state.handle(handle, inode)?.file, mode, offset, length)?)
        })
    }

    fn lseek(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        // The others the guest's kernel works out itself.
        let wanted = match libc::c_int::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(seek(&self.state().handle(handle, inode)?.file, wanted)?)
    }

    fn opendir(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let mut state = self.state();
        self.check_room(&state)?;
        let folder = self.reopen(state.inodes.get(inode)?, OFlags::DIRECTORY)?;
        let handle = self.keep(&mut state, inode, folder, 0);
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        folder::read(self, (handle, inode), (size, offset), add_entry)
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        folder::read_with_attributes(self, (handle, inode), (size, offset), add_entry)
    }

    fn releasedir(&self, _: &Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        let mut state = self.state();
        state.handle(handle, inode)?;
        state.handles.remove(handle);
        Ok(())
    }

    fn fsyncdir(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        sync(&self.state().handle(handle, inode)?.file, data_only)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<libc::statvfs64> {
        let state = self.state();
        let seen = fstatvfs(&state.inodes.get(inode)?.file)?;
        let mut answer = sys::blank_statvfs();
        answer.f_bsize = seen.f_bsize;
        answer.f_frsize = seen.f_frsize;
        answer.f_blocks = seen.f_blocks;
        answer.f_bfree = seen.f_bfree;
        answer.f_bavail = seen.f_bavail;
        answer.f_files = seen.f_files;
        answer.f_ffree = seen.f_ffree;
        answer.f_favail = seen.f_favail;
        answer.f_namemax = seen.f_namemax;
        Ok(answer)
    }

    // The thread's working directory is /proc/self/fd: the name of a descriptor there is a path
    // to its file, whatever kind of file it is.

    fn setxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        refuse_ours(name)?;
        let flags = XattrFlags::from_bits_retain(flags);
        self.state().own(inode, Own::File(inode), |state| {
            let path = DecInt::from_fd(&state.inodes.get(inode)?.file);
            Ok(setxattr(path, name, value, flags)?)
        })
    }

    fn getxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if name == stand_in::ATTRIBUTE {
            return Err(Errno::NODATA.into());
        }
        let state = self.state();
        let path = DecInt::from_fd(&state.inodes.get(inode)?.file);
        if size == 0 {
            return Ok(GetxattrReply::Count(length(getxattr_query(path, name)?)));
        }
        let mut value = vec![0; bounded(size)];
        let length = getxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        Ok(GetxattrReply::Value(value))
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let state = self.state();
        let file = &state.inodes.get(inode)?.file;
        let path = || DecInt::from_fd(file);
        let room = if size == 0 { listxattr_query(path())? } else { bounded(size) };
        let mut names = vec![0; room.min(MAX_XATTR_BYTES)];
        let listed = listxattr(path(), names.as_mut_slice())?;
        let names = stand_in::without_its_attribute(names.get(..listed).unwrap_or_default());
        Ok(match size {
            0 => ListxattrReply::Count(length(names.len())),
            _ => ListxattrReply::Names(names),
        })
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        refuse_ours(name)?;
        self.state().own(inode, Own::File(inode), |state| {
            let path = DecInt::from_fd(&state.inodes.get(inode)?.file);
            Ok(removexattr(path, name)?)
        })
    }
}

/// An empty file in the place of a device.
fn make_stand_in(
    folder: &std::os::fd::OwnedFd,
    name: &CStr,
    permissions: Mode,
    device: Device,
) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, permissions)?;
    stand_in::mark(&file, device).inspect_err(|_| {
        // It is not what was asked for.
        let _ = unlinkat(folder, name, AtFlags::empty());
    })
}

/// What a file stands for is not for guests to say: their kernels ask for no right before.
fn refuse_ours(name: &CStr) -> io::Result<()> {
    if name == stand_in::ATTRIBUTE { Err(Errno::PERM.into()) } else { Ok(()) }
}

fn bounded(size: u32) -> usize {
    usize::try_from(size).map_or(MAX_XATTR_BYTES, |size| size.min(MAX_XATTR_BYTES))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
