//! Several prompts in one command, contact sheets, standard input and output, and the settings file.

use std::{fs, path::Path};

use sdq_formats::picture;
use sdq_tests::command::{self, Outcome};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn sdq(folder: &TempDir, args: &[&str]) -> Outcome {
    command::run(SDQ, folder.path(), args)
}

fn pixels(folder: &TempDir, name: &str) -> Vec<u8> {
    picture::read(folder.path().join(name)).unwrap().rgb
}

#[test]
fn prompts_of_a_file_are_drawn_with_their_settings() {
    let folder = TempDir::new().unwrap();
    let csv = "prompt,seed,steps,width\n\"a red apple, on white\",3,2,\na cat,,,72\n";
    fs::write(folder.path().join("prompts.csv"), csv).unwrap();
    let base = ["generate", "--steps", "1", "--seed", "5"];
    let all = ["--prompts", "prompts.csv", "-o", "p.png", "--sheet", "sheet.png"];
    let outcome = sdq(&folder, &[&base[..], &all].concat());
    outcome.assert_done();
    assert_eq!(outcome.output, "p-1.png\np-2.png\nsheet.png\n");
    sdq(&folder, &["generate", "a red apple, on white", "--steps", "2", "--seed", "3", "-o", "a.png"])
        .assert_done();
    sdq(&folder, &[&base[..], &["a cat", "-W", "72", "-o", "b.png"]].concat()).assert_done();
    assert_eq!(pixels(&folder, "p-1.png"), pixels(&folder, "a.png"));
    assert_eq!(pixels(&folder, "p-2.png"), pixels(&folder, "b.png"));
    let sheet = picture::read(folder.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.width, sheet.height), (72 + 4 + 72, 64));
    assert_eq!(sheet.rgb[..3 * 64], pixels(&folder, "a.png")[..3 * 64]);

    // Without --output nothing is replaced.
    fs::write(folder.path().join("sdq-2.png"), "mine").unwrap();
    let outcome = sdq(&folder, &[&base[..], &["--prompts", "prompts.csv"]].concat());
    assert_eq!(outcome.output, "sdq-1.png\nsdq-2-2.png\n");
    assert_eq!(fs::read(folder.path().join("sdq-2.png")).unwrap(), b"mine");
}

#[test]
fn wrong_prompts_and_sheets_are_refused_before_anything_is_drawn() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("wrong.json", r#"["a cat", {"prompt": "a dog", "stesp": 3}]"#);
    write("cats.txt", "a cat\na cat\n");
    sdq(&folder, &["generate", "--prompts", "wrong.json"])
        .assert_failed(1, &["prompt 2", "`stesp`", "steps"]);
    sdq(&folder, &["generate", "--prompts", "none.txt"]).assert_failed(1, &["none.txt"]);
    sdq(&folder, &["generate", "a cat", "-o", "a.png", "--sheet", "a.png"]).assert_failed(2, &["a.png"]);
    sdq(&folder, &["generate", "a cat", "-c", "145", "--sheet", "s.png"]).assert_failed(2, &["at most 144"]);
    sdq(&folder, &["generate", "a cat", "--sheet", "s.txt"]).assert_failed(2, &["s.txt", ".png"]);
    sdq(&folder, &["generate", "--prompts", "cats.txt", "-o", "-"]).assert_failed(2, &["one picture"]);
    sdq(&folder, &["plan", "--prompts", "cats.txt"]).assert_failed(2, &["one prompt"]);
    assert!(fs::read_dir(folder.path()).unwrap().count() == 2, "something was drawn");
}

#[test]
fn standard_input_and_output_are_called_by_a_dash() {
    let folder = TempDir::new().unwrap();
    let run = |args: &[&str], input: &[u8]| {
        let args = [&["generate", "--steps", "1"], args].concat();
        let output = command::run_with_input(SDQ, folder.path(), &args, &[], input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let drawn = run(&["-", "-o", "-"], b"a red apple\n");
    fs::write(folder.path().join("stream.png"), &drawn).unwrap();
    sdq(&folder, &["generate", "a red apple", "--steps", "1", "-o", "file.png"]).assert_done();
    assert_eq!(pixels(&folder, "stream.png"), pixels(&folder, "file.png"));
    assert_eq!(picture::read_texts(folder.path().join("stream.png")).unwrap().len(), 2);

    run(&["a cat", "-i", "-", "--strength", "1", "-o", "again.png"], &drawn);
    let from_file = ["a cat", "-i", "file.png", "--strength", "1", "-o", "from.png"];
    sdq(&folder, &[&["generate", "--steps", "1"], &from_file[..]].concat()).assert_done();
    assert_eq!(pixels(&folder, "again.png"), pixels(&folder, "from.png"));

    run(&["--prompts", "-", "-o", "p.png"], b"a cat\na dog\n");
    assert!(folder.path().join("p-2.png").is_file());
    let two = ["generate", "-", "-i", "-"];
    let output = command::run_with_input(SDQ, folder.path(), &two, &[], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        fs::read_dir(folder.path())
            .unwrap()
            .all(|entry| { entry.unwrap().path().extension().is_some_and(|ending| ending == "png") })
    );
}

#[test]
fn the_settings_file_names_the_model_and_its_folder() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("settings.toml");
    let run = |text: &str, args: &[&str], variables: &[(&str, &Path)]| {
        fs::write(&config, text).unwrap();
        let variables = [&[("SDQ_CONFIG", config.as_path())], variables].concat();
        let args = [&["generate", "a cat", "--steps", "1", "-o", "a.png"], args].concat();
        let output = command::run_with_input(SDQ, folder.path(), &args, &variables, b"");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    fs::write(models.join("mine.sdq"), "not a model").unwrap();
    // A damaged model shows which file was opened.
    let assert_opens_it = |(code, errors): (Option<i32>, String)| {
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("mine.sdq: expected an .sdq file, found a text"), "{errors}");
    };
    assert_opens_it(run("model = \"mine\"\nmodel-dir = \"./models\"", &[], &[]));
    assert_opens_it(run("model-dir = \"./models\"", &["-m", "mine.sdq"], &[]));
    assert_opens_it(run("", &["-m", "mine"], &[("SDQ_MODEL_DIR", &models)]));
    assert_eq!(run("# nothing is set", &[], &[]).0, Some(0));
    let (code, errors) = run("models = 1", &[], &[]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("settings.toml") && errors.contains("model-dir"), "{errors}");
}
