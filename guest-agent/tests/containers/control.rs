//! What the host asks of a container that runs: to be frozen, limited and observed.

use cofferdam_protocol::agent::CgroupFile;

use crate::fixture::*;

fn file(name: &str, text: &str) -> CgroupFile {
    CgroupFile { name: name.to_owned(), text: text.to_owned(), ..Default::default() }
}

pub(crate) async fn a_frozen_container_stands_still_and_can_be_killed(mut fixture: Fixture) {
    running(&fixture, "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done").await;
    let counted = fixture.rootfs().join("count");
    while !counted.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(fixture.agent.freeze(&fixture.id, true).await.unwrap());
    let before = fs::read(&counted).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fs::read(&counted).unwrap(), before);
    assert!(fixture.agent.freeze(&fixture.id, false).await.unwrap());
    while fs::read(&counted).unwrap() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(fixture.agent.freeze(&fixture.id, true).await.unwrap());
    assert!(fixture.agent.signal(INIT, 9).unwrap());
    assert_eq!(fixture.end(INIT).await, 137);
}

pub(crate) async fn limits_are_written_all_or_none(fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let depth = || fs::read_to_string(fixture.group().join("cgroup.max.depth")).unwrap();
    let set = |files: &[CgroupFile]| fixture.agent.update(&fixture.id, files).unwrap();
    assert_eq!(set(&[file("cgroup.max.depth", "7")]), None);
    assert_eq!(depth(), "7\n");
    for refused in [file("cgroup.max.descendants", "many"), file("../cgroup.procs", "0")] {
        let name = refused.name.clone();
        let failure = set(&[file("cgroup.max.depth", "9"), refused]).unwrap();
        assert!(failure.contains(&name), "{failure}");
        assert_eq!(depth(), "7\n");
    }
}

pub(crate) async fn only_files_of_the_cgroup_can_be_read(fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let names = ["cgroup.events", "no.such", "../cgroup.procs", "/etc/passwd"].map(str::to_owned);
    let files = fixture.agent.read_cgroup(&fixture.id, &names).unwrap();
    assert_eq!(files.len(), 1);
    assert!(files[0].text.contains("populated 1"), "{files:?}");
}

pub(crate) async fn a_container_that_is_not_there_cannot_be_asked(fixture: Fixture) {
    let (agent, id) = (&fixture.agent, &fixture.id);
    assert!(matches!(agent.freeze(id, true).await, Err(RequestError::NoContainer(_))));
    assert!(matches!(agent.update(id, &[]), Err(RequestError::NoContainer(_))));
    assert!(matches!(agent.read_cgroup(id, &[]), Err(RequestError::NoContainer(_))));
    assert!(matches!(agent.wait_oom(id, 0).await, Err(RequestError::NoContainer(_))));
}
