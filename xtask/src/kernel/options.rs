//! The kernel's options: what `kernel-config/*.config` asks for, each with its reason, and what of
//! it kconfig did not grant.
//!
//! A line is `CONFIG_NAME=value  # reason`, empty, or a comment. An option stands once in all
//! fragments. `=n` is a wish like any other: kconfig may not turn the option on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// One line of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// `y`, `n`, a number, or a string in its quotes.
    value: String,
    /// Why.
    reason: String,
    /// The fragment that it stands in.
    fragment: String,
}

/// All that the fragments ask for, by option name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options(BTreeMap<String, Wish>);

/// Where the fragments are.
pub(super) fn folder() -> PathBuf {
    crate::workspace::root().join("kernel-config")
}

impl Options {
    /// Read every fragment in `folder`.
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        for entry in
            fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "config") {
                paths.push(path);
            }
        }
        paths.sort();
        ensure!(!paths.is_empty(), "There is no fragment (*.config) in {}", folder.display());
        let mut options = Self::default();
        for path in paths {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("Cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            options.add(&name, &text)?;
        }
        Ok(options)
    }

    /// Add the fragment `text`, called `fragment` in errors.
    fn add(&mut self, fragment: &str, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{fragment}.config line {}", number + 1);
            let Some((name, value, reason)) = parse_line(line).with_context(at)? else { continue };
            let wish = Wish { value, reason, fragment: fragment.to_owned() };
            if let Some(earlier) = self.0.insert(name.clone(), wish) {
                bail!("{}: {name} stands in {}.config already", at(), earlier.fragment);
            }
        }
        Ok(())
    }

    /// What kconfig reads: the wishes without their reasons. The same wishes give the same text.
    pub(super) fn as_kconfig(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, wish)| {
            let _ = writeln!(text, "{name}={}", wish.value);
            text
        })
    }

    /// A table for people, in the order of fragments.
    pub(super) fn as_markdown(&self) -> String {
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by_key(|(name, wish)| (&wish.fragment, *name));
        let mut text = String::from("| Fragment | Option | Value | Reason |\n|---|---|---|---|\n");
        for (name, Wish { value, reason, fragment }) in rows {
            let _ = writeln!(text, "| {fragment} | `{name}` | `{value}` | {reason} |");
        }
        text
    }

    /// Fail, naming each option, if `granted` (a finished `.config`) is not what was asked for.
    pub(super) fn check_granted(&self, granted: &str) -> Result<()> {
        let refused = self.refused(granted);
        if refused.is_empty() {
            return Ok(());
        }
        bail!(
            "Kconfig did not grant {} of the options asked for. Each depends on another that is off, was \
             renamed, or is forced by another:\n  {}",
            refused.len(),
            refused.join("\n  ")
        )
    }

    fn refused(&self, granted: &str) -> Vec<String> {
        let granted: BTreeMap<&str, &str> = granted
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .collect();
        let mut refused = Vec::new();
        for (name, wish) in &self.0 {
            // An option that is off is not in the file, or stands there as a comment.
            let got = granted.get(name.as_str()).copied().unwrap_or("n");
            if got != wish.value {
                refused
                    .push(format!("{name}={} ({}.config): got {got}", wish.value, wish.fragment));
            }
        }
        refused
    }
}

/// Name, value and reason of one line; nothing for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<(String, String, String)>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        ensure!(
            !line.ends_with(" is not set"),
            "write `CONFIG_NAME=n  # reason` for an option that must be off"
        );
        return Ok(None);
    }
    let Some((assignment, reason)) = line.split_once('#') else {
        bail!("`{line}` has no reason: write `CONFIG_NAME=value  # reason`");
    };
    let Some((name, value)) = assignment.trim().split_once('=') else {
        bail!("`{line}` is not `CONFIG_NAME=value  # reason`");
    };
    let reason = reason.trim();
    ensure!(!reason.is_empty(), "{name} has no reason");
    ensure!(is_option_name(name), "`{name}` is no option's name");
    ensure!(
        is_value(value),
        "`{value}` is no value for {name}: y, n, a number, or a string in quotes"
    );
    Ok(Some((name.to_owned(), value.to_owned(), reason.to_owned())))
}

fn is_option_name(name: &str) -> bool {
    name.strip_prefix("CONFIG_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// There are no modules, so `m` is not among them.
fn is_value(value: &str) -> bool {
    let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    let hexadecimal = value.strip_prefix("0x").is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    matches!(value, "y" | "n") || value.parse::<i64>().is_ok() || hexadecimal || quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fragments: &[(&str, &str)]) -> Result<Options> {
        let mut options = Options::default();
        for (name, text) in fragments {
            options.add(name, text)?;
        }
        Ok(options)
    }

    fn message(result: Result<Options>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn fragments_merge_in_the_order_of_names_and_lose_their_reasons() {
        let merged = options(&[
            ("b", "# head\n\nCONFIG_SMP=y  # vCPUs\nCONFIG_NR_CPUS=64  # one word\n"),
            ("a", "CONFIG_LSM=\"landlock\"  # order\nCONFIG_PCI=n  # none\n"),
        ])
        .unwrap();
        assert_eq!(
            merged.as_kconfig(),
            "CONFIG_LSM=\"landlock\"\nCONFIG_NR_CPUS=64\nCONFIG_PCI=n\nCONFIG_SMP=y\n"
        );
    }

    #[test]
    fn an_option_without_reason_is_refused() {
        assert!(message(options(&[("a", "CONFIG_SMP=y\n")])).contains("has no reason"));
        assert!(message(options(&[("a", "\nCONFIG_SMP=y  #  \n")])).contains("a.config line 2"));
    }

    #[test]
    fn an_option_asked_for_twice_is_refused() {
        let twice = options(&[("a", "CONFIG_SMP=y  # one\n"), ("b", "CONFIG_SMP=n  # two\n")]);
        assert!(message(twice).contains("CONFIG_SMP stands in a.config already"));
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "SMP=y  # r",
            "CONFIG_SMP  # r",
            "CONFIG_SMP=m  # r",
            "CONFIG_A-B=y  # r",
            "CONFIG_X=0x  # r",
        ] {
            assert!(options(&[("a", line)]).is_err(), "{line}");
        }
        assert!(options(&[("a", "# CONFIG_SMP is not set\n")]).is_err());
    }

    #[test]
    fn every_kind_of_value_is_taken() {
        for value in ["y", "n", "64", "-1", "0x1000000", "\"\"", "\"a b\""] {
            assert!(options(&[("a", &format!("CONFIG_X={value}  # r"))]).is_ok(), "{value}");
        }
    }

    #[test]
    fn what_kconfig_dropped_changed_or_forced_is_named() {
        let wishes = options(&[(
            "a",
            "CONFIG_A=y  # r\nCONFIG_B=y  # r\nCONFIG_C=64  # r\nCONFIG_D=n  # r\nCONFIG_E=n  # r\nCONFIG_F=y  # r\n",
        )])
        .unwrap();
        let granted =
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=8\nCONFIG_D=y\n# CONFIG_E is not set\n";
        assert_eq!(
            wishes.refused(granted),
            [
                "CONFIG_B=y (a.config): got n",
                "CONFIG_C=64 (a.config): got 8",
                "CONFIG_D=n (a.config): got y",
                "CONFIG_F=y (a.config): got n",
            ]
        );
        assert!(wishes.check_granted(granted).is_err());
    }

    #[test]
    fn a_config_that_grants_everything_passes() {
        let wishes =
            options(&[("a", "CONFIG_A=y  # r\nCONFIG_LSM=\"a=b\"  # r\nCONFIG_D=n  # r\n")])
                .unwrap();
        wishes.check_granted("CONFIG_A=y\nCONFIG_LSM=\"a=b\"\nCONFIG_OTHER=y\n").unwrap();
    }

    #[test]
    fn the_fragments_of_this_repository_are_well_formed() {
        let options = Options::load(&folder()).unwrap();
        assert!(options.as_kconfig().contains("CONFIG_KVM_GUEST=y\n"));
        assert!(options.as_kconfig().contains("CONFIG_VSOCKETS_LOOPBACK=n\n"));
    }
}
