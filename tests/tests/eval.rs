//! `sdq eval`: compares one version of a model with another.

use std::{fs::File, io::BufReader, path::Path};

use sdq_formats::{WeightType, sdq::SdqFile};
use sdq_tests::{
    command::{self, Outcome},
    goldens,
    models::Model,
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// `sdq eval REFERENCE OTHER ARGS…` with small pictures of few steps.
fn eval(folder: &Path, reference: &Path, other: &Path, args: &[&str]) -> Outcome {
    let [reference, other] = [reference, other].map(|path| path.to_str().unwrap());
    let small = ["eval", reference, other, "-W", "40", "-H", "56", "--steps", "3"];
    command::run(SDQ, folder, &[&small, args].concat())
}

fn json(outcome: &Outcome) -> Value {
    outcome.assert_done();
    serde_json::from_str(&outcome.output).unwrap()
}

#[test]
fn a_model_is_equal_to_itself() {
    let model = Model::convert("sd1", WeightType::F32);
    let folder = TempDir::new().unwrap();
    let found = json(&eval(folder.path(), &model.path(), &model.path(), &["--prompt", "a cat", "--json"]));
    assert_eq!(found["psnr"]["worst"], Value::Null, "infinite");
    assert_eq!(found["decoder_psnr"]["worst"], Value::Null, "infinite");
    assert!((found["ssim"]["worst"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(found["text_states"]["worst"], 0.0);
    let steps = found["noise_pred"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| step["worst"] == 0.0), "{steps:?}");
    let table = eval(folder.path(), &model.path(), &model.path(), &["--prompt", "a cat"]);
    table.assert_done();
    for words in ["1 prompt, 40x56, 3 steps", "median", "inf", "SSIM", "step 1"] {
        assert!(table.output.contains(words), "no `{words}` in:\n{}", table.output);
    }
}

/// The reference is the directory, in f32; rounding its weights to f16 has a small effect on every measure.
#[test]
fn rounded_weights_differ_a_little() {
    let model = Model::convert("sd1", WeightType::F16);
    let folder = TempDir::new().unwrap();
    let source = goldens::folder("sd1").join("model");
    let prompts = folder.path().join("prompts.json");
    std::fs::write(&prompts, r#"[{"prompt": "a cat", "seed": 7}, {"prompt": "x"}, {"prompt": "a dog"}]"#)
        .unwrap();
    let args = ["--prompts", "prompts.json", "--limit", "2", "--seed", "9", "--json", "--sheet", "sheet.png"];
    let found = json(&eval(folder.path(), &source, &model.path(), &args));
    let rows = found["prompts"].as_array().unwrap();
    let drawn = rows.iter().map(|row| (row["prompt"].as_str().unwrap(), row["seed"].as_u64().unwrap()));
    assert_eq!(drawn.collect::<Vec<_>>(), [("a cat", 7), ("x", 9)]);
    let within = |value: &Value, low: f64, high: f64| {
        let number = value.as_f64().unwrap_or(f64::INFINITY);
        assert!(low < number && number < high, "{number} is not within {low} and {high}: {found:#}");
    };
    for row in rows {
        within(&row["text_states"], 1e-6, 1e-2);
        // Weights have errors of up to 5e-4, and guidance of 7.5 amplifies the errors of both halves up to
        // sixteenfold.
        row["noise_pred"].as_array().unwrap().iter().for_each(|step| within(step, 1e-6, 3e-2));
        within(&row["psnr"], 25.0, 100.0);
        within(&row["ssim"], 0.5, 1.0);
    }
    let sheet = png::Decoder::new(BufReader::new(File::open(folder.path().join("sheet.png")).unwrap()));
    let info = sheet.read_info().unwrap().info().clone();
    assert_eq!((info.width, info.height), (3 * 40, 2 * 56));
}

#[test]
fn models_that_do_not_compare_are_refused() {
    let (sd1, old) = (Model::convert("sd1", WeightType::F16), Model::convert("old", WeightType::F16));
    let folder = TempDir::new().unwrap();
    eval(folder.path(), &sd1.path(), &old.path(), &[])
        .assert_failed(1, &["not versions of one model", "weight"]);
}

#[test]
fn wrong_usage_is_named_in_one_line() {
    let model = Model::convert("fp16", WeightType::F16);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("empty.txt"), "\n").unwrap();
    std::fs::write(folder.path().join("bad.json"), r#"[{"text": "a cat"}]"#).unwrap();
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&["--prompts", "nowhere.txt"], 1, &["nowhere.txt"]),
        (&["--prompts", "empty.txt"], 1, &["empty.txt", "no prompts"]),
        (&["--prompts", "bad.json"], 1, &["bad.json", "item 0", "prompt"]),
        (&["--limit", "0"], 2, &["limit"]),
        (&["--sheet", "sheet.jpg"], 2, &["sheet.jpg", ".png"]),
        (&["--scheduler", "eular"], 2, &["eular"]),
    ];
    for (args, code, words) in cases {
        println!("{args:?}");
        eval(folder.path(), &model.path(), &model.path(), args).assert_failed(code, words);
    }
}

/// Calibration changes the integers of the weights, and the file's manifest records it.
#[test]
fn a_calibrated_file_says_so_and_draws() {
    let folder = TempDir::new().unwrap();
    let source = goldens::folder("sd1").join("model");
    let convert = |name: &str, args: &[&str]| {
        let common = ["convert", source.to_str().unwrap(), "--type", "q4", "-o", name];
        command::run(SDQ, folder.path(), &[&common, args].concat()).assert_done();
        folder.path().join(name)
    };
    let plain = convert("plain.sdq", &[]);
    let calibrated = convert("calibrated.sdq", &["--calibrate", "2"]);
    let file = SdqFile::open(&calibrated).unwrap();
    assert_eq!(file.manifest().quantization.as_ref().unwrap().calibration_prompts, 2);
    assert_ne!(std::fs::read(&plain).unwrap(), std::fs::read(&calibrated).unwrap());
    json(&eval(folder.path(), &source, &calibrated, &["--prompt", "a cat", "--json"]));
    let args = ["convert", source.to_str().unwrap(), "-o", "f16.sdq", "--calibrate", "2"];
    command::run(SDQ, folder.path(), &args).assert_failed(2, &["--calibrate", "quantized"]);
}
