//! What happens to a container's streams when its machine is saved and restored.

use crate::fixture::*;

const BOTH: StdioPlan = StdioPlan::Pipes { stdin: true, stdout: true, stderr: true };

pub(crate) async fn streams_are_connected_again_in_another_life_and_lose_nothing(fixture: Fixture) {
    // It reads nothing until it is told by a file, so that its input waits with the agent.
    let script = "echo up; while [ ! -e /go ]; do sleep 0.02; done; cat | busybox wc -c; cat /end";
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = BOTH;
    fixture.create(&plan).await.unwrap();
    let mut stdin = fixture.connect(INIT, StreamKind::Stdin);
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    assert_eq!(read_until(&mut stdout, "up\n").await, "up\n");
    // More than a pipe holds, and more than the agent keeps while nothing is to be saved.
    stdin.write_all(&[b'x'; 200_000]).await.unwrap();

    let suspended = fixture.agent.suspend().await.expect("the container stands still");
    drop((stdin, stdout));
    fixture.agent.restored();
    drop(suspended);
    let mut stdin = fixture.connect(INIT, StreamKind::Stdin);
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fs::write(fixture.rootfs().join("end"), "over\n").unwrap();
    fs::write(fixture.rootfs().join("go"), "").unwrap();
    assert!(fixture.agent.freeze(&fixture.id, false).await.unwrap());
    stdin.write_all(b"yyyyy").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "200005\nover\n");
}

pub(crate) async fn a_process_that_nobody_comes_back_for_loses_its_streams(fixture: Fixture) {
    fixture.create(&plan(&["sleep", "60"])).await.unwrap();
    fixture.agent.start(&fixture.id).await.unwrap();
    let mut reader = process(&["sh", "-c", "read line; exit 5"]);
    reader.stdio = BOTH;
    fixture.agent.exec(&fixture.id, OTHER, &reader, None).await.unwrap();
    let stdin = fixture.connect(OTHER, StreamKind::Stdin);
    let suspended = fixture.agent.suspend().await;
    drop(stdin);
    fixture.agent.restored();
    drop(suspended);
    assert!(fixture.agent.freeze(&fixture.id, false).await.unwrap());
    let mut late = fixture.connect(OTHER, StreamKind::Stdout);
    assert_eq!(late.read(&mut [0]).await.unwrap(), 0, "it is closed");
    assert_eq!(fixture.agent.wait(OTHER).await.unwrap(), Exit { code: 5, oom: false });
}

pub(crate) async fn a_suspension_that_ends_leaves_everything_as_it_was(fixture: Fixture) {
    let mut plan = plan(&["cat"]);
    plan.process.stdio = BOTH;
    fixture.create(&plan).await.unwrap();
    let mut stdin = fixture.connect(INIT, StreamKind::Stdin);
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    let suspended = fixture.agent.suspend().await.unwrap();
    let frozen = fs::read_to_string(fixture.group().join("cgroup.freeze")).unwrap();
    assert_eq!(frozen.trim(), "1");
    fixture.agent.resume(suspended);
    stdin.write_all(b"to and fro").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "to and fro");
}
