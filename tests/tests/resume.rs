//! Runs that are stopped and resumed: the pictures are those of an uninterrupted run.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sdq_engine::{
    Error, Event, Generated, Pipeline, PipelineOptions, PromptReading, PromptSyntax, Request, SavedRun,
    pipeline::Caching,
};
use sdq_formats::WeightType;
use sdq_tests::{
    command::{self, Running},
    goldens::Goldens,
    measure::relative_error,
    models::{Model, demo_model},
};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

fn resume(pipeline: &Pipeline, path: &Path) -> Generated {
    let saved = SavedRun::open(path).unwrap_or_else(|error| panic!("{error}"));
    pipeline.resume(&saved, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `request` and saves it whenever possible, each time to a new file.
fn save_everywhere(pipeline: &Pipeline, request: &Request, folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let observer = &mut |event: Event<'_>| {
        if let Event::Saveable(checkpoint) = event {
            let path = folder.join(format!("{}.sdq-run", paths.len()));
            checkpoint.save(&path, &[("note", "of the test")]).unwrap();
            paths.push(path);
        }
        ControlFlow::Continue(())
    };
    pipeline.generate(request, observer).unwrap();
    paths
}

fn assert_equal(found: &Generated, expected: &Generated, what: &str) {
    let bits = |generated: &Generated| -> Vec<u32> {
        generated.latents.values().iter().map(|value| value.to_bits()).collect()
    };
    assert_eq!(bits(found), bits(expected), "latents: {what}");
    assert_eq!(found.pictures, expected.pictures, "pictures: {what}");
}

/// Resumes every scheduler at every step, bit for bit: the file contains the state of the scheduler and of
/// the generator.
#[test]
fn every_scheduler_goes_on_from_every_step() {
    let pipeline = Model::convert("old", WeightType::F16).open(2);
    for entry in sdq_schedulers::schedulers() {
        let folder = TempDir::new().unwrap();
        let request = Request::new("a red apple").size(16, 16).steps(6).seed(3).scheduler(entry.name);
        let expected = generate(&pipeline, &request);
        let saved = save_everywhere(&pipeline, &request, folder.path());
        assert!(saved.len() > 6, "{}", entry.name);
        for (step, path) in saved.iter().enumerate() {
            assert_equal(&resume(&pipeline, path), &expected, &format!("{} from {step}", entry.name));
        }
    }
}

/// Jobs, variations and series: pictures finished, in progress and not yet begun.
#[test]
fn every_job_goes_on_from_every_step() {
    let goldens = Goldens::load("jobs");
    let jobs = goldens.manifest.jobs.iter().filter(|job| job.model == "fp16" || job.model == "old");
    let jobs = jobs.map(|job| (job.model.as_str(), job.request(&goldens).steps(3).strength(0.7).count(6)));
    let varied = Request::new("x").size(16, 16).steps(2).variation(5, 0.4).guidance_rescale(0.5).count(5);
    for (model, request) in jobs.chain([("old", varied)]) {
        let folder = TempDir::new().unwrap();
        let pipeline = Model::convert(model, WeightType::F16).open(2);
        let expected = generate(&pipeline, &request);
        for (place, path) in save_everywhere(&pipeline, &request, folder.path()).iter().enumerate() {
            let saved = SavedRun::open(path).unwrap();
            assert_eq!(saved.note("note"), Some("of the test"));
            assert_eq!(*saved.request(), pipeline.settings(&request).unwrap().complete_request());
            assert_equal(&resume(&pipeline, path), &expected, &format!("{model} from {place}"));
        }
    }
}

/// A run of the built-in model in f16, as it was then, that a release before version 3 saved.
#[test]
fn runs_of_version_2_go_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/version-2.sdq-run");
    let request = Request::new("a (red:1.2) apple")
        .negative_prompt("blue")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(1) })
        .size(64, 64)
        .steps(8)
        .scheduler("euler-ancestral")
        .scheduler_option("timestep_spacing", "trailing")
        .guidance_scale(3.0)
        .guidance_rescale(0.3)
        .image_guidance_scale(1.5)
        .seed(3)
        .variation(9, 0.3)
        .count(2)
        .caching(Caching::Deep { every: 2, skip: 0 });
    assert_eq!(*SavedRun::open(&path).unwrap().request(), request);
    let pipeline = Model::convert_folder(&demo_model(), WeightType::F16).open(2);
    // The first steps were computed on another machine, which may round differently.
    let (found, expected) = (resume(&pipeline, &path), generate(&pipeline, &request));
    let error = relative_error(found.latents.values(), expected.latents.values());
    println!("{error:e} from the whole run");
    assert!(error < 1e-2, "{error}");
}

#[test]
fn what_is_no_run_of_the_model_is_refused() {
    let folder = TempDir::new().unwrap();
    let pipeline = Model::convert("old", WeightType::F16).open(1);
    let request = Request::new("x").size(16, 16).steps(2);
    let path = save_everywhere(&pipeline, &request, folder.path()).remove(0);
    let refused = |result: Result<Generated, Error>, word: &str| match result {
        Err(error @ Error::SavedRun { .. }) => assert!(error.to_string().contains(word), "{error}"),
        other => panic!("{word}: {other:?}"),
    };
    let try_resume = |pipeline: &Pipeline, path: &Path| {
        pipeline.resume(&SavedRun::open(path)?, &mut |_| ControlFlow::Continue(()))
    };
    refused(try_resume(&Model::convert("old", WeightType::F32).open(1), &path), "model");
    refused(try_resume(&pipeline, &folder.path().join("none")), "none");
    // A truncated file is refused without a panic.
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.sdq-run");
    for len in (0..bytes.len()).step_by(97) {
        fs::write(&cut, &bytes[..len]).unwrap();
        assert!(matches!(try_resume(&pipeline, &cut), Err(Error::SavedRun { .. })), "{len} bytes");
    }
    // Inconsistent files are refused too: a missing picture, a step past the end, another size.
    for (from, to, word) in [
        ("\\\"finished\\\":0", "\\\"finished\\\":1", "of a run of 1"),
        ("\\\"step\\\":1", "\\\"step\\\":9", "step"),
        ("\\\"width\\\":16", "\\\"width\\\":24", "latents"),
        ("\\\"version\\\":3", "\\\"version\\\":7", "version"),
        ("begun.0.generator", "begun.0.generaton", "generator"),
    ] {
        let text: Vec<u8> = replace(&bytes, from.as_bytes(), to.as_bytes());
        fs::write(&cut, text).unwrap();
        refused(try_resume(&pipeline, &cut), word);
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the file says it");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A run that is killed without warning at any moment, repeatedly, ends with the same pictures as an
/// uninterrupted one.
#[test]
fn killed_runs_are_finished_by_resume() {
    let model = Model::convert("fp16", WeightType::F16);
    let model = model.path();
    let arguments = ["generate", "a red apple", "-m", model.to_str().unwrap(), "-W", "40", "-H", "40"];
    let arguments = [&arguments[..], &["--steps", "60", "--count", "6", "--scheduler", "euler-a"]].concat();
    let expected = TempDir::new().unwrap();
    let started = Instant::now();
    command::run(SDQ, expected.path(), &arguments).assert_done();
    let whole = started.elapsed();

    let folder = TempDir::new().unwrap();
    let names: Vec<String> = (1..=6).map(|number| format!("sdq-{number}.png")).collect();
    let saved = folder.path().join("sdq.png.sdq-run");
    let first = [&arguments[..], &["--save-every", "0"]].concat();
    let mut kills = 0;
    for attempt in 0_u32.. {
        assert!(attempt < 200, "does not get on");
        // Once there is a saved run, it is only resumed.
        let arguments = match saved.exists() {
            true => vec!["resume", saved.to_str().unwrap(), "--save-every", "0"],
            false => first.clone(),
        };
        let mut run = Running::start(SDQ, folder.path(), &arguments);
        // Moments spread over a run by the golden ratio; later ones come later in the run, so that it ends.
        let share = f64::from(attempt + 1) * 0.618_034 % 1.0;
        thread::sleep(
            whole.mul_f64(0.05 + 0.3 * share).max(Duration::from_millis(20))
                + Duration::from_millis(u64::from(attempt) * 5),
        );
        if let Some(status) = run.ended() {
            assert!(status.success(), "{status}");
            break;
        }
        drop(run);
        kills += 1;
    }
    assert!(kills >= 3, "killed {kills} times only");
    println!("killed {kills} times");
    for name in names {
        let [found, expected] =
            [folder.path(), expected.path()].map(|folder| fs::read(folder.join(&name)).unwrap());
        assert!(found == expected, "{name} differs");
    }
    assert!(!saved.exists(), "a finished run leaves nothing to resume");
}

/// A failure to save does not end a run. A name that no picture can have ends it before the first step.
#[test]
fn a_run_that_cannot_be_saved_is_drawn() {
    let folder = TempDir::new().unwrap();
    let draw = |name: &str| {
        let arguments = ["generate", "a cat", "--steps", "3", "--save-every", "0", "-o", name];
        command::run(SDQ, folder.path(), &arguments)
    };
    // So long that the name of the saved run would exceed the limit.
    let long = format!("{}.png", "a".repeat(245));
    let outcome = draw(&long);
    assert_eq!(outcome.code, 0, "{}", outcome.errors);
    assert_eq!(outcome.errors.matches("cannot be saved").count(), 1, "{}", outcome.errors);
    assert!(folder.path().join(&long).is_file());
    draw(&format!("{}.png", "a".repeat(252))).assert_failed(1, &["the file name is too long"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The folder of the output vanishes while the picture is drawn. It is made again.
#[test]
fn a_picture_is_written_though_its_folder_vanished() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("out");
    fs::create_dir(&folder).unwrap();
    let arguments = ["generate", "a cat", "--steps", "60", "--save-every", "0", "-o", "out/a.png"];
    let mut run = Running::start(SDQ, root.path(), &arguments);
    let started = Instant::now();
    while !folder.join("a.png.sdq-run").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was saved");
        thread::sleep(Duration::from_millis(2));
    }
    // A file may be written into it meanwhile.
    while folder.exists() {
        let _ = fs::remove_dir_all(&folder);
    }
    let status = loop {
        match run.ended() {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    sdq_formats::picture::read(folder.join("a.png")).unwrap();
}

/// File names need not be text.
#[cfg(unix)]
#[test]
fn a_run_in_a_folder_whose_name_is_not_utf8_is_resumed() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    let root = TempDir::new().unwrap();
    let folder = root.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&folder).unwrap();
    let arguments = ["generate", "a cat", "--steps", "400", "--save-every", "0", "-o", "a.png"];
    let run = Running::start(SDQ, &folder, &arguments);
    let saved = folder.join("a.png.sdq-run");
    let started = Instant::now();
    while !saved.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was saved");
        thread::sleep(Duration::from_millis(5));
    }
    drop(run);
    command::run(SDQ, &folder, &["resume", "a.png.sdq-run"]).assert_done();
    assert!(folder.join("a.png").is_file() && !saved.exists());
}

/// Ctrl-C saves the run and prints how to resume it; a finished run leaves no saved run.
#[test]
fn saving_is_heard_of_when_it_matters() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| command::run(SDQ, folder.path(), arguments);
    run(&["generate", "a cat", "--steps", "2", "--save-every", "0"]).assert_done();
    let left = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(left(folder.path()), 1);
    fs::write(folder.path().join("x.sdq-run"), "{}").unwrap();
    run(&["resume", "x.sdq-run"]).assert_failed(1, &["x.sdq-run"]);
    run(&["resume", "none.sdq-run"]).assert_failed(1, &["none.sdq-run"]);
}

/// A saved run of the built-in model, stopped after its first step, in `folder` as `a.png.sdq-run`, with its list of files
/// replaced.
fn saved_with_files(folder: &Path, files: &serde_json::Value) -> PathBuf {
    let pipeline = sdq::model::open(None, &PipelineOptions::default()).unwrap();
    let request = Request::new("a cat").size(64, 64).steps(2).seed(1);
    let path = folder.join("a.png.sdq-run");
    let observer = &mut |event: Event<'_>| {
        if let Event::Saveable(checkpoint) = event {
            checkpoint.save(&path, &[("sdq.files", &files.to_string())]).unwrap();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    assert!(matches!(pipeline.generate(&request, observer), Err(Error::Cancelled { .. })));
    path
}

#[test]
fn info_describes_a_saved_run() {
    let folder = TempDir::new().unwrap();
    let files = serde_json::json!({ "output": "a.png", "add_ons": { "loras": [{ "path": "/x/ink.pt", "strength": 0.5 }] } });
    saved_with_files(folder.path(), &files);
    let outcome = command::run(SDQ, folder.path(), &["info", "a.png.sdq-run", "--json"]);
    outcome.assert_done();
    let info: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
    let run = &info["saved_run"];
    assert_eq!((&run["finished_pictures"], &run["finished_steps"]), (&0.into(), &1.into()), "{run}");
    let recipe = &info["recipe"];
    assert_eq!((&recipe["prompt"], &recipe["seed"]), (&"a cat".into(), &1.into()), "{recipe}");
    assert_eq!(recipe["loras"][0]["file"], "ink.pt", "{recipe}");
    assert!(recipe["fingerprint"].is_string() && recipe["model"].is_string(), "{recipe}");
}

/// Anyone may have made the file.
#[test]
fn nothing_is_written_where_a_saved_run_says() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let victim = elsewhere.path().join("victim.png");
    let files = serde_json::json!({ "output": victim, "save_latents": elsewhere.path().join("latents") });
    let saved = saved_with_files(folder.path(), &files);
    fs::write(&victim, "kept").unwrap();
    let resume = |arguments: &[&str]| command::run(SDQ, folder.path(), &[&["resume"], arguments].concat());
    let copy = |name: &str| fs::copy(&saved, folder.path().join(name)).unwrap();
    copy("b.sdq-run");
    copy("c.sdq-run");

    // The output is that of the saved run's name, and latents are written where the user says.
    let outcome = resume(&["a.png.sdq-run"]);
    outcome.assert_done();
    assert!(
        outcome.output.contains("a.png") && outcome.errors.contains("--save-latents"),
        "{}",
        outcome.errors
    );
    // Without one, the file's own name, without its folder, is taken once.
    resume(&["b.sdq-run", "--save-latents", "l.safetensors"]).assert_done();
    assert!(folder.path().join("victim.png").is_file() && folder.path().join("l.safetensors").is_file());
    let before = fs::read(folder.path().join("victim.png")).unwrap();
    resume(&["c.sdq-run"]).assert_failed(2, &["--output", "c.sdq-run"]);
    resume(&["c.sdq-run", "--save-latents", "c.sdq-run", "-o", "c.png"])
        .assert_failed(2, &["and the saved run"]);
    resume(&["c.sdq-run", "-o", "c.png"]).assert_done();
    assert_eq!(fs::read(folder.path().join("victim.png")).unwrap(), before);
    assert_eq!(fs::read(&victim).unwrap(), b"kept");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

/// Files that lie where a run would be saved or previewed, and that no run wrote.
#[test]
fn files_of_the_user_beside_the_output_stay() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.png.sdq-run", "a.preview.png"] {
        fs::write(path(name), name).unwrap();
    }
    let draw = |arguments: &[&str]| {
        let base = ["generate", "a cat", "--steps", "3", "--save-every", "0", "--preview-every", "1"];
        command::run(SDQ, folder.path(), &[&base, arguments].concat())
    };
    let outcome = draw(&["-o", "a.png"]);
    outcome.assert_done();
    assert_eq!(outcome.errors.matches("warning").count(), 2, "{}", outcome.errors);
    for name in ["a.png.sdq-run", "a.preview.png"] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), name);
    }
    // Its own are taken away.
    draw(&["-o", "b.png"]).assert_done();
    // A picture is not drawn over the one that it starts from.
    draw(&["-i", "a.png", "-o", "./a.png"]).assert_failed(2, &["--output", "the start picture"]);
    draw(&["--from", "a.png", "-o", "a.png"]).assert_failed(2, &["--output", "the picture with the recipe"]);
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.png", "a.png.sdq-run", "a.preview.png", "b.png"]);
}
