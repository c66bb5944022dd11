//! The difference between two texts, as `diff -u` shows it.

use std::path::Path;

use similar::TextDiff;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Empty where there is none.
pub(super) fn render(
    path: &Path,
    (before, after): (Option<&str>, Option<&str>),
    is_coloured: bool,
) -> String {
    let name = |text: Option<&str>| text.map_or("/dev/null".into(), |_| path.display().to_string());
    let diff = TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default());
    let text = diff.unified_diff().header(&name(before), &name(after)).to_string();
    if is_coloured { text.split_inclusive('\n').map(coloured).collect() } else { text }
}

fn coloured(line: &str) -> String {
    let colour = match line {
        _ if line.starts_with("---") || line.starts_with("+++") => BOLD,
        _ if line.starts_with("@@") => CYAN,
        _ if line.starts_with('-') => RED,
        _ if line.starts_with('+') => GREEN,
        _ => return line.to_owned(),
    };
    format!("{colour}{}{PLAIN}\n", line.trim_end_matches(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_comes_from_nothing_and_a_line_s_sign_has_a_colour() {
        let path = Path::new("/etc/x");
        assert_eq!(
            render(path, (None, Some("a\n")), false),
            "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+a\n"
        );
        let text = render(path, (Some("a\nb\n"), Some("a\nc\n")), true);
        assert!(text.contains("\n a\n") && text.contains("\x1b[31m-b\x1b[0m\n"), "{text:?}");
        assert!(text.ends_with("\x1b[32m+c\x1b[0m\n"), "{text:?}");
        assert_eq!(render(path, (Some("a\n"), Some("a\n")), true), "");
    }
}
