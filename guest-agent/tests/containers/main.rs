//! Containers made on the host exactly as the agent makes them in the guest, without a guest: in
//! fresh namespaces, from a root file system with busybox in it. What the plan promised is
//! asserted from inside.
//!
//! The agent copies its own process, so it must own its only thread: this test has no harness.
//! It needs root, a cgroup v2 tree and a static busybox, and says so where they are missing.

// All of it is tests, which without a harness the lints cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::pin::Pin;
use std::time::Duration;

use cofferdam_agent::reaper::Reaper;

use crate::fixture::Fixture;

mod control;
mod ends;
mod files;
mod fixture;
mod identity;
mod kernel;
mod lives;
mod newcomers;
mod pods;
mod streams;
mod users;

/// Nothing here takes a second; a hang is a failure.
const DEADLINE: Duration = Duration::from_secs(20);

type Case = (&'static str, fn(Fixture) -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! cases {
    ($($name:path),* $(,)?) => {
        [$((stringify!($name), |fixture| Box::pin($name(fixture)))),*]
    };
}

fn main() {
    let cases: [Case; 46] = cases![
        ends::exit_codes_are_a_shells,
        streams::output_is_sent_before_the_end_is_told,
        streams::input_reaches_the_program_and_its_end_too,
        ends::a_program_that_is_not_there_is_not_found,
        ends::a_file_that_is_no_program_fails_at_the_start,
        files::mounts_are_where_the_plan_says,
        files::a_mount_point_behind_a_link_stays_inside,
        files::a_tmpfs_begins_with_what_it_hides,
        files::a_mount_keeps_its_propagation_whatever_the_roots_is,
        files::paths_are_masked_and_read_only,
        files::devices_have_their_modes_and_owners,
        files::device_rules_hold_for_the_program_alone,
        identity::the_process_is_who_the_plan_says,
        identity::capabilities_are_exactly_those_of_the_plan,
        identity::an_unknown_capability_is_refused,
        identity::a_filter_is_installed,
        identity::names_are_the_containers_own,
        identity::home_comes_from_the_containers_passwd,
        ends::hooks_run_at_the_start_and_can_fail_it,
        ends::a_failed_create_leaves_nothing,
        kernel::a_process_is_scheduled_as_the_plan_says,
        kernel::a_scheduler_that_cannot_be_is_named,
        kernel::one_more_process_has_its_own_processors_and_scheduler,
        kernel::clocks_of_a_time_namespace_are_the_containers_own,
        newcomers::one_more_process_shares_everything,
        users::users_of_a_namespace_are_the_containers_own,
        users::a_user_who_is_not_mapped_is_refused,
        users::one_more_process_joins_the_user_namespace,
        newcomers::one_more_process_that_fails_leaves_nothing,
        streams::a_terminal_is_one_in_both_kinds_of_process,
        ends::signals_reach_their_process,
        ends::the_end_of_init_is_the_end_of_all,
        ends::processes_are_listed,
        pods::a_member_may_be_among_its_pods_processes,
        pods::a_member_has_its_own_processes_unless_it_is_to_share,
        pods::a_member_that_ends_takes_its_own_processes_with_it,
        control::a_frozen_container_stands_still_and_can_be_killed,
        control::limits_are_written_all_or_none,
        control::only_files_of_the_cgroup_can_be_read,
        control::a_container_that_is_not_there_cannot_be_asked,
        streams::a_connection_that_comes_late_gets_what_is_written_later,
        streams::output_waits_for_its_connection_and_so_does_the_end,
        streams::a_child_that_keeps_the_pipe_does_not_hold_up_the_end,
        lives::streams_are_connected_again_in_another_life_and_lose_nothing,
        lives::a_process_that_nobody_comes_back_for_loses_its_streams,
        lives::a_suspension_that_ends_leaves_everything_as_it_was,
    ];
    let asked = Asked::of(std::env::args().skip(1));
    for (name, case) in cases.into_iter().filter(|(name, _)| asked.wants(name)) {
        if asked.list {
            println!("{name}: test");
        } else {
            run_case(case);
            println!("test {name} ... ok");
        }
    }
}

/// What a test runner asks, in libtest's words: nextest lists first, then runs each case in a
/// process of its own.
struct Asked {
    list: bool,
    ignored: bool,
    exact: bool,
    names: Vec<String>,
}

impl Asked {
    fn of(arguments: impl Iterator<Item = String>) -> Self {
        let (flags, names): (Vec<_>, Vec<_>) =
            arguments.partition(|argument| argument.starts_with('-'));
        let has = |flag: &str| flags.iter().any(|given| given == flag);
        let (list, ignored, exact) = (has("--list"), has("--ignored"), has("--exact"));
        let names = names.into_iter().filter(|name| name != "terse").collect();
        Self { list, ignored, exact, names }
    }

    /// No case is ignored.
    fn wants(&self, name: &str) -> bool {
        let named = |given: &String| {
            if self.exact { name == given } else { name.contains(given.as_str()) }
        };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(named))
    }
}

fn run_case(case: fn(Fixture) -> Pin<Box<dyn Future<Output = ()>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new(Reaper::start().unwrap());
        tokio::time::timeout(DEADLINE, case(fixture)).await.expect("the case hangs");
    });
}
