//! Ctrl-C: exit code 130, a run that can be resumed and no half-written file, early and late, once and twice.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use sdq_engine::SavedRun;
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

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_interrupted_run_leaves_what_resume_needs_and_says_130() {
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
        let left = files(folder.path());
        match times {
            1 => {
                assert_eq!(left, ["sdq.png.sdq-run"], "after {milliseconds} ms");
                SavedRun::open(&folder.path().join("sdq.png.sdq-run")).unwrap();
            }
            // The second one may come before the run is saved.
            _ => assert!(left.iter().all(|name| name == "sdq.png.sdq-run"), "left behind: {left:?}"),
        }
    }
}
