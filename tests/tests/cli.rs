//! The command line: exit codes, one-line errors, files, JSON.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use sdq_formats::{WeightType, safetensors::SafetensorsFile};
use sdq_tests::{
    command::{self, Outcome},
    goldens::Goldens,
    measure::{PICTURE_DB, psnr},
    models::Model,
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// A folder to draw in, with a small model.
struct Studio {
    folder: TempDir,
    model: Model,
}

impl Studio {
    fn new() -> Studio {
        Studio { folder: TempDir::new().unwrap(), model: Model::convert("fp16", WeightType::F16) }
    }

    /// `sdq generate -m MODEL ARGS…`, by default a small picture of few steps.
    fn generate(&self, args: &[&str]) -> Outcome {
        let model = self.model.path();
        let mut all = vec!["generate", "-m", model.to_str().unwrap()];
        for (flag, value) in [("-W", "40"), ("-H", "56"), ("--steps", "2")] {
            if !args.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(args);
        command::run(SDQ, self.path(), &all)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn info(&self, args: &[&str]) -> Outcome {
        command::run(SDQ, self.path(), &[&["info"], args].concat())
    }
}

#[test]
fn wrong_usage_is_named_in_one_line_and_leaves_nothing() {
    let studio = Studio::new();
    let cases: [(&[&str], &[&str]); 20] = [
        (&["-W", "100"], &["width", "100", "8", "96"]),
        (&["-H", "57"], &["height", "57", "56"]),
        (&["-W", "0"], &["width", "0"]),
        (&["-W", "1000000000000"], &["width", "1000000000000"]),
        (&["-W", "-8"], &["-8"]),
        (&["--steps", "0"], &["steps", "0"]),
        (&["--steps", "1000000000"], &["steps", "1000000000", "1000"]),
        (&["--steps", "many"], &["steps", "many"]),
        (&["--scheduler", "eular"], &["eular", "euler"]),
        (&["--scheduler", "Dpm++"], &["Dpm++"]),
        (&["--scheduler", ""], &["scheduler"]),
        (&["--scheduler-option", "etta=1"], &["etta", "eta"]),
        (&["--scheduler-option", "eta"], &["eta", "KEY=VALUE"]),
        (&["--guidance-scale", "NaN"], &["guidance-scale", "NaN"]),
        (&["--guidance-scale", "inf"], &["guidance-scale", "inf"]),
        (&["--count", "0"], &["count", "0"]),
        (&["--threads", "0"], &["threads", "0"]),
        (&["--seed", "-2"], &["-1"]),
        (&["-o", "picture.gif"], &["picture.gif", ".png"]),
        (&["--stepps", "3"], &["--stepps"]),
    ];
    for (args, words) in cases {
        println!("{args:?}");
        studio.generate(&[&["a cat"], args].concat()).assert_failed(2, words);
        assert_eq!(studio.files(), [""; 0], "{args:?}");
    }
}

#[test]
fn outputs_that_cannot_be_written_are_noticed_before_drawing() {
    let studio = Studio::new();
    fs::create_dir(studio.file("folder.png")).unwrap();
    fs::write(studio.file("file"), "").unwrap();
    for output in ["no/such/picture.png", "folder.png", "file/picture.png"] {
        let outcome = studio.generate(&["a cat", "-o", output]);
        outcome.assert_failed(1, &[output]);
        assert!(!outcome.errors.contains("step 1"), "drew before it looked:\n{}", outcome.errors);
    }
    studio
        .generate(&["a cat", "--save-latents", "no/such/l.safetensors"])
        .assert_failed(1, &["l.safetensors"]);
    assert_eq!(studio.files(), ["file", "folder.png"]);
}

#[test]
fn files_that_are_no_model_are_named() {
    let studio = Studio::new();
    let good = fs::read(studio.model.path()).unwrap();
    let mut newer = good.clone();
    newer[8] = 0xee;
    let contents: [(&str, &[u8]); 6] = [
        ("empty.sdq", b""),
        ("text.sdq", b"this is a text, much longer than any header of a few bytes would have to be"),
        ("picture.sdq", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        ("half.sdq", &good[..good.len() / 2]),
        ("header.sdq", &good[..40]),
        ("newer.sdq", &newer),
    ];
    for (name, content) in contents {
        fs::write(studio.file(name), content).unwrap();
        for command in [&["generate", "a cat", "-m", name][..], &["info", name]] {
            println!("{command:?}");
            command::run(SDQ, studio.path(), command).assert_failed(1, &[name]);
        }
    }
    command::run(SDQ, studio.path(), &["generate", "a cat", "-m", "nowhere.sdq"])
        .assert_failed(1, &["nowhere.sdq"]);
    assert_eq!(studio.files().len(), contents.len());
}

/// Opening a model reads no weights, so a flipped bit in one is only found by `--verify`.
#[test]
fn info_verify_finds_a_damaged_weight() {
    let studio = Studio::new();
    let mut bytes = fs::read(studio.model.path()).unwrap();
    fs::write(studio.file("good.sdq"), &bytes).unwrap();
    studio.info(&["good.sdq", "--verify"]).assert_done();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(studio.file("bad.sdq"), &bytes).unwrap();
    studio.info(&["bad.sdq", "--verify"]).assert_failed(1, &["bad.sdq", "weight"]);
}

#[test]
fn a_picture_carries_its_recipe() {
    let studio = Studio::new();
    let outcome = studio.generate(&[
        "ein Bär, \"très\" 🐻",
        "-n",
        "rain",
        "-o",
        "bear.png",
        "--scheduler",
        "ddim",
        "--scheduler-option",
        "eta=0.5",
        "--seed",
        "18446744073709551615",
        "-g",
        "3.5",
    ]);
    outcome.assert_done();
    assert_eq!(outcome.output, "bear.png\n", "standard output holds the file and nothing else");
    let info = studio.info(&["bear.png", "--json"]);
    info.assert_done();
    let json: Value = serde_json::from_str(&info.output).unwrap();
    let recipe = json.get("recipe").unwrap_or(&json);
    let expected = [
        ("prompt", "ein Bär, \"très\" 🐻".into()),
        ("negative_prompt", "rain".into()),
        ("width", 40.into()),
        ("height", 56.into()),
        ("steps", 2.into()),
        ("scheduler", "ddim".into()),
        ("guidance_scale", 3.5.into()),
        ("seed", Value::from(u64::MAX)),
    ];
    for (key, value) in expected {
        assert_eq!(recipe[key], value, "{key} in {recipe}");
    }
    assert_eq!(recipe["scheduler_options"]["eta"], "0.5");
    let info = studio.info(&["bear.png"]);
    info.assert_done();
    for words in ["ein Bär, \"très\" 🐻", "rain", "18446744073709551615", "ddim"] {
        assert!(info.output.contains(words), "no `{words}` in:\n{}", info.output);
    }
}

#[test]
fn a_picture_of_another_program_has_no_recipe() {
    let studio = Studio::new();
    let plain = sdq_engine::Picture { width: 1, height: 1, rgb: vec![1, 2, 3] };
    sdq_formats::picture::write(studio.file("plain.png"), &plain, &[]).unwrap();
    studio.info(&["plain.png"]).assert_failed(1, &["plain.png", "recipe"]);
}

#[test]
fn json_output_parses_and_names_every_file() {
    let studio = Studio::new();
    let outcome = studio.generate(&["a cat", "-o", "cat.png", "--count", "2", "--seed", "9", "--json"]);
    outcome.assert_done();
    let json: Value = serde_json::from_str(&outcome.output).unwrap();
    let pictures = json["pictures"].as_array().unwrap();
    assert_eq!(studio.files(), ["cat-1.png", "cat-2.png"]);
    for (index, picture) in pictures.iter().enumerate() {
        assert_eq!(picture["file"], studio.files()[index].as_str());
        assert_eq!(picture["recipe"]["seed"], 9 + index);
    }
    assert_eq!(pictures.len(), 2);
    let info = studio.info(&[studio.model.path().to_str().unwrap(), "--json"]);
    info.assert_done();
    serde_json::from_str::<Value>(&info.output).unwrap();
}

/// The picture and the latents on disk are those of diffusers: nothing is lost between the engine and the
/// files.
#[test]
fn files_hold_what_diffusers_draws() {
    let studio = Studio::new();
    let goldens = Goldens::load("fp16");
    let case = &goldens.manifest.end_to_end[1];
    let [width, height, steps, seed] = [case.width as u64, case.height as u64, case.steps as u64, case.seed]
        .map(|number| number.to_string());
    let eta = format!("eta={}", case.eta);
    let outcome = studio.generate(&[
        &case.prompt,
        "-n",
        &case.negative_prompt,
        "-W",
        &width,
        "-H",
        &height,
        "--steps",
        &steps,
        "--seed",
        &seed,
        "--scheduler",
        &case.scheduler,
        "--scheduler-option",
        &eta,
        "-o",
        "case.png",
        "--save-latents",
        "l.safetensors",
    ]);
    outcome.assert_done();
    let latents = SafetensorsFile::open(studio.file("l.safetensors")).unwrap();
    let latents = latents.tensor("latents").unwrap();
    let expected = goldens.tensor(&case.case, "latents");
    assert_eq!(latents.shape, expected.shape());
    let error = sdq_tests::measure::relative_error(&latents.to_f32().unwrap(), expected.values());
    assert!(error <= sdq_tests::measure::LATENT_ERROR, "{error}");
    let (_, expected) = goldens.picture(&case.case);
    assert!(psnr(&pixels(&studio.file("case.png")), &expected) >= PICTURE_DB);
}

/// The pixels of an 8-bit RGB picture.
fn pixels(path: &Path) -> Vec<u8> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    pixels
}

#[test]
fn the_same_command_writes_the_same_bytes() {
    let studio = Studio::new();
    for (name, threads) in [("one.png", "1"), ("two.png", "2")] {
        studio.generate(&["a cat", "-o", name, "--threads", threads]).assert_done();
    }
    assert_eq!(fs::read(studio.file("one.png")).unwrap(), fs::read(studio.file("two.png")).unwrap());
}

#[test]
fn help_version_and_lists_go_to_standard_output() {
    let folder = TempDir::new().unwrap();
    for (args, words) in [
        (&["--help"][..], &["generate", "convert", "info", "schedulers"][..]),
        (&["generate", "--help"], &["--scheduler", "--steps", "--seed"]),
        (&["--version"], &["sdq"]),
        (&["completions", "bash"], &["_sdq()", "--guidance-scale", "--cfg-scale", "--sampler"]),
        (&["completions", "fish"], &["complete -c sdq", "lora-dir"]),
        (&["man"], &[".TH sdq 1", "generate"]),
        (&["man", "generate"], &[".TH sdq-generate 1", "lora\\-dir"]),
        (&["schedulers"], &["ddim", "ddpm", "euler", "euler-ancestral", "eta"]),
    ] {
        let outcome = command::run(SDQ, folder.path(), args);
        outcome.assert_done();
        for word in words {
            assert!(outcome.output.contains(word), "no `{word}` in the answer to {args:?}");
        }
    }
    assert_eq!(command::run::<&str>(SDQ, folder.path(), &[]).code, 2, "no command");
    command::run(SDQ, folder.path(), &["draw"]).assert_failed(2, &["draw"]);
    command::run(SDQ, folder.path(), &["man", "draw"]).assert_failed(2, &["no command `draw`"]);
}

/// The allocator reserved addresses for each thread that happened to allocate, so that runs fitted by chance.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_limit_on_the_address_space_leaves_the_same_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut limits = Vec::new();
    for _ in 0..8 {
        let script = "ulimit -v 600000; exec \"$0\" plan 'a red apple' --threads 2 --json";
        let planned = std::process::Command::new("sh")
            .args(["-c", script, SDQ])
            .current_dir(folder.path())
            .env("SDQ_CONFIG", "")
            .output()
            .unwrap();
        assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
        limits.push(plan["limit"].as_u64().unwrap());
    }
    let (least, most) = (limits.iter().min().unwrap(), limits.iter().max().unwrap());
    assert!(most - least < 16 << 20, "{limits:?}");
}
