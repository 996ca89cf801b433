//! LoRAs, words and VAEs on the command line, with the built-in model.

use std::{ffi::OsStr, fs, path::Path};

use sdq_formats::{WeightRole, WeightType};
use sdq_tests::{
    checkpoint::write_f32,
    command::{self, Outcome},
    models::{Model, demo_model},
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn generate(folder: &Path, output: &str, flags: &[&str]) -> Outcome {
    let args = ["generate", "a red apple", "-o", output, "--steps", "3", "--seed", "1"];
    command::run(SDQ, folder, &[&args, flags].concat())
}

/// The pixels of a picture, to be compared independently of its recipe.
fn pixels(path: &Path) -> Vec<u8> {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// A LoRA of rank 1 for one layer of the built-in model.
fn write_lora(path: &Path) {
    let pipeline = Model::convert_folder(&demo_model(), WeightType::F16).open(1);
    let specs = pipeline.weights().into_iter().find(|(component, _)| *component == "unet").unwrap().1;
    let spec =
        specs.iter().find(|spec| spec.role == WeightRole::Matrix && spec.name.ends_with("attn2.to_q.weight"));
    let spec = spec.unwrap();
    let key = format!("lora_unet_{}", spec.name.trim_end_matches(".weight").replace('.', "_"));
    let (outputs, inputs) = (spec.shape[0], spec.shape[1]);
    let values = |len: usize| (0..len).map(|i| ((i * 7) % 13) as f32 / 6.0 - 1.0).collect::<Vec<_>>();
    let (down, up) = (values(inputs), values(outputs));
    write_f32(
        path,
        &[
            (format!("{key}.lora_down.weight"), &[1, inputs], &down),
            (format!("{key}.lora_up.weight"), &[outputs, 1], &up),
            ("lora_unet_not_there.lora_down.weight".to_owned(), &[1, 1], &[1.0]),
            ("lora_unet_not_there.lora_up.weight".to_owned(), &[1, 1], &[1.0]),
        ],
    );
}

#[test]
fn a_lora_changes_the_picture_and_is_noted_in_it() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_lora(&at("ink.safetensors"));
    assert_eq!(generate(folder.path(), "plain.png", &[]).code, 0);
    let outcome = generate(folder.path(), "flag.png", &["--lora", "ink.safetensors:0.5"]);
    assert_eq!(outcome.code, 0, "{}", outcome.errors);
    assert!(outcome.errors.contains("changes 1 of 2 layers with strength 0.5"), "{}", outcome.errors);
    assert!(outcome.errors.contains("lora_unet_not_there"), "{}", outcome.errors);
    assert_ne!(pixels(&at("flag.png")), pixels(&at("plain.png")));

    let args = [
        "generate",
        "a red apple<lora:ink:0.5>",
        "-o",
        "tag.png",
        "--steps",
        "3",
        "--seed",
        "1",
        "--lora-dir",
        ".",
    ];
    assert_eq!(command::run(SDQ, folder.path(), &args).code, 0);
    assert_eq!(pixels(&at("tag.png")), pixels(&at("flag.png")));
    let recipe = command::run(SDQ, folder.path(), &["info", "tag.png", "--json"]).output;
    let recipe: Value = serde_json::from_str(&recipe).unwrap();
    assert_eq!(recipe["prompt"], "a red apple");
    assert_eq!(
        (&recipe["loras"][0]["file"], &recipe["loras"][0]["strength"]),
        (&"ink.safetensors".into(), &0.5.into())
    );

    // The recipe draws the same picture again with the LoRA, and fails with a message if the LoRA is another
    // one.
    let again = || command::run(SDQ, folder.path(), &["generate", "--from", "tag.png", "-o", "again.png"]);
    let outcome = again();
    assert!(outcome.code == 0 && !outcome.errors.contains("warning"), "{}", outcome.errors);
    assert_eq!(pixels(&at("again.png")), pixels(&at("flag.png")));
    fs::remove_file(at("ink.safetensors")).unwrap();
    let outcome = again();
    assert!(outcome.errors.contains("other LoRAs") && outcome.errors.contains("`ink.safetensors`"));
    assert_eq!(pixels(&at("again.png")), pixels(&at("plain.png")));
    write_lora(&at("ink.safetensors"));

    // The same again, starting from a plan.
    let plan = ["plan", "a red apple", "--lora", "ink.safetensors", "--json"];
    let plan: Value = serde_json::from_str(&command::run(SDQ, folder.path(), &plan).output).unwrap();
    assert!(plan["peak"].as_u64().unwrap() > 0);
}

#[test]
fn what_is_no_add_on_of_the_model_is_refused() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_f32(
        &at("other.safetensors"),
        &[
            ("lora_unet_down_blocks_9_x.lora_down.weight", &[1, 768], &[0.0; 768]),
            ("lora_unet_down_blocks_9_x.lora_up.weight", &[768, 1], &[0.0; 768]),
        ],
    );
    let refused = |flags: &[&str], code: i32, words: &[&str]| {
        generate(folder.path(), "x.png", flags).assert_failed(code, words);
    };
    refused(&["--lora", "other.safetensors"], 1, &["other.safetensors", "none of the 1 modules"]);
    refused(&["--lora", "gone.safetensors"], 1, &["gone.safetensors"]);
    refused(&["--embedding", "other.safetensors"], 1, &["not a textual inversion"]);
    refused(&["--vae", "other.safetensors"], 1, &["looks like a LoRA"]);
    refused(&["--clip-skip", "99"], 2, &["clip-skip"]);
    let tag = ["generate", "a <lora:ink:1>", "-o", "x.png"];
    command::run(SDQ, folder.path(), &tag).assert_failed(2, &["--lora-dir DIR"]);
    let tag = ["generate", "a <lora:ink:1>", "-o", "x.png", "--lora-dir", "."];
    command::run(SDQ, folder.path(), &tag).assert_failed(2, &["there is no ink.safetensors"]);
    let editing = ["generate", "a [cat:dog:0.5]", "-o", "x.png"];
    command::run(SDQ, folder.path(), &editing).assert_failed(2, &["[cat:dog:0.5]"]);
    assert!(!at("x.png").exists());
}

#[test]
fn a_word_is_read_where_it_stands_and_missed_where_it_does_not() {
    let folder = TempDir::new().unwrap();
    let pipeline = Model::convert_folder(&demo_model(), WeightType::F16).open(1);
    let specs = pipeline.weights().into_iter().find(|(component, _)| *component == "text_encoder").unwrap().1;
    let table = specs.iter().find(|spec| spec.name.ends_with("token_embedding.weight")).unwrap();
    let width = table.shape[1];
    let values: Vec<f32> = (0..width).map(|i| ((i * 5) % 17) as f32 / 8.0 - 1.0).collect();
    write_f32(&folder.path().join("apple.safetensors"), &[("emb_params", &[1, width], &values)]);
    assert_eq!(generate(folder.path(), "plain.png", &[]).code, 0);
    // The word is the file's name, and occurs in the prompt.
    let outcome = generate(folder.path(), "word.png", &["--embedding", "apple.safetensors"]);
    assert_eq!(outcome.code, 0, "{}", outcome.errors);
    assert!(outcome.errors.contains("`apple` stands for one vector"), "{}", outcome.errors);
    assert_ne!(pixels(&folder.path().join("word.png")), pixels(&folder.path().join("plain.png")));
    generate(folder.path(), "x.png", &["--embedding", "apple.safetensors:pear"])
        .assert_failed(2, &["no prompt contains `pear`"]);
}

#[test]
fn previews_can_be_decoded_by_another_vae() {
    let folder = TempDir::new().unwrap();
    let vae = demo_model().join("vae");
    let own = generate(folder.path(), "own.png", &[]);
    assert_eq!(own.code, 0, "{}", own.errors);
    let args = ["--preview-every", "1", "--preview-vae", vae.to_str().unwrap(), "--save-every", "0"];
    let outcome = generate(folder.path(), "x.png", &args);
    assert_eq!(outcome.code, 0, "{}", outcome.errors);
    assert_eq!(pixels(&folder.path().join("x.png")), pixels(&folder.path().join("own.png")));
    let wrong = ["--preview-every", "1", "--preview-vae", "own.png"];
    generate(folder.path(), "x.png", &wrong).assert_failed(1, &["a PNG picture"]);
}

#[test]
fn the_models_own_vae_draws_the_same_picture() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let vae = demo_model().join("vae");
    let model = Model::convert_folder(&demo_model(), WeightType::F16);
    // A VAE is converted to f16, in which the built-in model's is not.
    let path = model.path();
    let own = generate(folder.path(), "own.png", &["-m", path.to_str().unwrap()]);
    assert_eq!(own.code, 0, "{}", own.errors);
    for file in [vae.as_os_str(), path.as_os_str()] {
        let args =
            ["generate", "a red apple", "-o", "other.png", "--steps", "3", "--seed", "1"].map(OsStr::new);
        let with = [OsStr::new("-m"), path.as_os_str(), OsStr::new("--vae"), file];
        let outcome = command::run(SDQ, folder.path(), &[&args[..], &with[..]].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.errors);
        assert_eq!(pixels(&at("other.png")), pixels(&at("own.png")), "{}", file.display());
    }
}
