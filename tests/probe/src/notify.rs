//! Watches paths with inotify, and writes down what it is told.
//!
//! `--notify FILE PATH…` appends a line to FILE for each event: the path, the events, the name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

const EVENTS: [(ReadFlags, &str); 9] = [
    (ReadFlags::CREATE, "create"),
    (ReadFlags::DELETE, "delete"),
    (ReadFlags::MOVED_FROM, "moved-from"),
    (ReadFlags::MOVED_TO, "moved-to"),
    (ReadFlags::MODIFY, "modify"),
    (ReadFlags::ATTRIB, "attributes"),
    (ReadFlags::CLOSE_WRITE, "written"),
    (ReadFlags::DELETE_SELF, "gone"),
    (ReadFlags::IGNORED, "ignored"),
];

/// Watches until it is killed.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let [out, paths @ ..] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut out = OpenOptions::new().append(true).create(true).open(out)?;
    let events = inotify::init(CreateFlags::CLOEXEC)?;
    let mut watched = Vec::new();
    for path in paths {
        watched.push((inotify::add_watch(&events, path, WatchFlags::ALL_EVENTS)?, path));
    }
    writeln!(out, "ready")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&events, &mut buffer);
    loop {
        let event = reader.next()?;
        let path = watched.iter().find(|(watch, _)| *watch == event.wd());
        let path = path.map_or("?", |(_, path)| path.as_str());
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        tell(&mut out, path, event.events(), &name.unwrap_or_default())?;
    }
}

fn tell(out: &mut File, path: &str, flags: ReadFlags, name: &str) -> io::Result<()> {
    for (_, event) in EVENTS.into_iter().filter(|(flag, _)| flags.contains(*flag)) {
        out.write_all(format!("{path} {event} {name}\n").as_bytes())?;
    }
    Ok(())
}
