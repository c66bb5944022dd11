//! Standard streams and terminals.

use crate::fixture::*;

pub(crate) async fn output_is_sent_before_the_end_is_told(mut fixture: Fixture) {
    let text = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done";
    fixture.create(&plan(&["sh", "-c", text])).await.unwrap();
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).await.unwrap();
        output.len()
    });
    assert_eq!(fixture.end(INIT).await, 0);
    assert_eq!(reader.await.unwrap(), 20000 * 11);
}

pub(crate) async fn input_reaches_the_program_and_its_end_too(mut fixture: Fixture) {
    let mut plan = plan(&["cat"]);
    plan.process.stdio = StdioPlan::Pipes { stdin: true, stdout: true, stderr: true };
    fixture.create(&plan).await.unwrap();
    let mut stdin = fixture.connect(INIT, StreamKind::Stdin);
    let mut stdout = fixture.connect(INIT, StreamKind::Stdout);
    fixture.agent.start(&fixture.id).await.unwrap();
    stdin.write_all(b"to and fro").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "to and fro");
    assert_eq!(fixture.end(INIT).await, 0);
}

pub(crate) async fn a_terminal_is_one_in_both_kinds_of_process(mut fixture: Fixture) {
    let script = "busybox stty size; busybox tty; stat -c %t /dev/console; read line; busybox stty size; echo got $line; exit 5";
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.stdio = StdioPlan::Terminal { rows: 30, columns: 90, keep_line_feeds: false };
    fixture.create(&plan).await.unwrap();
    for token in [INIT, OTHER] {
        if token == INIT {
            fixture.agent.start(&fixture.id).await.unwrap();
        } else {
            let mut other = process(&[
                "sh",
                "-c",
                "busybox stty size; read line; busybox stty size; echo got $line; exit 5",
            ]);
            other.stdio = plan.process.stdio;
            fixture = fixture.another();
            running(&fixture, "sleep 60").await;
            fixture.agent.exec(&fixture.id, OTHER, &other, None).await.unwrap();
        }
        let mut terminal = fixture.connect(token, StreamKind::Terminal);
        let mut size = fixture.connect(token, StreamKind::TerminalSize);
        let mut seen = read_until(&mut terminal, "30 90\r\n").await;
        size.write_all(&TerminalSize { rows: 40, columns: 100 }.to_bytes()).await.unwrap();
        fixture.agent.resize(token, TerminalSize { rows: 40, columns: 100 }).unwrap();
        terminal.write_all(b"word\n").await.unwrap();
        seen.push_str(&read_until(&mut terminal, "got word\r\n").await);
        assert!(seen.contains("40 100\r\n"), "{seen}");
        assert_eq!(fixture.end(token).await, 5);
    }
}

pub(crate) async fn a_child_that_keeps_the_pipe_does_not_hold_up_the_end(mut fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let background = process(&["sh", "-c", "(sleep 0.3; echo late) & echo early"]);
    fixture.agent.exec(&fixture.id, OTHER, &background, None).await.unwrap();
    let mut stdout = fixture.connect(OTHER, StreamKind::Stdout);
    assert_eq!(fixture.end(OTHER).await, 0);
    assert_eq!(read_until(&mut stdout, "early\n").await, "early\n");
    assert_eq!(read_until(&mut stdout, "late\n").await, "late\n");
}

pub(crate) async fn a_connection_that_comes_late_gets_what_is_written_later(mut fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    let background = process(&["sh", "-c", "(sleep 0.3; echo late) &"]);
    fixture.agent.exec(&fixture.id, OTHER, &background, None).await.unwrap();
    assert_eq!(fixture.end(OTHER).await, 0);
    let mut stdout = fixture.connect(OTHER, StreamKind::Stdout);
    assert_eq!(read_until(&mut stdout, "late\n").await, "late\n");
}

pub(crate) async fn output_waits_for_its_connection_and_so_does_the_end(mut fixture: Fixture) {
    running(&fixture, "sleep 60").await;
    fixture
        .agent
        .exec(&fixture.id, OTHER, &process(&["sh", "-c", "echo kept"]), None)
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_millis(300), fixture.end(OTHER)).await;
    assert!(ended.is_err());
    let mut stdout = fixture.connect(OTHER, StreamKind::Stdout);
    assert_eq!(read_until(&mut stdout, "kept\n").await, "kept\n");
    assert_eq!(fixture.end(OTHER).await, 0);
}
