//! Lists of processors, as the kernel writes them: `0-2,7`.

/// More than any Linux host has (`NR_CPUS` at most).
const MAX_CPU: u32 = 8191;

/// `0-2,7` as 0, 1, 2, 7.
#[must_use]
pub fn parse(list: &str) -> Option<Vec<u32>> {
    let parse = |part: &str| part.trim().parse().ok().filter(|cpu: &u32| *cpu <= MAX_CPU);
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
        // A list may name one range over and over: it stays as long as the processors are many.
        if cpus.len() > MAX_CPU as usize {
            cpus.sort_unstable();
            cpus.dedup();
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers_become_a_set() {
        assert_eq!(parse("5-5,3,0-1, 3"), Some(vec![0, 1, 3, 5]));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for list in ["", "x", "3-1", "1,,2", "99999999", "-1", "1-"] {
            assert_eq!(parse(list), None, "{list}");
        }
    }
}
