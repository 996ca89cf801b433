//! `sdq convert` to quantized types: the type of each weight, the file's manifest, and errors.

use std::{fs, path::Path};

use sdq_formats::{WeightType, sdq::SdqFile};
use sdq_tests::{
    command::{self, Outcome},
    goldens,
    models::demo_model,
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// Converts the trained model in `folder` to `m.sdq`.
fn convert(folder: &Path, args: &[&str]) -> Outcome {
    let model = demo_model();
    let all = [&["convert", model.to_str().unwrap(), "-o", "m.sdq"], args].concat();
    command::run(SDQ, folder, &all)
}

fn weight_type(file: &SdqFile, component: &str, weight: &str) -> WeightType {
    file.component(component).unwrap().weight(weight).unwrap().weight_type
}

#[test]
fn errors_stay_within_what_each_type_costs() {
    for (recipe, q8_bound, q4_bound) in [("q8", 0.02, 0.0), ("mixed", 0.02, 0.12), ("q4", 0.02, 0.12)] {
        let folder = TempDir::new().unwrap();
        convert(folder.path(), &["--type", recipe]).assert_done();
        let file = SdqFile::open(folder.path().join("m.sdq")).unwrap();
        for component in file.components() {
            for weight in component.weights() {
                weight.verify().unwrap();
                let (name, error) = (&weight.spec.name, weight.relative_error());
                let bound = match weight.weight_type {
                    WeightType::Q8 => q8_bound,
                    WeightType::Q4 => q4_bound,
                    WeightType::F32 | WeightType::F16 => {
                        assert_eq!(error, None, "{name}");
                        continue;
                    }
                };
                assert!(error.unwrap() < bound, "{recipe}: {name}: {error:?}");
            }
        }
    }
}

#[test]
fn types_come_from_rules_then_components_then_the_whole() {
    let folder = TempDir::new().unwrap();
    let rules = ["--rule", r"attn2\.to_k=f32", "--rule", "unet.*attn2=q8"];
    let types = ["--type", "q4", "--vae-type", "f16", "--text-type", "q8"];
    convert(folder.path(), &[&rules[..], &types].concat()).assert_done();
    let file = SdqFile::open(folder.path().join("m.sdq")).unwrap();
    let block = "mid_block.attentions.0.transformer_blocks.0";
    for (name, expected) in [
        (format!("{block}.attn2.to_k.weight"), WeightType::F32),
        (format!("{block}.attn2.to_q.weight"), WeightType::Q8),
        (format!("{block}.attn2.to_out.0.bias"), WeightType::F32),
        (format!("{block}.attn1.to_q.weight"), WeightType::Q4),
        ("conv_in.weight".to_owned(), WeightType::F16),
    ] {
        assert_eq!(weight_type(&file, "unet", &name), expected, "{name}");
    }
    assert_eq!(weight_type(&file, "vae", "decoder.mid_block.resnets.0.conv1.weight"), WeightType::F16);
    let info = command::run(SDQ, folder.path(), &["info", "m.sdq", "--json"]);
    info.assert_done();
    let info: Value = serde_json::from_str(&info.output).unwrap();
    let how = &info["quantization"];
    assert_eq!(how["recipes"], serde_json::json!(["text_encoder: q8", "unet: q4", "vae: f16"]));
    assert_eq!(how["rules"], serde_json::json!([rules[1], rules[3]]));
    assert_eq!(info["largest_errors"].as_array().unwrap().len(), 10);
    let weights = info["components"]["unet"]["weights"].as_array().unwrap();
    assert_eq!(weights.len(), file.component("unet").unwrap().weights().count());
    assert!(weights.iter().any(|weight| weight["type"] == "q4" && weight["relative_error"].is_number()));
}

#[test]
fn the_file_does_not_depend_on_threads() {
    let [one, three] = ["1", "3"].map(|threads| {
        let folder = TempDir::new().unwrap();
        convert(folder.path(), &["--type", "mixed", "--threads", threads]).assert_done();
        fs::read(folder.path().join("m.sdq")).unwrap()
    });
    assert!(one == three);
}

#[test]
fn rules_that_cannot_be_followed_are_usage_errors() {
    let folder = TempDir::new().unwrap();
    for (rule, words) in [
        ("attn9=q8", ["attn9=q8", "matches no"]),
        ("token_embedding=q4", ["table", "never stored as q4"]),
        ("norm1=q8", ["norm1=q8", "matches no"]),
    ] {
        convert(folder.path(), &["--rule", rule]).assert_failed(2, &words);
    }
    for rule in ["attn2", "attn2=q5", "attn2=mixed", "(=q8"] {
        assert_eq!(convert(folder.path(), &["--rule", rule]).code, 2, "{rule}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A conversion that the system kills leaves its temporary file, which the next one removes; one whose disk
/// is full fails and leaves nothing.
#[cfg(unix)]
#[test]
fn nothing_stays_behind_of_a_killed_conversion_or_a_full_disk() {
    use std::process::Command;

    let folder = TempDir::new().unwrap();
    let model = goldens::folder("sd1").join("model");
    let limited = |prelude: &str| {
        // A file may have 64 blocks of 512 or 1024 bytes; the model needs more.
        let script = format!("ulimit -c 0; {prelude} ulimit -f 64; exec \"$0\" convert \"$1\" -o m.sdq");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, SDQ, model.to_str().unwrap()]).current_dir(folder.path());
        shell.output().unwrap()
    };
    let left = || -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };

    let killed = limited("");
    assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stderr));
    assert!(matches!(&left()[..], [part] if part.ends_with(".part")), "{:?}", left());

    let full = limited("trap '' XFSZ;");
    assert_eq!(full.status.code(), Some(1), "{}", String::from_utf8_lossy(&full.stderr));
    assert_eq!(left(), Vec::<String>::new());

    limited("");
    assert_eq!(left().len(), 1);
    let args = ["convert", model.to_str().unwrap(), "-o", "m.sdq"];
    command::run(SDQ, folder.path(), &args).assert_done();
    assert_eq!(left(), ["m.sdq"]);
}
