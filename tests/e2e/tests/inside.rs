//! What the process has inside: what `config.json` promised, and what runc makes of it.

use cofferdam_e2e::{Bundle, Mode, Runtime, probe};
use serde_json::{Value, json};

/// The facts that must be the same under every runtime.
const COMMON: [&str; 9] =
    ["uid", "gid", "groups", "umask", "cwd", "hostname", "environment", "rlimits", "oom_score_adj"];

#[track_caller]
fn same(facts: &[&str], ours: &Value, oracle: &Value) {
    for fact in facts {
        assert_eq!(ours[fact], oracle[fact], "{fact} differs from the oracle");
    }
}

#[test]
fn identity_limits_and_environment_are_those_of_the_oracle() {
    let bundle = Bundle::probe(&[]).edit(|config| {
        let process = &mut config["process"];
        process["user"] =
            json!({ "uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 6] });
        process["cwd"] = json!("/tmp");
        process["oomScoreAdj"] = json!(100);
        process["env"] = json!(["PATH=/bin", "A=b c"]);
        process["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }
        ]);
    });
    let ours = probe(&Runtime::cofferdam(), &bundle);
    assert_eq!(ours["rlimits"]["nofile"], json!([100, 200]));
    assert_eq!(ours["umask"], 0o27);
    let oracle = probe(&Runtime::runc(), &bundle);
    same(&["uid", "gid", "groups", "umask", "cwd", "hostname", "oom_score_adj"], &ours, &oracle);
    assert_eq!(ours["environment"]["A"], oracle["environment"]["A"]);
    assert_eq!(ours["rlimits"]["nofile"], oracle["rlimits"]["nofile"]);
}

#[test]
fn capabilities_are_those_of_the_oracle() {
    for keep in [json!(["CAP_NET_BIND_SERVICE"]), json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]), json!([])]
    {
        let bundle = Bundle::probe(&[]).edit(|config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = keep.clone();
            }
        });
        let ours = probe(&Runtime::cofferdam(), &bundle);
        let oracle = probe(&Runtime::runc(), &bundle);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
            assert_eq!(ours["status"][set], oracle["status"][set], "{set} with {keep}");
        }
    }
}

#[test]
fn a_capability_that_cannot_be_ambient_is_left_out_with_a_warning() {
    let bundle = Bundle::busybox(&["grep", "CapAmb", "/proc/self/status"]).edit(|config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]
        });
    });
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("CapAmb:\t0000000000000000\n");
    let said = "can't raise ambient capability CAP_CHOWN";
    assert_eq!(outcome.stderr.matches(said).count(), 1, "{outcome:?}");
}

#[test]
fn a_seccomp_filter_that_is_asked_for_is_in_force() {
    let bundle = Bundle::script("mkdir /made; echo $?; grep Seccomp: /proc/self/status").edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }]
        });
    });
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let outcome = runtime.run(&bundle);
        outcome.exits(0).prints("1\nSeccomp:\t2\n").complains(&["not supported"]);
    }
}

#[test]
fn a_filter_older_than_a_system_call_does_not_hide_the_program() {
    let bundle = Bundle::busybox(&["echo", "ran"]).edit(|config| {
        config["process"]["noNewPrivileges"] = json!(false);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["faccessat2"], "action": "SCMP_ACT_ERRNO" }]
        });
    });
    Runtime::cofferdam().run(&bundle).exits(0).prints("ran\n");
}

#[test]
fn a_filter_may_forbid_what_the_runtime_does_on_the_way() {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::busybox(&["echo", "ran"]).edit(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["getcwd", "close_range", "openat2"], "action": "SCMP_ACT_ERRNO" }],
            });
        });
        Runtime::cofferdam().run(&bundle).exits(0).prints("ran\n");
    }
}

#[test]
fn seccomp_holds_for_exec_as_well() {
    let bundle = Bundle::busybox(&["sleep", "1000"]).edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]
        });
    });
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    container.exec(&["mkdir", "/made"]).exits(1).complains(&["not permitted"]);
}

#[test]
fn seccomp_holds_for_a_hook_in_the_container_as_well() {
    let bundle = Bundle::busybox(&["true"]).edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL" }]
        });
        config["hooks"] = json!({ "startContainer": [
            { "path": "/bin/sh", "args": ["sh", "-c", "exec mkdir /made"] }
        ] });
    });
    let words = "error running startContainer hook #0: signal: bad system call";
    Runtime::cofferdam().run(&bundle).exits(1).complains(&[words]);
    assert!(!bundle.rootfs().join("made").exists());
}

#[test]
fn masked_paths_are_empty_and_readonly_paths_refuse_writes() {
    let bundle =
        Bundle::probe(&["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/sys/kernel/hostname"]);
    let ours = probe(&Runtime::cofferdam(), &bundle);
    assert_eq!(ours["tried"]["/sys/firmware"]["read"], "0 entries");
    assert_eq!(
        ours["tried"]["/proc/sys/kernel/hostname"]["write"],
        "read-only filesystem or storage medium"
    );
}

#[test]
fn a_path_that_is_masked_twice_is_masked_once() {
    let bundle = Bundle::script("grep -c ' /secret ' /proc/self/mountinfo").edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/secret", "/secret"]);
    });
    std::fs::create_dir(bundle.rootfs().join("secret")).unwrap();
    Runtime::cofferdam().run(&bundle).exits(0).prints("1\n");
}

#[test]
fn mounts_and_devices_are_those_of_the_oracle() {
    let bundle = Bundle::probe(&["/dev/null", "/dev/zero"]);
    let ours = probe(&Runtime::cofferdam(), &bundle);
    let oracle = probe(&Runtime::runc(), &bundle);
    // A link to /proc/kcore is there where the kernel has one, which a guest's has not; runc names
    // it core, libcontainer kcore.
    let names = |facts: &Value| -> Vec<String> {
        let names = facts["devices"].as_array().unwrap().iter().map(Value::to_string);
        names.filter(|name| !name.contains("core")).collect()
    };
    assert_eq!(names(&ours), names(&oracle));
    for target in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"] {
        assert_eq!(ours["mounts"][target], oracle["mounts"][target], "{target}");
    }
}

#[test]
fn a_bind_mount_shows_the_host_and_read_only_holds() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "from the host").unwrap();
    let source = host.path().to_str().unwrap();
    let bundle = Bundle::script("cat /ro/file; echo new > /rw/new; echo x > /ro/x || echo refused")
        .mount(json!({ "destination": "/ro", "type": "bind", "source": source, "options": ["rbind", "ro"] }))
        .mount(json!({ "destination": "/rw", "type": "bind", "source": source, "options": ["rbind"] }));
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("from the hostrefused\n");
    assert_eq!(std::fs::read_to_string(host.path().join("new")).unwrap(), "new\n");
    assert!(!host.path().join("x").exists());
}

#[test]
fn a_single_file_can_be_bound() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nameserver 9.9.9.9\n").unwrap();
    let source = file.path().to_str().unwrap();
    let bundle = Bundle::busybox(&["cat", "/etc/resolv.conf"])
        .mount(json!({ "destination": "/etc/resolv.conf", "type": "bind", "source": source, "options": ["bind"] }));
    Runtime::cofferdam().run(&bundle).exits(0).prints("nameserver 9.9.9.9\n");
}

#[test]
fn a_read_only_root_refuses_writes() {
    let bundle = Bundle::script("echo x > /x || echo refused").edit(|config| {
        config["root"]["readonly"] = json!(true);
    });
    Runtime::cofferdam().run(&bundle).exits(0).prints("refused\n");
    assert!(!bundle.rootfs().join("x").exists());
}

#[test]
fn a_memory_limit_ends_what_takes_more() {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null; echo $?";
    let bundle = Bundle::script(script).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 33_554_432, "swap": 33_554_432 });
    });
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let outcome = runtime.run(&bundle);
        // The kernel's choice is dd, or the shell that waits for it.
        assert!(outcome.stdout == "137\n" || outcome.code == 137, "{outcome:?}");
    }
}

#[test]
fn a_pids_limit_holds() {
    let bundle = Bundle::script("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait; echo all")
        .edit(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 5 }));
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.complains(&["fork"]);
}

#[test]
fn sysctls_are_set() {
    let bundle = Bundle::busybox(&["cat", "/proc/sys/kernel/msgmax"])
        .edit(|config| config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4096" }));
    Runtime::cofferdam().run(&bundle).exits(0).prints("4096\n");
}

#[test]
fn each_isolation_has_the_kernel_that_it_promises() {
    let outcome = Runtime::cofferdam().run(&Bundle::busybox(&["uname", "-r"]));
    let host = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let same = outcome.exits(0).stdout.trim() == host;
    assert_eq!(same, Mode::current() == Mode::Namespace, "{} on {host}", outcome.stdout);
}

#[test]
fn a_container_sees_only_its_own_processes() {
    let ours = probe(&Runtime::cofferdam(), &Bundle::probe(&[]));
    assert_eq!(ours["pids"], json!([1]));
    same(&COMMON[..3], &ours, &probe(&Runtime::runc(), &Bundle::probe(&[])));
}
