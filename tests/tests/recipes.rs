//! Recipes in pictures: `--from` repeats the run or reports what it cannot repeat, and recipes of other
//! programs are shown.

use std::{fs, path::Path};

use sdq_formats::picture;
use sdq_tests::command::{self, Outcome};
use serde_json::{Value, json};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn sdq(folder: &TempDir, args: &[&str]) -> Outcome {
    command::run(SDQ, folder.path(), args)
}

fn pixels(folder: &TempDir, name: &str) -> picture::Picture {
    picture::read(folder.path().join(name)).unwrap()
}

fn info(folder: &TempDir, name: &str) -> Value {
    let info = sdq(folder, &["info", name, "--json"]);
    assert_eq!(info.code, 0, "{}", info.errors);
    serde_json::from_str(&info.output).unwrap()
}

/// A picture of 8x8 with one text.
fn write(path: &Path, keyword: &str, text: &str) {
    let picture = picture::Picture { width: 8, height: 8, rgb: vec![90; 192] };
    picture::write(path, &picture, &[(keyword, text)]).unwrap();
}

/// Every field of a recipe matters: without any of them the picture differs.
#[test]
fn a_recipe_draws_its_picture_again() {
    let folder = TempDir::new().unwrap();
    let first = [
        "generate",
        "a (red:1.3) apple",
        "-n",
        "a pear",
        "--steps",
        "4",
        "--seed",
        "9",
        "-g",
        "4.3",
        "--scheduler",
        "ddim",
        "--scheduler-option",
        "eta=0.5",
        "--guidance-rescale",
        "0.4",
        "--clip-skip",
        "2",
        "--variation-seed",
        "5",
        "--variation-strength",
        "0.3",
        "--cache",
        "deepcache:2",
        "-W",
        "72",
        "-o",
        "a.png",
    ];
    assert_eq!(sdq(&folder, &first).code, 0);
    for output in ["b.png", "c.webp"] {
        let again = sdq(&folder, &["generate", "--from", "a.png", "-o", output]);
        assert_eq!(again.code, 0, "{}", again.errors);
        assert!(!again.errors.contains("warning"), "{}", again.errors);
        assert_eq!(pixels(&folder, output), pixels(&folder, "a.png"));
    }
    let recipe = info(&folder, "a.png");
    assert_eq!(info(&folder, "c.webp"), recipe);
    assert!(recipe["fingerprint"].is_string() && recipe["weights"]["unet"] == "q8", "{recipe}");

    // A flag takes precedence over the recipe, each alone.
    for (flag, key) in [
        (&["a pear"][..], "prompt"),
        (&["--negative-prompt", "x"], "negative_prompt"),
        (&["--steps", "3"], "steps"),
        (&["--seed", "10"], "seed"),
        (&["-g", "2"], "guidance_scale"),
        (&["-W", "64"], "width"),
        (&["--scheduler-option", "eta=0.7"], "scheduler_options"),
        (&["--guidance-rescale", "0"], "guidance_rescale"),
        (&["--clip-skip", "1"], "clip_skip"),
        (&["--variation-seed", "6"], "variation_seed"),
        (&["--variation-strength", "0.2"], "variation_strength"),
        (&["--cache", "none"], "cache"),
        (&["--plain-prompt"], "plain_prompt"),
    ] {
        let changed = sdq(&folder, &[&["generate", "--from", "a.png", "-o", "d.png"], flag].concat());
        assert_eq!(changed.code, 0, "{}", changed.errors);
        assert_ne!(pixels(&folder, "d.png"), pixels(&folder, "a.png"), "{flag:?}");
        let changed = info(&folder, "d.png");
        let (Value::Object(mut changed), Value::Object(mut recipe)) = (changed, recipe.clone()) else {
            panic!()
        };
        assert_ne!(changed.shift_remove(key), recipe.shift_remove(key), "{flag:?}");
        assert_eq!(changed, recipe, "{flag:?}");
    }
    // Options of the recipe's scheduler do not apply to another one.
    let other = sdq(&folder, &["generate", "--from", "a.png", "-o", "d.png", "--scheduler", "euler-a"]);
    assert_eq!(other.code, 0, "{}", other.errors);
    assert_eq!(info(&folder, "d.png")["scheduler_options"], json!({}));

    // The memory of the process itself differs slightly from run to run.
    let peak = |args: &[&str]| {
        let plan = sdq(&folder, &[&["plan"], args, &["--json"]].concat()).output;
        serde_json::from_str::<Value>(&plan).unwrap()["peak"].as_f64().unwrap()
    };
    let (found, expected) = (peak(&["--from", "a.png"]), peak(&first[1..first.len() - 2]));
    let larger = peak(&["--from", "a.png", "-W", "128", "-H", "128"]);
    assert!((found / expected - 1.0).abs() < 0.05 && larger > 1.3 * found, "{found} {expected} {larger}");
}

#[test]
fn a_start_picture_is_found_beside_the_recipe() {
    let folder = TempDir::new().unwrap();
    let rgb: Vec<u8> = (0..40 * 48).flat_map(|i| [(i % 40 * 6) as u8, (i / 40 * 5) as u8, 90]).collect();
    let start = picture::Picture { width: 40, height: 48, rgb };
    picture::write(folder.path().join("in.png"), &start, &[]).unwrap();
    picture::write(folder.path().join("mask.png"), &start, &[]).unwrap();
    let first =
        ["generate", "a pear", "-i", "in.png", "--mask", "mask.png", "--strength", "0.6", "--steps", "5"];
    assert_eq!(sdq(&folder, &[&first[..], &["-o", "a.png"]].concat()).code, 0);
    assert_eq!(sdq(&folder, &["generate", "--from", "a.png", "-o", "b.png"]).code, 0);
    assert_eq!(pixels(&folder, "b.png"), pixels(&folder, "a.png"));

    fs::rename(folder.path().join("mask.png"), folder.path().join("other.png")).unwrap();
    sdq(&folder, &["generate", "--from", "a.png"]).assert_failed(2, &["a.png", "mask.png", "--mask"]);
    fs::remove_file(folder.path().join("in.png")).unwrap();
    sdq(&folder, &["generate", "--from", "a.png"]).assert_failed(2, &["in.png", "--init-image"]);
    write(
        &folder.path().join("img2img.png"),
        picture::PARAMETERS,
        "x\nSteps: 3, Seed: 1, Denoising strength: 0.5",
    );
    sdq(&folder, &["generate", "--from", "img2img.png"])
        .assert_failed(2, &["without a name", "--init-image"]);
}

#[test]
fn what_is_not_as_it_was_is_said() {
    let folder = TempDir::new().unwrap();
    assert_eq!(sdq(&folder, &["generate", "x", "--steps", "1", "-o", "a.png"]).code, 0);
    let recipe = info(&folder, "a.png");
    let changed = |key: &str, value: Value| {
        let mut recipe = recipe.clone();
        recipe[key] = value;
        recipe
    };
    let mut retyped = changed("fingerprint", "00000000".into());
    retyped["weights"]["unet"] = "q4".into();
    for (recipe, words) in [
        (changed("loras", json!([{ "file": "ink\u{1b}.pt", "strength": 1.0 }])), "`ink\\u{1b}.pt`"),
        (
            changed("loras", json!([{ "file": "../a.png", "strength": 1.0 }])),
            "neither in --lora-dir nor beside",
        ),
        (changed("embeddings", json!([{ "file": "toy.pt" }])), "`toy.pt`"),
        (changed("vae", "taesd.pt".into()), "`taesd.pt`"),
        (changed("fingerprint", "00000000".into()), "(00000000)"),
        (
            changed("fingerprint", format!("{}+1", recipe["fingerprint"].as_str().unwrap()).into()),
            "other LoRAs",
        ),
        (retyped, "unet q4"),
        (changed("model", "\u{9b}31m".into()), ""),
        (changed("version", "sdq 0.0.1".into()), "sdq 0.0.1"),
    ] {
        write(&folder.path().join("b.png"), picture::RECIPE, &recipe.to_string());
        let outcome = sdq(&folder, &["generate", "--from", "b.png", "-o", "c.png"]);
        assert_eq!(outcome.code, 0, "{}", outcome.errors);
        assert!(outcome.errors.contains(words), "{words}: {}", outcome.errors);
        assert_eq!(outcome.errors.contains("warning"), !words.is_empty(), "{}", outcome.errors);
        assert!(!outcome.errors.contains(['\u{1b}', '\u{9b}']), "{}", outcome.errors);
        assert_eq!(pixels(&folder, "c.png"), pixels(&folder, "a.png"));
    }
    sdq(&folder, &["generate", "--from", "none.png"]).assert_failed(1, &["none.png"]);
    write(&folder.path().join("b.png"), "Title", "x");
    sdq(&folder, &["generate", "--from", "b.png"]).assert_failed(1, &["b.png", "no recipe"]);
    sdq(&folder, &["generate", "--from", "a.png", "--variation-seed", "1"])
        .assert_failed(2, &["--variation-strength"]);
}

#[test]
fn recipes_of_other_programs_are_shown_and_drawn() {
    let folder = TempDir::new().unwrap();
    let text = "a red apple, 灯台\nNegative prompt: blue\nSteps: 2, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 64x64, \
        Model: other, ENSD: 31337";
    for name in ["a.png", "a.jpg", "a.webp"] {
        write(&folder.path().join(name), picture::PARAMETERS, text);
        let shown = info(&folder, name);
        assert_eq!((&shown["prompt"], &shown["seed"]), (&"a red apple, 灯台".into(), &5.into()), "{name}");
        assert_eq!(shown["written_by"], "AUTOMATIC1111", "{name}");
        assert_eq!(shown["not_used"], json!(["ENSD: 31337"]), "{name}");
        let drawn = sdq(&folder, &["generate", "--from", name, "a red apple", "-o", "b.png"]);
        assert_eq!(drawn.code, 0, "{}", drawn.errors);
        for words in ["similar at best", "ENSD: 31337", "`other`"] {
            assert!(drawn.errors.contains(words), "{words}: {}", drawn.errors);
        }
    }
    let flags = ["generate", "a red apple", "-n", "blue", "--steps", "2", "--scheduler", "euler-a"];
    let flags = [&flags[..], &["-g", "3", "--seed", "5", "-W", "64", "-H", "64", "-o", "c.png"]].concat();
    assert_eq!(sdq(&folder, &flags).code, 0);
    assert_eq!(pixels(&folder, "b.png"), pixels(&folder, "c.png"));
}

#[test]
fn nothing_in_a_recipe_drives_the_terminal() {
    let folder = TempDir::new().unwrap();
    let hostile = "a\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\u{202e}b";
    write(
        &folder.path().join("a.png"),
        picture::RECIPE,
        &json!({ "prompt": hostile, hostile: 1 }).to_string(),
    );
    for flags in [&["info", "a.png"][..], &["info", "a.png", "--json"]] {
        let shown = sdq(&folder, flags);
        assert_eq!(shown.code, 0, "{}", shown.errors);
        let driven = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.output.contains(driven), "{:?}", shown.output);
    }
    assert_eq!(info(&folder, "a.png")["prompt"], hostile);
}
