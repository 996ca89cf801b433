//! Model files as they are found in the wild: marked, merged, cut, converted by other scripts, or not downloaded at all.

use std::{
    ffi::OsStr,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use sdq_engine::Request;
use sdq_formats::{checkpoint::Checkpoint, sdq::SdqFile};
use sdq_tests::{
    checkpoint::{ModelCopy, RawTensor, tensor, tensors_of, write_raw},
    command::{self, Outcome},
    goldens,
    models::Model,
};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");
const UNET: &str = "model.diffusion_model.";
const SECOND: &str = "conditioner.embedders.1.";

/// The single file of the golden `name`, its tensors edited, in a folder of its own.
struct Edited {
    folder: TempDir,
    name: &'static str,
}

impl Edited {
    fn of(name: &'static str, edit: impl FnOnce(&mut Vec<RawTensor>)) -> Edited {
        let edited = Edited { folder: TempDir::new().unwrap(), name };
        let mut tensors = tensors_of(&goldens::folder(name).join("model.safetensors"));
        edit(&mut tensors);
        write_raw(&edited.file(), &tensors);
        edited
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn flags<'f>(&self, tokenizer: &'f Path) -> [&'f str; 4] {
        ["--type", "f32", "--tokenizer", tokenizer.to_str().unwrap()]
    }

    fn tokenizer(&self) -> PathBuf {
        goldens::folder(self.name).join("tokenizer")
    }

    fn convert(&self, flags: &[&str]) -> Model {
        let tokenizer = self.tokenizer();
        Model::convert_with(&self.file(), &[&self.flags(&tokenizer), flags].concat())
    }

    /// What `sdq convert` says, by the command.
    fn run(&self, flags: &[&str]) -> Outcome {
        let (file, tokenizer) = (self.file(), self.tokenizer());
        let own = [&["convert", file.to_str().unwrap()], &self.flags(&tokenizer)[..], flags].concat();
        command::run(SDQ, self.folder.path(), &own)
    }

    fn assert_refused(&self, flags: &[&str], words: &[&str]) {
        self.run(&[&["--dry-run"], flags].concat()).assert_failed(1, words);
    }
}

/// The golden file as it is.
fn original(name: &'static str) -> Model {
    Edited::of(name, |_| {}).convert(&[])
}

fn assert_same_weights(found: &Model, expected: &Model) {
    let [found, expected] = [found, expected].map(|model| SdqFile::open(model.path()).unwrap());
    for component in expected.components() {
        let found = found.component(component.name()).unwrap();
        assert_eq!(found.config(), component.config());
        assert_eq!(found.weights().count(), component.weights().count());
        for weight in component.weights() {
            let twin = found.weight(&weight.spec.name).unwrap();
            assert!(twin.data == weight.data, "{} {}", component.name(), weight.spec.name);
        }
    }
}

fn latents(model: &Model, request: &Request) -> Vec<f32> {
    let drawn = model.open(2).generate(request, &mut |_| ControlFlow::Continue(()));
    drawn.unwrap_or_else(|error| panic!("{error}")).latents.values().to_vec()
}

fn request() -> Request {
    Request {
        prompt: "a red apple".to_owned(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        seed: 1,
        ..Request::default()
    }
}

/// A tensor of f32 without axes.
fn number(name: &str, value: f32) -> RawTensor {
    RawTensor {
        name: name.to_owned(),
        dtype: "F32".to_owned(),
        shape: Vec::new(),
        bytes: value.to_le_bytes().to_vec(),
    }
}

fn marker(name: &str) -> RawTensor {
    RawTensor { name: name.to_owned(), dtype: "F32".to_owned(), shape: vec![0], bytes: Vec::new() }
}

#[test]
fn a_unet_that_is_there_as_a_running_mean_alone_is_taken() {
    let edited = Edited::of("single_sd1", |tensors| {
        for tensor in tensors.iter_mut() {
            if let Some(inner) = tensor.name.strip_prefix("model.").filter(|_| tensor.name.starts_with(UNET))
            {
                tensor.name = format!("model_ema.{}", inner.replace('.', ""));
            }
        }
    });
    let outcome = edited.run(&["-o", "m.sdq"]);
    outcome.assert_done();
    assert!(
        outcome.errors.contains("the U-Net is a running mean of the weights (EMA)"),
        "{}",
        outcome.errors
    );
    assert_same_weights(&edited.convert(&[]), &original("single_sd1"));
}

#[test]
fn names_of_diffusers_scripts_are_understood() {
    let expected = original("single_sdxl");
    let projection = Edited::of("single_sdxl", |tensors| {
        let own = tensor(tensors, &format!("{SECOND}model.text_projection"));
        let [rows, columns] = own.shape[..] else { panic!("a matrix") };
        let size = own.bytes.len() / (rows * columns);
        let at = |row: usize, column: usize| own.bytes[(row * columns + column) * size..][..size].to_vec();
        let turned = (0..columns).flat_map(|column| (0..rows).flat_map(move |row| at(row, column)));
        own.bytes = turned.collect();
        own.shape = vec![columns, rows];
        own.name += ".weight";
    });
    assert_same_weights(&projection.convert(&[]), &expected);
    let embedding = Edited::of("single_sdxl", |tensors| {
        for tensor in tensors {
            for (own, diffusers) in
                [("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2")]
            {
                tensor.name = tensor.name.replace(own, diffusers);
            }
        }
    });
    assert_same_weights(&embedding.convert(&[]), &expected);
}

#[test]
fn a_text_encoder_that_is_missing_is_named_with_its_flag() {
    let without = |start: &'static str| {
        Edited::of("single_sdxl", move |tensors| tensors.retain(|tensor| !tensor.name.starts_with(start)))
    };
    let only = |start: &'static str| {
        Edited::of("single_sdxl", move |tensors| tensors.retain(|tensor| tensor.name.starts_with(start)))
    };
    let [first, second] = [only("conditioner.embedders.0."), only(SECOND)];
    let [first_file, second_file] = [first.file(), second.file()];
    let [first_path, second_path] = [&first_file, &second_file].map(|path| path.to_str().unwrap());

    let lacks_second = without(SECOND);
    let words = ["the file contains no second text encoder; give one with `--text-encoder-2 FILE`"];
    lacks_second.assert_refused(&[], &words);
    let lacks_first = without("conditioner.embedders.0.");
    lacks_first.assert_refused(&[], &["contains no first text encoder", "--text-encoder FILE"]);
    let lacks_both = without("conditioner.");
    lacks_both.assert_refused(&[], &["contains no text encoder", "--text-encoder FILE"]);

    let expected = original("single_sdxl");
    assert_same_weights(&lacks_second.convert(&["--text-encoder-2", second_path]), &expected);
    assert_same_weights(&lacks_first.convert(&["--text-encoder", first_path]), &expected);
    let both = ["--text-encoder", first_path, "--text-encoder-2", second_path];
    assert_same_weights(&lacks_both.convert(&both), &expected);
    let exchanged = ["--text-encoder", second_path, "--text-encoder-2", first_path];
    lacks_both.assert_refused(&exchanged, &["exchanged", "--text-encoder-2"]);
}

#[test]
fn a_text_encoder_of_another_model_is_named() {
    let wide = Edited::of("single_sd1", |tensors| {
        let name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
        let table = tensor(tensors, name);
        table.shape[1] *= 2;
        table.bytes = table.bytes.repeat(2);
    });
    wide.assert_refused(&[], &["text states have the width 128, but the U-Net reads 64", "--text-encoder"]);
    let second = Edited::of("single_sd1", |_| {});
    let file = second.file();
    second.assert_refused(&["--text-encoder-2", file.to_str().unwrap()], &["one text encoder more"]);
}

/// Rows for words that were trained stand behind those of the vocabulary.
#[test]
fn more_rows_of_tokens_do_not_move_the_end_of_a_prompt() {
    let edited = Edited::of("single_sdxl", |tensors| {
        for table in tensors.iter_mut().filter(|tensor| tensor.name.ends_with("token_embedding.weight")) {
            let row = table.bytes.len() / table.shape[0];
            table.bytes.extend_from_within(..2 * row);
            table.shape[0] += 2;
        }
    });
    let outcome = edited.run(&["--dry-run"]);
    outcome.assert_done();
    assert!(
        outcome.errors.contains("2 rows of the token table of `text_encoder_2` are left out"),
        "{}",
        outcome.errors
    );
    assert_eq!(latents(&edited.convert(&[]), &request()), latents(&original("single_sdxl"), &request()));
}

/// As ComfyUI stores 8-bit floats; here in f32, and with scales that round nothing.
#[test]
fn weights_with_scales_are_multiplied() {
    let expected = Edited::of("single_sd1", |_| {});
    let source = Checkpoint::open(expected.file()).unwrap();
    let edited = Edited::of("single_sd1", |tensors| {
        let mut added = vec![marker("scaled_fp8"), marker(&format!("{UNET}scaled_fp8"))];
        let ends = ["attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight", "mlp.fc1.weight"];
        for (end, scale_name) in ends.into_iter().zip(["scale_weight", "weight_scale"].repeat(2)) {
            for own in tensors.iter_mut().filter(|tensor| tensor.name.ends_with(end)) {
                let view = source.tensors().find(|tensor| tensor.name == own.name).unwrap();
                let module = own.name.strip_suffix(".weight").unwrap();
                let by_rows = end.contains("to_v");
                let scale_of = |row: usize| if by_rows && row % 2 == 1 { 8.0 } else { 4.0 };
                let columns = own.shape[1..].iter().product::<usize>();
                let values = view.to_f32().unwrap().into_iter().enumerate();
                own.bytes =
                    values.flat_map(|(i, value)| (value / scale_of(i / columns)).to_le_bytes()).collect();
                own.dtype = "F32".to_owned();
                let mut scale = number(&format!("{module}.{scale_name}"), 4.0);
                if by_rows {
                    scale.shape = vec![own.shape[0], 1];
                    scale.bytes = (0..own.shape[0]).flat_map(|row| f32::to_le_bytes(scale_of(row))).collect();
                }
                added.extend([scale, number(&format!("{module}.input_scale"), 0.1)]);
            }
        }
        tensors.extend(added);
    });
    assert_same_weights(&edited.convert(&[]), &expected.convert(&[]));
    let four_bits = Edited::of("single_sd1", |tensors| {
        let bytes = br#"{"format": "nvfp4"}"#.to_vec();
        let name = format!("{UNET}out.2.comfy_quant");
        tensors.push(RawTensor { name, dtype: "U8".to_owned(), shape: vec![bytes.len()], bytes });
    });
    four_bits.assert_refused(&[], &["nvfp4", "8-bit floats with a scale"]);
}

fn scheduler(model: &Model) -> serde_json::Value {
    let file = SdqFile::open(model.path()).unwrap();
    let text = file.text("scheduler/scheduler_config.json").unwrap();
    serde_json::from_str(text).unwrap()
}

/// Whatever a file is marked as, the default scheduler can sample it.
#[test]
fn marked_files_draw_by_default() {
    for name in ["single_sd1", "single_sd2", "single_sdxl"] {
        for marks in [&["v_pred", "ztsnr"][..], &["ztsnr"], &["v_pred"]] {
            let edited = Edited::of(name, |tensors| tensors.extend(marks.iter().map(|name| marker(name))));
            for flags in
                [&[][..], &["--prediction", "v"], &["--prediction", "epsilon"], &["--prediction", "sample"]]
            {
                let model = edited.convert(flags);
                let config = scheduler(&model);
                let zero_snr = marks.contains(&"ztsnr");
                assert_eq!(config["rescale_betas_zero_snr"] == true, zero_snr, "{name} {marks:?} {flags:?}");
                if flags.is_empty() && marks.contains(&"v_pred") {
                    assert_eq!(config["prediction_type"], "v_prediction");
                }
                assert!(latents(&model, &request()).iter().all(|value| value.is_finite()));
            }
        }
    }
}

/// The golden model predicts noise; a network that gives nothing back does not.
#[test]
fn an_sdxl_file_without_marks_is_asked_what_it_predicts() {
    let says = |edited: &Edited, words: &str| {
        let outcome = edited.run(&["-o", "m.sdq"]);
        outcome.assert_done();
        assert!(outcome.errors.contains(words), "{}", outcome.errors);
    };
    let noise = Edited::of("single_sdxl", |_| {});
    says(&noise, "predicts noise (epsilon), as one evaluation shows");
    assert_eq!(scheduler(&noise.convert(&[]))["prediction_type"], "epsilon");
    let other = Edited::of("single_sdxl", |tensors| {
        tensor(tensors, &format!("{UNET}out.2.weight")).bytes.fill(0);
        tensor(tensors, &format!("{UNET}out.2.bias")).bytes.fill(0);
    });
    says(&other, "predicts velocity (v), as one evaluation shows");
    assert_eq!(scheduler(&other.convert(&[]))["prediction_type"], "v_prediction");
    let given = noise.run(&["--prediction", "v", "--dry-run"]);
    assert!(given.errors.contains("velocity (v), as asked"), "{}", given.errors);
}

#[test]
fn the_settings_beside_a_file_are_read() {
    let edited = Edited::of("single_sd1", |_| {});
    let settings = |text: &str| fs::write(edited.file().with_extension("yaml"), text).unwrap();
    settings("model:\n  params:\n    parameterization: \"v\"\n    linear_start: 0.001\n");
    let outcome = edited.run(&["--dry-run"]);
    outcome.assert_done();
    assert!(outcome.errors.contains("predicts velocity (v), as the file says"), "{}", outcome.errors);
    let used = "model.yaml: the settings linear_start = 0.001, parameterization = v are used";
    assert!(outcome.errors.contains(used), "{}", outcome.errors);
    let config = scheduler(&edited.convert(&[]));
    assert_eq!(config["prediction_type"], "v_prediction");
    assert_eq!(config["beta_start"], 0.001);

    let marked = Edited::of("single_sd1", |tensors| tensors.push(marker("v_pred")));
    fs::write(marked.file().with_extension("yaml"), "parameterization: eps\n").unwrap();
    marked.assert_refused(&[], &["predicts v_prediction", "epsilon", "--prediction"]);
    marked.run(&["--dry-run", "--prediction", "v"]).assert_done();
}

#[test]
fn a_conversion_never_replaces_what_it_reads() {
    let edited = Edited::of("single_sd1", |_| {});
    let before = fs::read(edited.file()).unwrap();
    fs::create_dir(edited.folder.path().join("sub")).unwrap();
    let mut names = vec!["model.safetensors", "./model.safetensors", "sub/../model.safetensors"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model.safetensors", edited.folder.path().join("link.sdq")).unwrap();
        fs::hard_link(edited.file(), edited.folder.path().join("hard.sdq")).unwrap();
        names.extend(["link.sdq", "hard.sdq"]);
    }
    for name in names {
        edited.run(&["-o", name]).assert_failed(2, &["output", name, "is the input"]);
        assert!(fs::read(edited.file()).unwrap() == before, "{name}");
    }
    let copy = ModelCopy::of("sd1");
    for file in ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"] {
        let before = fs::read(copy.file(file)).unwrap();
        let args = ["convert", ".", "-o", file];
        command::run(SDQ, copy.path(), &args).assert_failed(2, &["output", file, "is the input"]);
        assert!(fs::read(copy.file(file)).unwrap() == before, "{file}");
    }
}

/// What a server sends instead of a model, in every place that takes one.
#[test]
fn texts_in_place_of_tensors_are_told_as_what_they_are() {
    let folder = TempDir::new().unwrap();
    for (text, what) in [
        (r#"{"error":"Unauthorized"}"#, "found a JSON text; download the file again"),
        ("<!DOCTYPE html><html>", "found a web page; download the file again"),
        ("<?xml version=\"1.0\"?><Error>", "found an XML text; download the file again"),
        ("Entry not found", "found a text; download the file again"),
        ("version https://git-lfs.github.com/spec/v1\noid", "found a git-lfs pointer"),
    ] {
        for ending in ["safetensors", "ckpt", "gguf", "pt", "bin"] {
            let name = format!("m.{ending}");
            fs::write(folder.path().join(&name), text).unwrap();
            let draw =
                |flag| ["generate", "a cat", "--steps", "1", "-o", "a.png", flag, name.as_str()].to_vec();
            for args in [
                ["convert", name.as_str(), "-o", "m.sdq"].to_vec(),
                ["info", name.as_str()].to_vec(),
                draw("--lora"),
                draw("--embedding"),
                draw("--vae"),
                draw("-m"),
            ] {
                let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
                command::run(SDQ, folder.path(), &args).assert_failed(1, &[&name, what]);
            }
        }
    }
}

#[test]
fn drawing_with_a_published_model_says_how_to_convert_it() {
    let folder = goldens::folder("single_sd1");
    for file in ["model.safetensors", "model.ckpt", "model.gguf"] {
        let args = ["generate", "a cat", "-m", file, "-o", "never.png"];
        let command = format!("`sdq convert {file} -o model.sdq`");
        command::run(SDQ, &folder, &args).assert_failed(1, &[file, "expected an .sdq file", &command]);
    }
    let args = ["plan", "-m", "model"];
    command::run(SDQ, &goldens::folder("sd1"), &args).assert_failed(1, &["`sdq convert model -o model.sdq`"]);
}
