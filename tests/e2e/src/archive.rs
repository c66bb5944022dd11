//! An image of one layer, as `docker save` writes it and engines import it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// The image's name.
pub(crate) const NAME: &str = "example.org/busybox:1";

/// Writes a root file system as an image into a folder; it sleeps, when nothing else is asked of it.
#[must_use]
pub fn archive(rootfs: &Path, folder: &Path) -> PathBuf {
    let image = folder.join("image");
    fs::create_dir(&image).unwrap();
    tar(rootfs, &image.join("layer.tar"), &["."]);
    let sum = Command::new("sha256sum").arg(image.join("layer.tar")).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    let sum = sum.split(' ').next().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "1000000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] }
    });
    fs::write(image.join("config.json"), config.to_string()).unwrap();
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = folder.join("image.tar");
    tar(&image, &archive, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

fn tar(from: &Path, to: &Path, names: &[&str]) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(from).arg("-cf").arg(to).args(names);
    assert!(tar.status().unwrap().success(), "{tar:?}");
}
