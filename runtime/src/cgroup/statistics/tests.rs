use proptest::prelude::*;

use super::*;

fn statistics(version: Version, files: &[(&str, &str)]) -> String {
    let read = |name: &str| {
        files.iter().find(|(file, _)| *file == name).map(|(_, text)| (*text).to_owned())
    };
    serde_json::to_string(&Statistics::from_files(version, &read)).unwrap()
}

/// The files behind a line that runc printed.
const V1: &[(&str, &str)] = &[
    ("cpuacct.usage", "7477192\n"),
    ("cpuacct.usage_percpu", "4808302 2668890 \n"),
    ("cpuacct.usage_all", "cpu user system\n0 4000000 0\n1 957526 0\n"),
    ("cpuacct.stat", "user 0\nsystem 0\n"),
    ("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
    ("cpuset.cpus", "0-1\n"),
    ("cpuset.mems", "0\n"),
    ("cpuset.sched_load_balance", "1\n"),
    ("cpuset.sched_relax_domain_level", "-1\n"),
    ("memory.limit_in_bytes", "9223372036854771712\n"),
    ("memory.usage_in_bytes", "987136\n"),
    ("memory.max_usage_in_bytes", "2764800\n"),
    ("memory.failcnt", "0\n"),
    ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    ("memory.memsw.usage_in_bytes", "987136\n"),
    ("memory.memsw.max_usage_in_bytes", "2764800\n"),
    ("memory.kmem.limit_in_bytes", "9223372036854771712\n"),
    ("memory.kmem.usage_in_bytes", "454656\n"),
    ("memory.kmem.max_usage_in_bytes", "532480\n"),
    ("memory.kmem.tcp.limit_in_bytes", "9223372036854771712\n"),
    ("memory.stat", "rss 49152\ncache 0\n"),
    ("pids.current", "1\n"),
    ("pids.max", "max\n"),
];

#[test]
fn with_v1_a_line_is_runcs_own() {
    assert_eq!(
        statistics(Version::V1, V1),
        concat!(
            r#"{"cpu":{"usage":{"total":7477192,"percpu":[4808302,2668890],"percpu_kernel":[0,0],"#,
            r#""percpu_user":[4000000,957526],"kernel":0,"user":0},"throttling":{}},"#,
            r#""cpuset":{"cpus":[0,1],"cpu_exclusive":0,"mems":[0],"mem_hardwall":0,"#,
            r#""mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"#,
            r#""memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":1,"#,
            r#""sched_relax_domain_level":-1},"#,
            r#""memory":{"usage":{"limit":9223372036854771712,"usage":987136,"max":2764800,"failcnt":0},"#,
            r#""swap":{"limit":9223372036854771712,"usage":987136,"max":2764800,"failcnt":0},"#,
            r#""kernel":{"limit":9223372036854771712,"usage":454656,"max":532480,"failcnt":0},"#,
            r#""kernelTCP":{"limit":9223372036854771712,"failcnt":0},"raw":{"cache":0,"rss":49152}},"#,
            r#""pids":{"current":1},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}"#,
        )
    );
}

#[test]
fn with_v2_times_are_nanoseconds_and_swap_includes_memory() {
    let text = statistics(
        Version::V2,
        &[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 3\nnr_throttled 1\nthrottled_usec 5\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("cpuset.cpus.effective", "0\n"),
            ("memory.stat", "anon 10\nfile 20\n"),
            ("memory.current", "100\n"),
            ("memory.max", "1000\n"),
            ("memory.peak", "300\n"),
            ("memory.events", "low 0\nmax 2\noom_kill 1\n"),
            ("memory.swap.current", "5\n"),
            ("memory.swap.max", "500\n"),
            ("pids.current", "2\n"),
            ("pids.max", "9\n"),
            ("io.stat", "8:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.events", "max 4\n"),
        ],
    );
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    insta::assert_json_snapshot!(parsed["cpu"], @r#"
    {
      "psi": {
        "full": {
          "avg10": 0.0,
          "avg300": 0.0,
          "avg60": 0.0,
          "total": 0
        },
        "some": {
          "avg10": 1.5,
          "avg300": 0.0,
          "avg60": 0.0,
          "total": 7
        }
      },
      "throttling": {
        "periods": 3,
        "throttledPeriods": 1,
        "throttledTime": 5000
      },
      "usage": {
        "kernel": 10000,
        "total": 30000,
        "user": 20000
      }
    }
    "#);
    assert_eq!(parsed["memory"]["cache"], 20);
    assert_eq!(parsed["memory"]["usage"]["failcnt"], 2);
    assert_eq!(parsed["memory"]["swap"]["limit"], 1500);
    assert_eq!(parsed["memory"]["swap"]["usage"], 105);
    assert_eq!(parsed["pids"], serde_json::json!({"current": 2, "limit": 9}));
    assert_eq!(parsed["blkio"]["ioServiceBytesRecursive"][0]["op"], "Read");
    assert_eq!(parsed["blkio"]["ioServicedRecursive"][1]["value"], 3);
    assert_eq!(parsed["hugetlb"]["2MB"], serde_json::json!({"usage": 2_097_152, "failcnt": 4}));
    assert_eq!(parsed["cpuset"]["cpus"], serde_json::json!([0]));
}

#[test]
fn no_limit_is_the_largest_number() {
    let text = statistics(Version::V2, &[("memory.max", "max\n"), ("memory.current", "1\n")]);
    assert!(text.contains(r#""usage":{"limit":18446744073709551615,"usage":1,"failcnt":0}"#));
}

proptest! {
    /// A guest may say anything: it is taken, and it stays in its bounds.
    #[test]
    fn any_text_is_taken(text in "(\\PC|[\n :=-]){0,200}", numbers in "[0-9 \n:,=-]{0,200}") {
        for version in [Version::V1, Version::V2] {
            for text in [&text, &numbers] {
                let statistics = Statistics::from_files(version, &|_| Some(text.clone()));
                prop_assert!(serde_json::to_string(&statistics).is_ok());
                prop_assert!(statistics.cpuset.cpus.len() <= MAX_CPUS);
            }
        }
    }
}
