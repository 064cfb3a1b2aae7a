//! A build of an image that is killed in the middle leaves no version, and nothing in the way of the next one.

use std::path::Path;
use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::{binary, image};

#[test]
fn a_killed_build_leaves_no_version() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut build = image::build_command(dir.path())
        .spawn()
        .expect("bootroom runs");
    wait_for(
        "the build to unpack packages",
        Duration::from_secs(240),
        || {
            let ended = build.try_wait().expect("the build can be waited for");
            assert!(
                ended.is_none(),
                "the build ended before it could be killed: {ended:?}"
            );
            unpacks(&dir.path().join("images")).then_some(())
        },
    );
    build.kill().expect("the build can be killed");
    build.wait().expect("the build can be waited for");
    assert_eq!(versions(dir.path()), 0);
    let verify = binary::command(&["image", "verify", image::NAME, "--data"])
        .arg(dir.path())
        .output();
    assert!(
        !verify.expect("bootroom runs").status.success(),
        "there is nothing to verify"
    );
}

/// Whether an unfinished version holds a root directory with a shell in it already.
fn unpacks(images: &Path) -> bool {
    let Ok(entries) = images.read_dir() else {
        return false;
    };
    let staging = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".staging-"));
    staging
        .into_iter()
        .any(|entry| entry.path().join("build/root/usr/bin").exists())
}

fn versions(data: &Path) -> usize {
    let output = binary::command(&["image", "list", "--json", "--data"])
        .arg(data)
        .output()
        .expect("bootroom runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    list.as_array().expect("a list").len()
}
