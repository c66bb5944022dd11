//! `linux.resources` in a guest: each limit is a file of the container's own cgroup there.

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

#[test]
fn limits_are_files_of_the_containers_cgroup() {
    let files = "memory.max memory.low memory.high cpu.max cpu.max.burst cpu.weight pids.max
        hugetlb.2MB.max hugetlb.2MB.rsvd.max";
    let script = format!("cd /cg; for file in {files}; do echo $file $(cat $file); done");
    let script = script.split_whitespace().collect::<Vec<_>>().join(" ");
    let bundle = Bundle::script(&script)
        .edit(|config| {
            let resources = &mut config["linux"]["resources"];
            resources["memory"] =
                json!({ "limit": 67_108_864, "reservation": 4_194_304, "swap": -1 });
            resources["cpu"] =
                json!({ "shares": 512, "quota": 50_000, "period": 100_000, "burst": 10_000 });
            resources["pids"] = json!({ "limit": 77 });
            resources["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4_194_304 }]);
            resources["unified"] = json!({ "memory.high": "50331648" });
        })
        .mount(json!({ "destination": "/cg", "type": "cgroup", "source": "cgroup" }));
    Runtime::cofferdam().run(&bundle).exits(0).prints(
        "memory.max 67108864\nmemory.low 4194304\nmemory.high 50331648\ncpu.max 50000 100000\n\
         cpu.max.burst 10000\ncpu.weight 59\npids.max 77\nhugetlb.2MB.max 4194304\n\
         hugetlb.2MB.rsvd.max 4194304\n",
    );
}

#[test]
fn a_container_can_be_idle() {
    let bundle = Bundle::busybox(&["cat", "/cg/cpu.idle"])
        .edit(|config| config["linux"]["resources"]["cpu"] = json!({ "idle": 1 }))
        .mount(json!({ "destination": "/cg", "type": "cgroup", "source": "cgroup" }));
    Runtime::cofferdam().run(&bundle).exits(0).prints("1\n");
}

#[test]
fn a_quota_decides_how_many_processors_there_are() {
    let bundle = Bundle::script("grep -c ^processor /proc/cpuinfo").edit(|config| {
        config["linux"]["resources"]["cpu"] = json!({ "quota": 150_000, "period": 100_000 })
    });
    Runtime::cofferdam().run(&bundle).exits(0).prints("2\n");
}

#[test]
fn a_page_size_that_the_guest_lacks_is_named() {
    let bundle = Bundle::busybox(&["true"]).edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] =
            json!([{ "pageSize": "16GB", "limit": 0 }]);
    });
    Runtime::cofferdam()
        .run(&bundle)
        .exits(1)
        .complains(&["linux.resources.hugepageLimits[0]", "16GB"]);
}

#[test]
fn a_process_that_comes_later_can_be_put_into_a_group_below() {
    let bundle = Bundle::script("mkdir /cg/below; sleep 1000").mount(
        json!({ "destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["rw"] }),
    );
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    container.exec(&["sh", "-c", "until [ -d /cg/below ]; do sleep 0.1; done"]).exits(0);
    let group_in = |subgroup: &str| {
        let exec = ["exec", "--cgroup", subgroup, &*container.id, "cat", "/proc/self/cgroup"];
        runtime.verb(&exec)
    };
    group_in("below").exits(0).prints("0::/below\n");
    group_in("/").exits(0).prints("0::/\n");
    group_in("..").exits(255).complains(&["bad sub cgroup path", ".."]);
    group_in("absent").exits(255).complains(&["cgroups at /absent", "no such file or directory"]);
    group_in("memory:below").exits(255).complains(&["unknown controller memory"]);
}
