//! The monitor's users: those of the runtime, each as itself, so that files have the owners that
//! they have on the host. An ordinary user's are what [`crate::plan::own_users`] says.

use std::fs;
use std::io;

/// Every id but the last, which is no id.
const IDENTITY: &str = "0 0 4294967295";

/// Writes the maps of a process in a new user namespace. The error names the file.
pub(super) fn write(pid: i32) -> Result<(), (&'static str, io::Error)> {
    let put = |file: &'static str, text: &str| {
        fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| (file, error))
    };
    for file in ["uid_map", "gid_map"] {
        // A runtime that is itself in a user namespace has only that one's ids to give.
        put(file, IDENTITY).or_else(|_| {
            let own = fs::read_to_string(format!("/proc/self/{file}"));
            put(file, &same_ids(&own.map_err(|error| (file, error))?))
        })?;
    }
    Ok(())
}

/// The ids that a map gives, each mapped to itself.
fn same_ids(map: &str) -> String {
    let same = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (inside, _, count) = (fields.next()?, fields.next()?, fields.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    };
    map.lines().filter_map(same).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_map_gives_the_ids_that_there_are() {
        let own = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(same_ids(own), "0 0 1\n1 1 65536\n");
    }
}
