//! What a script of an engine's commands gave, to be compared with what it gives with runc.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Outcome;

/// Digits of an identifier that an engine makes up, short and whole.
const ID_DIGITS: [usize; 2] = [12, 64];
/// A time begins as `2026-11-28T11:36:00`.
const TIME: &str = "dddd-dd-ddTdd:dd:dd";

/// The steps of a script and what came of each, without what is another for each container.
#[derive(Debug, Default)]
pub struct Transcript {
    steps: Vec<(String, String)>,
}

impl Transcript {
    /// A command: its code and its streams.
    pub fn ran(&mut self, what: &str, outcome: &Outcome) {
        let Outcome { code, stdout, stderr } = outcome;
        self.says(what, &format!("code {code}\nstdout:\n{stdout}\nstderr:\n{stderr}"));
    }

    /// Some text.
    pub fn says(&mut self, what: &str, text: &str) {
        self.steps.push((what.to_owned(), without_identities(text)));
    }

    /// A document, but for the fields of these names, wherever they are.
    pub fn shows(&mut self, what: &str, document: &str, but: &[&str]) {
        let mut document: Value =
            serde_json::from_str(document).unwrap_or_else(|error| panic!("{what}: {error}"));
        remove(&mut document, but);
        self.says(what, &serde_json::to_string_pretty(&document).unwrap());
    }

    /// Each step gave what it gave with the oracle.
    #[track_caller]
    pub fn is_as(&self, oracle: &Self) {
        let mut differences = String::new();
        for ((what, ours), (_, theirs)) in self.steps.iter().zip(&oracle.steps) {
            if ours != theirs {
                write!(differences, "{what}:\n{}", lines_that_differ(ours, theirs)).unwrap();
            }
        }
        assert!(differences.is_empty(), "not as with the oracle (+):\n{differences}");
        assert_eq!(self.steps.len(), oracle.steps.len());
    }
}

fn remove(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !names.contains(&name.as_str()));
            fields.values_mut().for_each(|field| remove(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove(item, names)),
        _ => {}
    }
}

/// With `ID` and `TIME` where something is another each time.
fn without_identities(text: &str) -> String {
    let is_of_a_word = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
    let mut said = String::new();
    for part in text.split_inclusive(|c: char| !is_of_a_word(c)) {
        let word = part.trim_end_matches(|c: char| !is_of_a_word(c));
        said.push_str(word_for(word));
        said.push_str(&part[word.len()..]);
    }
    said
}

fn word_for(word: &str) -> &str {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let id = word.strip_prefix("sha256:").unwrap_or(word);
    if ID_DIGITS.contains(&id.len()) && id.chars().all(is_digit) {
        return "ID";
    }
    let fits = |(c, shape): (char, char)| c == shape || shape == 'd' && c.is_ascii_digit();
    if word.len() >= TIME.len() && word.chars().zip(TIME.chars()).all(fits) {
        return "TIME";
    }
    word
}

/// Lines of one only: ours with `-`, the oracle's with `+`.
fn lines_that_differ(ours: &str, theirs: &str) -> String {
    let of_one = |sign: &str, one: &str, other: &str| -> String {
        let lines = one.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines.map(|line| format!("  {sign} {line}\n")).collect()
    };
    let lines = of_one("-", ours, theirs) + &of_one("+", theirs, ours);
    if lines.is_empty() { format!("  - {ours}\n  + {theirs}\n") } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_each_time_is_not_compared() {
        let id = "0123456789ab";
        let whole = id.repeat(6).split_at(64).0.to_owned();
        let text = format!("{id} \"{whole}\" sha256:{whole} 2026-11-28T11:36:00.5Z, x");
        assert_eq!(without_identities(&text), "ID \"ID\" ID TIME, x");
        assert_eq!(without_identities("deadbeef 0123456789aX\n"), "deadbeef 0123456789aX\n");
    }

    #[test]
    fn fields_are_left_out_at_any_depth() {
        let mut told = Transcript::default();
        told.shows("one", r#"[{"Pid": 1, "State": {"Pid": 2, "Code": 3}}]"#, &["Pid"]);
        let mut oracle = Transcript::default();
        oracle.shows("one", r#"[{"State": {"Code": 3}}]"#, &[]);
        told.is_as(&oracle);
    }

    #[test]
    #[should_panic(expected = "  - code 1\n  + code 0\n")]
    fn another_code_is_told_with_its_line() {
        let outcome = |code| Outcome { code, stdout: "x".into(), stderr: String::new() };
        let (mut told, mut oracle) = (Transcript::default(), Transcript::default());
        told.ran("run", &outcome(1));
        oracle.ran("run", &outcome(0));
        told.is_as(&oracle);
    }
}
