//! What reaches the terminal: text out of files is shown and drives nothing, it is cut where it is long, and nothing that is
//! lost on the way counts as said.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use sdq::picture::{self, Picture};
use sdq_tests::{checkpoint::ModelCopy, command};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// Commands to a terminal in 7 and 8 bits, a deletion, a bell, a line that would look like another message, and text from
/// right to left.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\rerror: nothing\u{202e}\u{2066}☕";

/// Runs a command in `folder` and holds what it shows against the rule.
fn shown(folder: &Path, arguments: &[&str]) -> command::Outcome {
    let outcome = command::run(SDQ, folder, arguments);
    for (stream, text) in [("output", &outcome.output), ("errors", &outcome.errors)] {
        let drives = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(drives), "{arguments:?}: {stream}: {text:?}");
        let line = text.lines().map(str::len).max().unwrap_or(0);
        assert!(line < 100_000, "{arguments:?}: a line of {line} bytes in {stream}");
        assert!(!text.lines().any(|line| line.starts_with("error: nothing")), "{arguments:?}: {text:?}");
    }
    outcome
}

fn with_text(path: &Path, keyword: &str, text: &str) {
    let picture = Picture { width: 16, height: 16, rgb: vec![7; 3 * 16 * 16] };
    picture::write(path, &picture, &[(keyword, text)]).unwrap();
}

#[test]
fn a_picture_s_texts_drive_no_terminal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.png");
    let escaped = serde_json::to_string(HOSTILE).unwrap();
    let recipe = format!(
        "{{\"prompt\":{escaped},\"negative_prompt\":\"\",\"seed\":1,\"steps\":1,\"model\":{escaped},\"version\":{escaped},\
         \"loras\":[{{\"file\":{escaped},\"strength\":1}}],{escaped}:{escaped}}}"
    );
    let parameters = format!(
        "{HOSTILE}\nNegative prompt: {HOSTILE}\nSteps: 1, Sampler: {HOSTILE}, {HOSTILE}: {HOSTILE}, Seed: 1"
    );
    let comfy = format!(r#"{{"1":{{"class_type":{escaped},"inputs":{{{escaped}:{escaped}}}}}}}"#);
    for (keyword, text) in
        [("sdq", &recipe), ("parameters", &parameters), ("prompt", &comfy), ("sdq", &escaped)]
    {
        with_text(&path, keyword, text);
        let info = shown(folder.path(), &["info", "a.png"]);
        shown(folder.path(), &["info", "--json", "a.png"]);
        shown(folder.path(), &["generate", "--from", "a.png", "--steps", "1", "-o", "b.png"]);
        assert!(keyword != "parameters" || info.output.contains("\\u{1b}[2J"), "{}", info.output);
    }
}

#[test]
fn names_in_files_drive_no_terminal() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let gguf =
        [b"GGUF", &3u32.to_le_bytes()[..], &[0; 8], &1u64.to_le_bytes(), &text(HOSTILE), &[0; 5]].concat();
    write("a.gguf", &gguf);
    let key = serde_json::to_string(HOSTILE).unwrap();
    for (name, header) in [
        ("a.safetensors", format!(r#"{{{key}:{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}"#)),
        ("b.safetensors", format!(r#"{{"a":{{"dtype":{key},"shape":[0],"data_offsets":[0,0]}}}}"#)),
        ("c.safetensors", format!(r#"{{"__metadata__":{{"sdq.run":{key},"sdq.files":{key}}}}}"#)),
        ("d.safetensors", format!("{{{HOSTILE}")),
    ] {
        write(name, &[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
        for command in ["info", "resume", "convert"] {
            let arguments: &[&str] =
                if command == "convert" { &[command, name, "-o", "x.sdq"] } else { &[command, name] };
            shown(folder.path(), arguments);
        }
        shown(folder.path(), &["generate", "x", "--lora", name]);
        shown(folder.path(), &["generate", "x", "--embedding", name]);
    }
    shown(folder.path(), &["info", "a.gguf"]);
    shown(folder.path(), &["convert", "a.gguf", "-o", "x.sdq"]);
    // A pickle that would call something of this name.
    write("a.pt", format!("\u{80}\u{2}c{}\n{0}\n)R.", HOSTILE.replace('\n', "")).as_bytes());
    shown(folder.path(), &["info", "a.pt"]);
    // Names of a model's own.
    let copy = ModelCopy::of("old");
    copy.edit_json("model_index.json", |index| _ = index.insert("_class_name".to_owned(), HOSTILE.into()));
    shown(copy.path(), &["convert", ".", "-o", "x.sdq"]);
    let copy = ModelCopy::of("old");
    copy.edit_json("unet/config.json", |config| _ = config.insert(HOSTILE.to_owned(), HOSTILE.into()));
    shown(copy.path(), &["convert", ".", "-o", "x.sdq"]);
    let copy = ModelCopy::of("old");
    copy.edit_json("scheduler/scheduler_config.json", |config| {
        _ = config.insert("_class_name".to_owned(), HOSTILE.into())
    });
    shown(copy.path(), &["convert", ".", "-o", "x.sdq"]);
}

#[test]
fn long_texts_are_cut() {
    let folder = TempDir::new().unwrap();
    let long = "x".repeat(900_000);
    let path = folder.path().join("a.png");
    for (keyword, text) in [
        ("sdq", format!(r#"{{"prompt":"{long}","steps":"{long}"}}"#)),
        ("sdq", format!(r#"{{"{long}":1}}"#)),
        ("parameters", format!("a\nSteps: 1, Sampler: {long}, {long}: {long}")),
        ("prompt", format!(r#"{{"1":{{"class_type":"{long}","inputs":{{}}}}}}"#)),
    ] {
        with_text(&path, keyword, &text);
        let info = shown(folder.path(), &["info", "a.png"]);
        assert!(info.output.len() + info.errors.len() < 200_000, "{keyword}");
        let drawn = shown(folder.path(), &["generate", "--from", "a.png", "--steps", "1", "-o", "b.png"]);
        assert!(drawn.errors.len() < 50_000, "{keyword}: {}", drawn.errors.len());
    }
}

/// A pipe that its reader closes has served; a full disk has not.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_an_error() {
    let run = |arguments: &[&str], output: Stdio| {
        let output =
            Command::new(SDQ).args(arguments).stdout(output).stderr(Stdio::piped()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["schedulers"][..], &["--help"], &["--version"], &["info", "--json"], &["plan", "x"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, errors) = run(arguments, full.into());
        assert_eq!(code, 1, "{arguments:?}: {errors}");
        assert_eq!(errors.matches("error:").count(), 1, "{errors}");
        assert!(errors.contains("cannot write to standard output: No space left on device"), "{errors}");
        // A reader that is gone.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(arguments, writer.into()), (0, String::new()), "{arguments:?}");
    }
}

#[test]
fn threads_that_cannot_be_are_an_error() {
    let folder = TempDir::new().unwrap();
    let copy = ModelCopy::of("old");
    let convert = ["convert", copy.path().to_str().unwrap(), "-o", "x.sdq", "--threads", "1000000"];
    command::run(SDQ, folder.path(), &convert).assert_failed(1, &["threads"]);
    for arguments in [&["bench"][..], &["generate", "x", "--steps", "1"], &["plan", "x"]] {
        command::run(SDQ, folder.path(), &[arguments, &["--threads", "1000000"]].concat())
            .assert_failed(1, &["1000000 threads"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
