//! Ctrl-C: exit code 130 and no half-written file, early and late, once and twice.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use sdq_formats::WeightType;
use sdq_tests::models::Model;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");
/// As shells report SIGINT.
const INTERRUPTED: i32 = 130;

/// Starts a run that takes minutes and sends it SIGINT `times`, `after` some time each.
fn interrupt(folder: &Path, args: &[&str], after: Duration, times: usize) -> ExitStatus {
    let mut run = Command::new(SDQ)
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..times {
        thread::sleep(after);
        let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).stderr(Stdio::null()).status();
        assert!(sent.is_ok());
    }
    run.wait().unwrap()
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn an_interrupted_run_leaves_nothing_and_says_130() {
    let model = Model::convert("fp16", WeightType::F16);
    let path = model.path();
    let args = [
        "generate",
        "x",
        "-m",
        path.to_str().unwrap(),
        "-W",
        "40",
        "-H",
        "56",
        "--steps",
        "1000",
        "--count",
        "1000",
    ];
    for (milliseconds, times) in [(500, 1), (800, 1), (300, 2)] {
        let folder = TempDir::new().unwrap();
        let status = interrupt(folder.path(), &args, Duration::from_millis(milliseconds), times);
        assert_eq!(status.code(), Some(INTERRUPTED), "after {milliseconds} ms");
        assert_empty(folder.path());
    }
}
