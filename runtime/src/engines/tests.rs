use proptest::prelude::*;

use super::*;

const PATH: &str = "/usr/local/bin/cofferdam";
const SHIM: &str = "io.containerd.cofferdam.v2";
const ALL: [Engine; 3] = [Engine::Containerd, Engine::Docker, Engine::Podman];

/// Debian's own, but for the path of `opt`.
const DEBIAN: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
  # Where `ctr install` puts things.
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
# The end.
"#;

fn named(name: &str) -> RuntimeName {
    name.parse().unwrap()
}

fn entry() -> Entry {
    Entry { name: named("cofferdam"), program: PATH.to_owned(), arguments: vec![] }
}

fn with_flags(flags: &[&str]) -> Entry {
    Entry { arguments: flags.iter().map(|&flag| flag.to_owned()).collect(), ..entry() }
}

#[track_caller]
fn installed(engine: Engine, before: &str) -> String {
    match install(engine, Some(before), &entry()).unwrap() {
        Edit::Write { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn uninstalled(engine: Engine, text: &str, backup: Option<&str>) -> Edit {
    uninstall(engine, Some(text), backup, &named("cofferdam")).unwrap()
}

fn refusal(engine: Engine, text: &str) -> String {
    crate::host::log::with_causes(&install(engine, Some(text), &entry()).unwrap_err())
}

#[test]
fn where_there_is_no_file_one_is_made_and_taken_away_again() {
    let texts = ALL.map(|engine| match install(engine, None, &entry()).unwrap() {
        Edit::Write { text, keeps_backup: false } => text,
        other => panic!("{other:?}"),
    });
    insta::assert_snapshot!(texts.join("---\n"), @r#"
    version = 2

    # Beside another runtime containerd 1.x knows runc only if it is named.
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cofferdam]
    runtime_type = "io.containerd.cofferdam.v2"
    ---
    {
      "runtimes": {
        "cofferdam": {
          "path": "/usr/local/bin/cofferdam"
        }
      }
    }
    ---
    # Written by `cofferdam install --podman`.
    [engine.runtimes]
    cofferdam = ["/usr/local/bin/cofferdam"]
    "#);
    for (engine, text) in ALL.into_iter().zip(&texts) {
        assert_eq!(install(engine, Some(text), &entry()).unwrap(), Edit::Nothing);
        assert_eq!(uninstalled(engine, text, None), Edit::Remove);
        let gone = uninstall(engine, None, None, &named("cofferdam")).unwrap();
        assert_eq!(gone, Edit::Nothing);
    }
}

#[test]
fn debians_file_keeps_its_order_and_its_comments() {
    let text = installed(Engine::Containerd, DEBIAN);
    let before = DEBIAN.strip_suffix("# The end.\n").unwrap();
    insta::assert_snapshot!(text.strip_prefix(before).unwrap().trim_start(), @r#"
    # Beside another runtime containerd 1.x knows runc only if it is named.
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cofferdam]
    runtime_type = "io.containerd.cofferdam.v2"
    # The end.
    "#);
    // Without its backup, too.
    let removed = Edit::Write { text: DEBIAN.to_owned(), keeps_backup: false };
    assert_eq!(uninstalled(Engine::Containerd, &text, None), removed);
}

#[test]
fn version_3_has_its_runtimes_elsewhere() {
    let text = installed(Engine::Containerd, "version = 3\n");
    let header = "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.cofferdam]\n";
    assert!(text.contains(header), "{text}");
}

#[test]
fn runc_comes_along_only_where_no_runtime_is_named_and_goes_only_when_it_came_so() {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
    let runc = format!("version = 2\n[{cri}.runc]\nruntime_type = \"io.containerd.runc.v2\"\n");
    let text = installed(Engine::Containerd, &runc);
    assert_eq!(text.matches(".runc]").count(), 1);
    let removed = Edit::Write { text: runc, keeps_backup: false };
    assert_eq!(uninstalled(Engine::Containerd, &text, None), removed);
    // With kata, the operator has come to rely on the runc that came along.
    let kata = format!("\n[{cri}.kata]\nruntime_type = \"io.containerd.kata.v2\"\n");
    let text = installed(Engine::Containerd, "version = 2\n") + &kata;
    let Edit::Write { text, .. } = uninstalled(Engine::Containerd, &text, Some("version = 2\n"))
    else {
        panic!()
    };
    assert!(text.contains(".runc]") && text.contains(".kata]") && !text.contains("cofferdam"));
    // Written by hand from an older page: containerd 1.x would not have its default.
    let alone = format!("version = 2\n[{cri}.cofferdam]\nruntime_type = \"{SHIM}\"\n");
    assert!(installed(Engine::Containerd, &alone).contains(".runc]"));
}

#[test]
fn json_keeps_its_order_and_its_indentation() {
    let before = "{\n    \"live-restore\": true,\n    \"bip\": \"192.0.2.1/24\"\n}\n";
    let text = installed(Engine::Docker, before);
    insta::assert_snapshot!(text, @r#"
    {
        "live-restore": true,
        "bip": "192.0.2.1/24",
        "runtimes": {
            "cofferdam": {
                "path": "/usr/local/bin/cofferdam"
            }
        }
    }
    "#);
    let removed = Edit::Write { text: before.to_owned(), keeps_backup: false };
    assert_eq!(uninstalled(Engine::Docker, &text, None), removed);
}

#[test]
fn what_was_there_comes_back_byte_for_byte() {
    let json =
        ["", "{}", " { } ", "{\"a\":1}", "{\r\n\t\"a\": [1,\r\n2]\r\n}\r\n", "{\"runtimes\":{}}"];
    let toml =
        ["", "#", "# c\n", "version = 2", "version = 2\r\n# c\r\n[plugins]\r\n a=1\r\n", DEBIAN];
    let cases = json.map(|text| (Engine::Docker, text)).into_iter();
    for (engine, before) in cases.chain(toml.map(|text| (Engine::Containerd, text))) {
        let text = installed(engine, before);
        assert_eq!(uninstalled(engine, &text, Some(before)), Edit::Restore, "{before:?}");
        let is_dos = |text: &str| text.replace("\r\n", "").contains('\n');
        assert!(!before.contains("\r\n") || !is_dos(&text), "{text:?}");
        // What came afterwards stays.
        let later = uninstalled(engine, &format!("{text}\n"), Some(before));
        assert!(
            matches!(&later, Edit::Write { text, .. } if !text.contains("cofferdam")),
            "{later:?}"
        );
    }
}

#[test]
fn another_path_of_ours_is_brought_up_to_date_and_is_no_reason_for_a_backup() {
    let old = installed(Engine::Docker, "{\"runtimes\":{\"x\":{\"path\":\"y\"}}}")
        .replace(PATH, "/opt/cofferdam");
    let Edit::Write { text, keeps_backup } = install(Engine::Docker, Some(&old), &entry()).unwrap()
    else {
        panic!()
    };
    assert!(
        !keeps_backup && text.contains(PATH) && !text.contains("/opt") && text.contains("\"y\"")
    );
}

#[test]
fn flags_go_where_an_engine_has_a_place_for_them_and_are_refused_elsewhere() {
    let entry = with_flags(&["--isolation", "microvm"]);
    let Edit::Write { text, .. } = install(Engine::Docker, None, &entry).unwrap() else { panic!() };
    assert!(text.contains(r#""runtimeArgs": ["--isolation", "microvm"]"#), "{text}");
    assert_eq!(uninstalled(Engine::Docker, &text, None), Edit::Remove);
    for engine in [Engine::Containerd, Engine::Podman] {
        let error = install(engine, None, &entry).unwrap_err().to_string();
        assert!(error.contains("--isolation microvm") && error.contains("config.toml"), "{error}");
    }
}

#[test]
fn two_names_are_two_entries() {
    for engine in [Engine::Containerd, Engine::Docker] {
        let second = Entry { name: named("second"), ..entry() };
        let first = installed(engine, "");
        let Edit::Write { text, keeps_backup } = install(engine, Some(&first), &second).unwrap()
        else {
            panic!()
        };
        assert!(keeps_backup);
        let removed = Edit::Write { text: first, keeps_backup: false };
        assert_eq!(uninstall(engine, Some(&text), None, &second.name).unwrap(), removed);
    }
    assert_eq!(
        Engine::Podman.file(&named("second")),
        PathBuf::from("/etc/containers/containers.conf.d/cofferdam-second.conf")
    );
}

#[test]
fn a_file_that_an_engine_cannot_read_is_refused_by_what_is_wrong() {
    let cri = r#"version = 2
plugins."io.containerd.grpc.v1.cri".containerd"#;
    for (engine, text, words) in [
        (Engine::Docker, "{\n\"a\": 1,\n}", "not JSON: trailing comma at line 3"),
        (Engine::Docker, "{ // c\n}", "not JSON"),
        (Engine::Docker, "[]", "The document is not an object"),
        (Engine::Docker, "{\"runtimes\": []}", "runtimes is not an object"),
        (Engine::Docker, "\u{feff}{}", "byte order mark"),
        (Engine::Docker, "{\"runtimes\":{},\"runtimes\":{}}", "edit it by hand"),
        (Engine::Containerd, "version = 2\n[plugins\n", "line 2"),
        (Engine::Containerd, "version = 2\nplugins = 1\n", "plugins is not a table"),
        (Engine::Containerd, &format!("{cri} = []"), ".containerd is not a table"),
        (Engine::Containerd, "disabled_plugins = [\"cri\"]\n", "of version 1 "),
        (Engine::Containerd, "version = 4\n", "of version 4:"),
        (Engine::Containerd, "version = \"2\"\n", "of version \"2\":"),
        (Engine::Podman, "[engine]\n", "something else"),
        (Engine::Podman, "x", "line 1"),
    ] {
        let said = refusal(engine, text);
        assert!(said.contains(words) && !said.contains('\n'), "{text:?}: {said}");
    }
}

#[test]
fn a_runtime_of_the_name_that_is_not_ours_is_left_alone() {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.cofferdam";
    for (engine, text, words) in [
        (
            Engine::Docker,
            r#"{"runtimes":{"cofferdam":{"path":"/usr/bin/runc"}}}"#.into(),
            "/usr/bin/runc",
        ),
        (Engine::Docker, r#"{"runtimes":{"cofferdam":{"runtimeType":"x"}}}"#.into(), "runtimeType"),
        (Engine::Docker, r#"{"runtimes":{"cofferdam":null}}"#.into(), "null"),
        (Engine::Containerd, format!("version = 2\n[{cri}]\nruntime_type = \"x.y\"\n"), "x.y"),
        (Engine::Containerd, format!("version = 2\n[{cri}]\n"), "without a runtime_type"),
        (
            Engine::Podman,
            "[engine.runtimes]\ncofferdam = [\"/x/cofferdam\"]\n".into(),
            "something else",
        ),
    ] {
        assert!(refusal(engine, &text).contains(words), "{text}");
        assert!(uninstall(engine, Some(&text), None, &named("cofferdam")).is_err(), "{text}");
    }
}

#[test]
fn the_default_runtime_is_not_taken_away_from_under_its_engine() {
    let docker = installed(Engine::Docker, "{\"default-runtime\": \"cofferdam\"}");
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"cofferdam\"\n";
    let containerd = installed(Engine::Containerd, &format!("version = 2\n{cri}"));
    for (engine, text) in [(Engine::Docker, docker), (Engine::Containerd, containerd)] {
        let error = uninstall(engine, Some(&text), None, &named("cofferdam")).unwrap_err();
        assert!(matches!(error, EditError::IsDefault { .. }), "{error:?}");
    }
}

/// What can stand in a `daemon.json`, with white space of any kind.
fn documents() -> impl Strategy<Value = String> {
    let space = "[ \n\t]{0,3}";
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("\"a } \\\" ] b\"".to_owned()),
        Just("[{}, {\"runtimes\": 1}]".to_owned()),
        Just("{\"x\":{\"y\" : null}}".to_owned()),
    ];
    let member = ("[a-q]{1,4}", space, value, space);
    let members = proptest::collection::vec(member, 0..4);
    (members, space, proptest::option::of("[a-c]{1,2}"), 0..5_usize).prop_map(
        |(members, space, runtime, at)| {
            let mut members: Vec<String> = members
                .into_iter()
                .enumerate()
                .map(|(i, (key, a, value, b))| format!("{a}\"{key}{i}\"{b}:{a}{value}{b}"))
                .collect();
            if let Some(name) = runtime {
                let at = at.min(members.len());
                members.insert(
                    at,
                    format!("\"runtimes\":{space}{{{space}\"{name}\":{{\"path\":\"z\"}}}}"),
                );
            }
            format!("{space}{{{}}}{space}", members.join(","))
        },
    )
}

proptest! {
    #[test]
    fn any_document_gets_the_entry_and_nothing_else(before in documents()) {
        let text = installed(Engine::Docker, &before);
        let mut expected: serde_json::Value = serde_json::from_str(&before).unwrap();
        expected["runtimes"]["cofferdam"] = serde_json::json!({ "path": PATH });
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        prop_assert_eq!(install(Engine::Docker, Some(&text), &entry()).unwrap(), Edit::Nothing);
        let removed = uninstalled(Engine::Docker, &text, None);
        let before: serde_json::Value = serde_json::from_str(&before).unwrap();
        match removed {
            Edit::Write { text, .. } => {
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), before);
            }
            Edit::Remove => prop_assert_eq!(before, serde_json::json!({})),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_text_makes_an_edit_panic(text in "[\\[\\]{}\"=.,:a\n#é ]{0,40}") {
        for engine in ALL {
            let _ = install(engine, Some(&text), &entry());
            let _ = uninstall(engine, Some(&text), None, &named("cofferdam"));
        }
    }
}
