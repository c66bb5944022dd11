//! A process's environment as runc has it.

use std::collections::HashSet;

/// Of a name that is there twice the last holds; an empty `HOME` is none.
#[must_use]
pub fn last_of_each_name(env: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let mut kept: Vec<String> =
        env.iter().rev().filter(|entry| seen.insert(name(entry))).cloned().collect();
    kept.reverse();
    kept.retain(|entry| entry != "HOME=");
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_that_is_there_twice_the_last_holds() {
        let env = ["A=1", "HOME=/x", "B=2", "A=3"].map(str::to_owned);
        assert_eq!(last_of_each_name(&env), ["HOME=/x", "B=2", "A=3"]);
    }

    #[test]
    fn an_empty_home_is_none_whatever_it_was_before() {
        let env = ["HOME=/x", "HOME="].map(str::to_owned);
        assert!(last_of_each_name(&env).is_empty());
    }
}
