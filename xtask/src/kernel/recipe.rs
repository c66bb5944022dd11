//! All that decides what a kernel image is, and the key that follows from it.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::source::Source;
use crate::digest::Inputs;

/// Raised when the way of building changes, so that older images are not taken for newer ones.
const BUILD_STEPS_VERSION: u32 = 3;

/// The inputs of one build.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) options: Options,
    pub(super) source: Source,
    /// The compiler's name and version.
    pub(super) compiler: String,
}

impl Recipe {
    /// The cache's key: equal for equal inputs. Reasons and order of options do not count.
    pub(super) fn key(&self) -> String {
        let parts = [
            BUILD_STEPS_VERSION.to_string(),
            self.source.identity.clone(),
            self.compiler.clone(),
            self.options.as_kconfig(),
        ];
        let mut inputs = Inputs::default();
        for part in &parts {
            inputs.add(part);
        }
        inputs.name()
    }
}

/// What `gcc --version` says in its first line.
pub(super) fn compiler() -> Result<String> {
    let output = Command::new("gcc").arg("--version").output().context(
        "Cannot run gcc, which builds the guest kernel: `cargo xtask setup` installs it",
    )?;
    ensure!(output.status.success(), "gcc --version failed: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::source::Origin;

    fn recipe(fragment: &str, source: &str, compiler: &str) -> Recipe {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.config"), fragment).unwrap();
        Recipe {
            options: Options::load(folder.path()).unwrap(),
            source: Source {
                identity: source.to_owned(),
                origin: Origin::Tree("/src".into()),
                proof: String::new(),
            },
            compiler: compiler.to_owned(),
        }
    }

    #[test]
    fn the_key_does_not_depend_on_reasons_comments_and_order() {
        let one = recipe("CONFIG_A=y  # why\nCONFIG_B=n  # r\n", "s", "gcc");
        let other = recipe("# head\nCONFIG_B=n  # another\nCONFIG_A=y  # reason\n", "s", "gcc");
        assert_eq!(one.key(), other.key());
    }

    #[test]
    fn the_key_depends_on_options_source_and_compiler() {
        let base = recipe("CONFIG_A=y  # r\n", "s", "gcc").key();
        assert_ne!(base, recipe("CONFIG_A=n  # r\n", "s", "gcc").key());
        assert_ne!(base, recipe("CONFIG_A=y  # r\n", "t", "gcc").key());
        assert_ne!(base, recipe("CONFIG_A=y  # r\n", "s", "gcc 2").key());
    }
}
