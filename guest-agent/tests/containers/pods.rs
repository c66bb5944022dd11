//! Containers that join another one's pod.

use cofferdam_protocol::vm_config::PodPlace;

use crate::fixture::*;

const MEMBER: ProcessToken = ProcessToken(3);
const LOOK: ProcessToken = ProcessToken(4);

/// A container that joins the fixture's: its name, and its plan.
fn member(fixture: &Fixture, place: u8, shares_processes: bool) -> (ContainerId, ContainerPlan) {
    let place = PodPlace(place);
    let folder = fixture.folder.path().join("shares");
    fs::create_dir(folder.join(place.shares())).unwrap();
    fs::create_dir_all(folder.join(place.root()).join("bin")).unwrap();
    for program in ["busybox", "sh", "sleep", "cat"] {
        let program = format!("bin/{program}");
        fs::copy(fixture.rootfs().join(&program), folder.join(place.root()).join(&program))
            .unwrap();
    }
    let mut plan = plan(&["sh", "-c", "sleep 601 & sleep 602 & wait"]);
    plan.process.stdio = StdioPlan::Pipes { stdin: false, stdout: false, stderr: false };
    let sandbox = fixture.id.clone();
    plan.pod = Some(PodPlan { sandbox, place, ipc: true, uts: false, pid: shares_processes });
    (format!("{}-{}", fixture.id, place.root()).parse().unwrap(), plan)
}

async fn join(fixture: &Fixture, id: &ContainerId, plan: &ContainerPlan) {
    let made = fixture.agent.create(id, MEMBER, plan).await;
    made.unwrap_or_else(|error| panic!("{}", failure(error)));
    fixture.agent.start(id).await.unwrap();
    while commands(fixture, id).len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn commands(fixture: &Fixture, id: &ContainerId) -> Vec<String> {
    let listed = fixture.agent.processes(id).unwrap();
    let mut commands: Vec<_> = listed.into_iter().map(|entry| entry.command).collect();
    commands.retain(|command| !command.contains('['));
    commands.sort();
    commands
}

/// The command lines of all processes that a container sees.
async fn seen_by(fixture: &Fixture, id: &ContainerId) -> String {
    let look = process(&["sh", "-c", "cat /proc/[0-9]*/cmdline"]);
    fixture.agent.exec(id, LOOK, &look, None).await.unwrap();
    let mut seen = Vec::new();
    fixture.connect(LOOK, StreamKind::Stdout).read_to_end(&mut seen).await.unwrap();
    String::from_utf8(seen).unwrap().replace('\0', " ")
}

pub(crate) async fn a_member_may_be_among_its_pods_processes(fixture: Fixture) {
    running(&fixture, "sleep 600; true").await;
    let (id, plan) = member(&fixture, 0, true);
    join(&fixture, &id, &plan).await;
    let seen = seen_by(&fixture, &id).await;
    assert!(seen.contains("sleep 600") && seen.contains("sleep 601"), "{seen}");
    assert_eq!(commands(&fixture, &id)[1..], ["sleep 601", "sleep 602"]);
    assert!(!commands(&fixture, &fixture.id).contains(&"sleep 601".to_owned()));
    // The end of the sandbox's first process is the end of all.
    assert!(fixture.agent.signal(INIT, 9).unwrap());
    assert_eq!(fixture.agent.wait(MEMBER).await.unwrap().code, 137);
}

pub(crate) async fn a_member_has_its_own_processes_unless_it_is_to_share(fixture: Fixture) {
    running(&fixture, "sleep 600; true").await;
    let (id, plan) = member(&fixture, 0, false);
    join(&fixture, &id, &plan).await;
    let seen = seen_by(&fixture, &id).await;
    assert!(!seen.contains("sleep 600") && seen.contains("sleep 601"), "{seen}");
    assert!(fixture.agent.signal(MEMBER, 9).unwrap());
    assert_eq!(fixture.agent.wait(MEMBER).await.unwrap().code, 137);
}

pub(crate) async fn a_member_that_ends_takes_its_own_processes_with_it(fixture: Fixture) {
    running(&fixture, "sleep 600; true").await;
    let (id, plan) = member(&fixture, 0, true);
    join(&fixture, &id, &plan).await;
    // It is not the first of its pid namespace: what it does not handle ends it.
    assert!(fixture.agent.signal(MEMBER, 15).unwrap());
    assert_eq!(fixture.agent.wait(MEMBER).await.unwrap().code, 143);
    let seen = seen_by(&fixture, &fixture.id).await;
    assert!(seen.contains("sleep 600") && !seen.contains("sleep 601"), "{seen}");
    let group = Path::new(fixture.cgroups).join(id.as_str());
    while group.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(fixture.agent.processes(&id), Err(RequestError::NoContainer(_))));
}
