//! More processes in a running container.

use crate::fixture::*;

pub(crate) async fn one_more_process_shares_everything(mut fixture: Fixture) {
    running(&fixture, "echo here > /mark; sleep 60").await;
    let script = "while ! cat /mark 2>/dev/null; do :; done; hostname; cat /proc/self/cgroup | busybox grep ^0; echo $$";
    let pid = fixture.agent.exec(&fixture.id, OTHER, &process(&["sh", "-c", script]), None).await;
    let pid = pid.unwrap_or_else(|error| panic!("{}", failure(error)));
    let mut output = String::new();
    fixture.connect(OTHER, StreamKind::Stdout).read_to_string(&mut output).await.unwrap();
    assert_eq!(output, format!("here\ninside\n0::/\n{pid}\n"));
    assert_eq!(fixture.agent.wait(OTHER).await.unwrap(), Exit { code: 0, oom: false });
    assert_eq!(fixture.end(OTHER).await, 0);
}

pub(crate) async fn one_more_process_that_fails_leaves_nothing(fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let mut absent_folder = process(&["true"]);
    absent_folder.cwd = "/absent".to_owned();
    let error =
        failure(fixture.agent.exec(&fixture.id, OTHER, &absent_folder, None).await.unwrap_err());
    assert_eq!(error, "entering the working folder /absent: no such file or directory");
    let absent = fixture.agent.exec(&fixture.id, OTHER, &process(&["absent"]), None).await;
    assert!(matches!(absent, Err(RequestError::Start(StartError::NotFound(_)))));
    assert!(matches!(fixture.agent.wait(OTHER).await, Err(RequestError::NoProcess(OTHER))));
    assert!(fixture.agent.exec(&fixture.id, OTHER, &process(&["true"]), None).await.is_ok());
}
