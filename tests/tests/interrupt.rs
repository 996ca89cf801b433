//! Ctrl-C: exit code 130, a run that can be resumed and no incomplete file, early and late, once and twice.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use sdq_engine::SavedRun;
use sdq_formats::WeightType;
use sdq_tests::models::Model;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");
/// The exit code by which shells report SIGINT.
const INTERRUPTED: i32 = 130;

/// Starts a run that takes minutes, with some signals ignored as under `nohup` and in shells.
fn start(folder: &Path, args: &[&str], ignored: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' {ignored} QUIT; exec \"$@\""), "sh", SDQ]).args(args);
    shell.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn send(run: &Child, signal: &str) {
    let sent =
        Command::new("kill").args(["-s", signal, &run.id().to_string()]).stderr(Stdio::null()).status();
    assert!(sent.is_ok());
}

/// Starts a run and sends it SIGINT `times` times, each after the time `after`.
fn interrupt(folder: &Path, args: &[&str], after: Duration, times: usize) -> ExitStatus {
    let mut run = start(folder, args, "");
    for _ in 0..times {
        thread::sleep(after);
        send(&run, "INT");
    }
    run.wait().unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn long_run(model: &str) -> [&str; 12] {
    ["generate", "x", "-m", model, "-W", "40", "-H", "56", "--steps", "1000", "--count", "1000"]
}

#[test]
fn an_interrupted_run_leaves_what_resume_needs_and_says_130() {
    let model = Model::convert("fp16", WeightType::F16);
    let path = model.path();
    let args = long_run(path.to_str().unwrap());
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
            // The second one may arrive before the run is saved.
            _ => assert!(left.iter().all(|name| name == "sdq.png.sdq-run"), "left behind: {left:?}"),
        }
    }
}

/// Every termination signal saves the run, even if others are ignored. SIGHUP stays ignored under `nohup`.
#[test]
fn each_signal_is_handled_by_itself() {
    let model = Model::convert("fp16", WeightType::F16);
    let path = model.path();
    let args = [&long_run(path.to_str().unwrap())[..], &["--save-every", "0"]].concat();
    for (ignored, signal, ends) in [
        ("HUP", "INT", true),
        ("HUP", "TERM", true),
        ("HUP", "HUP", false),
        ("INT", "INT", true),
        ("INT", "TERM", true),
        ("", "HUP", true),
    ] {
        let what = format!("{signal} with `{ignored}` ignored");
        let folder = TempDir::new().unwrap();
        let mut run = start(folder.path(), &args, ignored);
        let saved = folder.path().join("sdq.png.sdq-run");
        let started = Instant::now();
        while !saved.exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}: nothing was saved");
            thread::sleep(Duration::from_millis(5));
        }
        send(&run, signal);
        if !ends {
            // A run that stops saves itself once more; this one continues to save.
            let modified = || fs::metadata(&saved).unwrap().modified().unwrap();
            let (mut last, mut times) = (modified(), 0);
            while times < 4 {
                assert!(started.elapsed() < Duration::from_secs(60), "{what}: the run does not go on");
                assert!(run.try_wait().unwrap().is_none(), "{what}: the run has ended");
                thread::sleep(Duration::from_millis(5));
                times += usize::from(modified() != last);
                last = modified();
            }
            send(&run, "TERM");
        }
        assert_eq!(run.wait().unwrap().code(), Some(INTERRUPTED), "{what}");
        SavedRun::open(&saved).unwrap();
    }
}

/// A run whose picture goes to standard output is not saved, and says so. It leaves no temporary file, and what a killed one
/// leaves is removed by the next.
#[test]
fn a_run_to_standard_output_leaves_nothing() {
    let temporary = TempDir::new().unwrap();
    let start = || {
        let mut command = Command::new(SDQ);
        command.args([
            "generate",
            "a cat",
            "--steps",
            "900",
            "--save-every",
            "0",
            "-W",
            "256",
            "-H",
            "256",
            "-o",
            "-",
        ]);
        command.current_dir(temporary.path()).env("TMPDIR", temporary.path()).env("SDQ_CONFIG", "");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The name of the only folder, when it is not `old`.
    let other_than = |old: &[String]| {
        let started = Instant::now();
        loop {
            let found = files(temporary.path());
            if found.len() == 1 && found != old {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{found:?}");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let mut killed = start();
    let left = other_than(&[]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(files(temporary.path()), left);
    let run = start();
    other_than(&left);
    send(&run, "TERM");
    let ended = run.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{errors}");
    assert!(errors.contains("nothing to resume") && !errors.contains("sdq resume"), "{errors}");
    assert!(ended.stdout.is_empty());
    assert_eq!(files(temporary.path()), [] as [String; 0]);
}

/// A model that is cut short while it is drawn with: an error that names it, and a run that can be resumed.
#[cfg(target_os = "linux")]
#[test]
fn a_model_that_is_cut_short_ends_the_run_with_an_error() {
    let model = Model::convert("fp16", WeightType::F16);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.sdq");
    fs::copy(model.path(), &path).unwrap();
    let mut run = Command::new(SDQ)
        .args(long_run("model.sdq"))
        .args(["--save-every", "0"])
        .current_dir(folder.path())
        .env("SDQ_BACKEND", "cpu")
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("errors")).unwrap())
        .spawn()
        .unwrap();
    let saved = folder.path().join("sdq.png.sdq-run");
    let started = Instant::now();
    while !saved.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was saved");
        thread::sleep(Duration::from_millis(5));
    }
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let errors = fs::read_to_string(folder.path().join("errors")).unwrap();
    assert_eq!(errors.matches("error:").count(), 1, "{errors}");
    assert!(errors.contains("model.sdq: the file was truncated while it was in use"), "{errors}");
    assert!(errors.contains("sdq resume \"sdq.png.sdq-run\""), "{errors}");
    SavedRun::open(&saved).unwrap();
}
