//! What an ordinary user has and lacks, beside what root would.

use crate::cgroup::delegation::{self, NoGroup};
use crate::doctor::{Finding, Health};
use crate::host::subordinate::{Range, Subordinate, is_program};

use super::checks::{bad, ok};

/// Looks at what matters to a user alone.
#[must_use]
pub(super) fn look() -> Vec<Finding> {
    let programs = ["newuidmap", "newgidmap"].into_iter().all(is_program);
    let group = delegation::find(None, "cofferdam-doctor").map(|path| path.display().to_string());
    vec![
        mapping_programs(programs),
        subordinate_ids(programs.then(Subordinate::current)),
        delegated_group(group),
    ]
}

fn mapping_programs(are_there: bool) -> Finding {
    let name = "newuidmap";
    if are_there {
        return ok(name, "newuidmap and newgidmap are there");
    }
    bad(
        name,
        Health::Weak,
        "not there: a container has the user's own id and no other",
        "apt-get install uidmap",
    )
}

fn subordinate_ids(found: Option<Subordinate>) -> Finding {
    let name = "subordinate ids";
    let words = |(first, count): Range| format!("{count} from {first}");
    match found {
        Some(Subordinate { users: Some(users), groups: Some(groups) }) => {
            ok(name, format!("users: {}; groups: {}", words(users), words(groups)))
        }
        Some(_) => bad(
            name,
            Health::Weak,
            "none in /etc/subuid or /etc/subgid: a container has the user's own id and no other",
            "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        ),
        None => bad(name, Health::Weak, "not looked for without newuidmap", "see newuidmap"),
    }
}

fn delegated_group(found: Result<String, NoGroup>) -> Finding {
    let name = "delegation";
    match found {
        Ok(path) => ok(name, format!("control groups as {path}: limits, pause and events work")),
        Err(NoGroup::V1) => bad(
            name,
            Health::Weak,
            "none: cgroup v1 cannot be delegated, so no limits, pause, update or events",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Err(NoGroup::NotDelegated) => bad(
            name,
            Health::Weak,
            "no control group is this user's: no limits, pause, update or events in namespaces",
            "systemd-run --user --scope --property=Delegate=yes COMMAND",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_missing_has_its_remedy() {
        let remedies = [
            mapping_programs(false),
            subordinate_ids(Some(Subordinate::default())),
            delegated_group(Err(NoGroup::V1)),
            delegated_group(Err(NoGroup::NotDelegated)),
        ]
        .map(|finding| finding.remedy.unwrap());
        for (remedy, words) in
            remedies.iter().zip(["uidmap", "--add-subuids", "unified_cgroup", "Delegate=yes"])
        {
            assert!(remedy.contains(words), "{remedy}");
        }
    }

    #[test]
    fn what_is_there_needs_none() {
        let some = Subordinate { users: Some((100_000, 65536)), groups: Some((100_000, 65536)) };
        let findings = [
            mapping_programs(true),
            subordinate_ids(Some(some)),
            delegated_group(Ok("/sys/fs/cgroup/user/x".to_owned())),
        ];
        assert!(findings.iter().all(|found| found.health == Health::Ok));
        assert!(findings[1].detail.contains("65536 from 100000"));
    }
}
