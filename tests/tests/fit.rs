//! `sdq convert` with a target size or error instead of types.

use std::fs;

use sdq_formats::{WeightType, sdq::SdqFile};
use sdq_tests::{
    command::{self, Outcome},
    goldens,
    models::Model,
};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// `sdq convert -o fit.sdq ARGS…` for a tiny model, measured with one picture.
fn convert(folder: &TempDir, args: &[&str]) -> Outcome {
    let source = goldens::folder("sd1").join("model");
    fs::write(folder.path().join("prompts.txt"), "a cat").unwrap();
    let prompts = ["--calibration-prompts", "prompts.txt"];
    let common = [&["convert", source.to_str().unwrap(), "-o", "fit.sdq"], &prompts[..]].concat();
    command::run(SDQ, folder.path(), &[&common[..], args].concat())
}

/// The number of weights of `fit.sdq` with this type.
fn count(folder: &TempDir, weight_type: WeightType) -> usize {
    let file = SdqFile::open(folder.path().join("fit.sdq")).unwrap();
    let weights = file.components().flat_map(|component| component.weights());
    weights.filter(|weight| weight.weight_type == weight_type).count()
}

#[test]
fn a_size_is_kept_with_mixed_types() {
    let bytes = |weight_type| fs::metadata(Model::convert("sd1", weight_type).path()).unwrap().len();
    let (f16, q4) = (bytes(WeightType::F16), bytes(WeightType::Q4));
    let limit = q4.midpoint(f16);
    let folder = TempDir::new().unwrap();
    convert(&folder, &["--max-size", &(limit as f64 / 1e6).to_string()]).assert_done();
    let found = fs::metadata(folder.path().join("fit.sdq")).unwrap().len();
    assert!(found <= limit && found > q4, "{found} bytes of at most {limit}, {q4} in q4, {f16} in f16");
    assert!(count(&folder, WeightType::Q8) + count(&folder, WeightType::Q4) > 0);
    command::run(SDQ, folder.path(), &["info", "fit.sdq", "--verify"]).assert_done();
}

#[test]
fn the_target_decides_how_many_weights_are_in_q4() {
    let folder = TempDir::new().unwrap();
    convert(&folder, &["--target-psnr", "1000"]).assert_done();
    assert_eq!(count(&folder, WeightType::Q4), 0);
    convert(&folder, &["--target-psnr", "1"]).assert_done();
    assert!(count(&folder, WeightType::Q4) > 0);
}

#[test]
fn goals_that_cannot_be_are_named_in_one_line() {
    let folder = TempDir::new().unwrap();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--max-size", "0.001"], &["--max-size", "0.001", "at least"]),
        (&["--max-size", "-1"], &["-1"]),
        (&["--target-psnr", "NaN"], &["--target-psnr", "NaN"]),
        (&["--max-size", "1", "--type", "q8"], &["--max-size", "--type"]),
        (&["--max-size", "1", "--target-psnr", "30"], &["--max-size", "--target-psnr"]),
    ];
    for (args, words) in cases {
        println!("{args:?}");
        convert(&folder, args).assert_failed(2, words);
        assert!(!folder.path().join("fit.sdq").exists());
    }
}
