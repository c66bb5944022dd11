//! `man`: the manual pages, one for each verb, from the command line's own definition.

use std::fs;
use std::io;

use clap::CommandFactory;

use crate::cli::{Cli, ManArgs};

pub(super) fn run(args: &ManArgs) -> io::Result<()> {
    fs::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(Cli::command(), &args.folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_verb_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        run(&ManArgs { folder: folder.path().to_path_buf() }).unwrap();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page = folder.path().join(format!("cofferdam-{}.1", verb.get_name()));
            assert!(page.exists(), "{}", page.display());
        }
    }
}
