//! A change on the host reaches the programs in the container that watch for it.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};
use std::{fs, io};

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::json;

/// In a virtual machine in software, beside others.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container that tells of what happens in `/config`, to what is in it, and to `/single`.
fn watching(scene: &Scene) -> Bundle {
    let bind = |destination: &str, source: &str, options: [&str; 2]| {
        json!({
            "destination": destination, "type": "bind", "source": scene.path(source),
            "options": options
        })
    };
    Bundle::probe(&[])
        .mount(bind("/config", "config", ["rbind", "ro"]))
        .mount(bind("/single", "single", ["bind", "ro"]))
        .mount(bind("/out", "out", ["rbind", "rw"]))
        .edit(|config| {
            config["process"]["args"] =
                json!(["/probe", "--notify", "/out/told", "/config", "/config/setting", "/single"]);
        })
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// As kubelet lays a ConfigMap out: files are links through `..data`, which is swapped whole.
    fn config_map() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("config/..first"))?;
        fs::create_dir(at("out"))?;
        fs::write(at("config/..first/setting"), "old")?;
        symlink("..first", at("config/..data"))?;
        symlink("..data/setting", at("config/setting"))?;
        fs::write(at("single"), "old")?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn swap(&self) -> io::Result<()> {
        fs::create_dir(self.path("config/..second"))?;
        fs::write(self.path("config/..second/setting"), "new")?;
        symlink("..second", self.path("config/..data_tmp"))?;
        fs::rename(self.path("config/..data_tmp"), self.path("config/..data"))?;
        fs::remove_dir_all(self.path("config/..first"))
    }

    /// Waits until the container has told of an event.
    #[track_caller]
    fn tells(&self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let told = fs::read_to_string(self.path("out/told")).unwrap_or_default();
            if told.lines().any(|line| line.trim_end() == wanted) {
                return;
            }
            assert!(Instant::now() < end, "no {wanted:?} in {told:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_config_map_that_is_swapped_is_seen_by_who_watches_it() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let scene = Scene::config_map().unwrap();
        let container = runtime.start(&watching(&scene));
        scene.tells("ready");
        container.exec(&["cat", "/config/setting"]).exits(0).prints("old");
        scene.swap().unwrap();
        scene.tells("/config create ..second");
        scene.tells("/config moved-to ..data");
        container.exec(&["cat", "/config/setting"]).exits(0).prints("new");
        scene.tells("/config/setting gone");
        scene.tells("/config delete ..first");
    }
}

#[test]
fn a_file_that_is_written_on_the_host_is_seen_by_who_watches_it() {
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let scene = Scene::config_map().unwrap();
        let container = runtime.start(&watching(&scene));
        scene.tells("ready");
        fs::write(scene.path("config/new"), "content").unwrap();
        scene.tells("/config create new");
        scene.tells("/config written new");
        container.exec(&["cat", "/config/new"]).exits(0).prints("content");
        fs::write(scene.path("single"), "changed").unwrap();
        scene.tells("/single modify");
        container.exec(&["cat", "/single"]).exits(0).prints("changed");
        fs::remove_file(scene.path("config/new")).unwrap();
        scene.tells("/config delete new");
    }
}
