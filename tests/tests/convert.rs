//! `sdq convert`: valid input is converted exactly, and invalid input fails with one clear line and without
//! leftover files.

use std::{fs, path::Path};

use sdq_formats::{
    WeightType,
    sdq::{MAGIC, SdqFile},
};
use sdq_tests::{
    checkpoint::{ModelCopy, RawTensor, tensor},
    command::{self, Outcome},
    goldens::{self, TINY},
    models::Model,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";

fn convert(model: &Path, output: &Path) -> Outcome {
    let args = ["convert".as_ref(), model.as_os_str(), "-o".as_ref(), output.as_os_str()];
    command::run(SDQ, model.parent().unwrap(), &args)
}

/// Asserts that converting `model` fails with exit code 1, gives the reason in one line that contains all of
/// `words`, and leaves no file.
fn assert_refused(model: &Path, words: &[&str]) {
    let folder = TempDir::new().unwrap();
    convert(model, &folder.path().join("out.sdq")).assert_failed(1, words);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Asserts that a copy of `sd1` with the tensors of `file` edited is refused, and that the error names its
/// component.
fn assert_tensors_refused(file: &str, words: &[&str], edit: impl FnOnce(&mut Vec<RawTensor>)) {
    let copy = ModelCopy::of("sd1");
    copy.edit_tensors(file, edit);
    let (component, _) = file.split_once('/').unwrap();
    assert_refused(copy.path(), &[&[component], words].concat());
}

/// Asserts that a copy of `sd1` with `key` of the JSON `file` set is refused.
fn assert_config_refused(file: &str, key: &str, value: Value, words: &[&str]) {
    let copy = ModelCopy::of("sd1");
    copy.edit_json(file, |config| {
        config.insert(key.to_owned(), value);
    });
    assert_refused(copy.path(), &[&[key], words].concat());
}

#[test]
fn refuses_a_truncated_checkpoint() {
    for (file, keep) in [(UNET, 1_000_000), (UNET, 100), (UNET, 7), (VAE, 0)] {
        let copy = ModelCopy::of("sd1");
        let bytes = fs::read(copy.file(file)).unwrap();
        fs::write(copy.file(file), &bytes[..keep]).unwrap();
        assert_refused(copy.path(), &["diffusion_pytorch_model.safetensors"]);
    }
}

#[test]
fn refuses_a_tensor_of_another_shape() {
    let words = ["conv_in.weight", "[16, 4, 3, 3]", "[16, 3, 4, 3]"];
    assert_tensors_refused(UNET, &words, |tensors| {
        tensor(tensors, "conv_in.weight").shape = vec![16, 3, 4, 3];
    });
}

#[test]
fn refuses_a_tensor_whose_bytes_do_not_fill_its_shape() {
    assert_tensors_refused(VAE, &["decoder.conv_in.bias"], |tensors| {
        tensor(tensors, "decoder.conv_in.bias").shape = vec![1 << 40, 1 << 40];
    });
}

#[test]
fn refuses_a_tensor_of_integers() {
    assert_tensors_refused(UNET, &["conv_in.bias", "I32", "floating-point"], |tensors| {
        tensor(tensors, "conv_in.bias").dtype = "I32".to_owned();
    });
}

#[test]
fn refuses_a_missing_tensor() {
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    assert_tensors_refused(UNET, &["the model needs tensor", name], |tensors| {
        tensors.retain(|tensor| tensor.name != name);
    });
}

#[test]
fn refuses_a_surplus_tensor() {
    assert_tensors_refused(UNET, &["does not use", "controlnet_cond.weight"], |tensors| {
        let surplus = RawTensor { name: "controlnet_cond.weight".to_owned(), ..tensors[0].clone() };
        tensors.push(surplus);
    });
}

#[test]
fn refuses_weights_that_are_not_finite() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "inf")] {
        for name in ["encoder.conv_in.weight", "encoder.conv_in.bias"] {
            assert_tensors_refused(VAE, &[name, word], |tensors| {
                tensor(tensors, name).bytes[4..8].copy_from_slice(&value.to_le_bytes());
            });
        }
    }
}

#[test]
fn refuses_weights_too_large_for_f16() {
    assert_tensors_refused(UNET, &["conv_in.weight", "f16"], |tensors| {
        tensor(tensors, "conv_in.weight").bytes[..4].copy_from_slice(&1e6_f32.to_le_bytes());
    });
}

#[test]
fn refuses_files_that_are_no_checkpoint() {
    let contents: [&[u8]; 5] = [
        b"",
        b"<!DOCTYPE html><html>404</html>",
        b"PK\x03\x04 a pickle in a zip",
        b"\x89PNG\r\n\x1a\n",
        &[0xff; 64],
    ];
    for content in contents {
        for file in [UNET, TEXT_ENCODER] {
            let copy = ModelCopy::of("sd1");
            fs::write(copy.file(file), content).unwrap();
            assert_refused(copy.path(), &[Path::new(file).file_name().unwrap().to_str().unwrap()]);
        }
    }
}

#[test]
fn refuses_network_configs_that_would_change_the_picture() {
    let cases = [
        ("unet", "act_fn", json!("mish"), "mish"),
        ("unet", "class_embed_type", json!("timestep"), "timestep"),
        ("unet", "resnet_time_scale_shift", json!("scale_shift"), "scale_shift"),
        ("unet", "conv_in_kernel", json!(5), "5"),
        ("unet", "norm_num_groups", json!(7), "7"),
        ("unet", "block_out_channels", json!([]), "[]"),
        ("unet", "block_out_channels", json!([1_u64 << 40, 1, 1, 1]), "1099511627776"),
        ("unet", "attention_head_dim", json!([8, 8, 8]), "[8,8,8]"),
        ("unet", "cross_attention_dim", json!(-32), "-32"),
        ("unet", "layers_per_block", json!(1_000_000_000_000_u64), "1000000000000"),
        ("unet", "layers_per_block", json!(10_000), "10000"),
        ("unet", "up_block_types", json!(vec!["AttnUpBlock2D"; 4]), "AttnUpBlock2D"),
        ("unet", "brand_new_option", json!(true), "true"),
        ("vae", "act_fn", json!("relu"), "relu"),
        ("vae", "latent_channels", json!(0), "0"),
        ("vae", "scaling_factor", json!(0), "0"),
        ("vae", "shift_factor", json!(0.5), "0.5"),
        ("text_encoder", "hidden_act", json!("relu6"), "relu6"),
        ("text_encoder", "num_attention_heads", json!(5), "5"),
        ("text_encoder", "hidden_size", json!("wide"), "wide"),
        ("text_encoder", "model_type", json!("bert"), "bert"),
    ];
    for (component, key, value, word) in cases {
        assert_config_refused(&format!("{component}/config.json"), key, value, &[component, word]);
    }
}

#[test]
fn refuses_scheduler_configs_that_no_scheduler_understands() {
    for (key, value, word) in [
        ("prediction_type", json!("flow"), "flow"),
        ("beta_schedule", json!("wavy"), "wavy"),
        ("num_train_timesteps", json!(0), "0"),
        ("beta_start", json!(5), "5"),
        ("brand_new_option", json!(1), "1"),
    ] {
        assert_config_refused("scheduler/scheduler_config.json", key, value, &["scheduler", word]);
    }
}

/// None of diffusers' classes is replaced by another in silence, whichever file names it.
#[test]
fn refuses_schedulers_that_it_does_not_have() {
    for class in ["EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "IPNDMScheduler"] {
        let (config, index) = ("scheduler/scheduler_config.json", "model_index.json");
        let copy = ModelCopy::of("sd1");
        copy.edit_json(config, |config| drop(config.insert("_class_name".to_owned(), json!(class))));
        assert_refused(copy.path(), &[class]);
        let copy = ModelCopy::of("sd1");
        copy.edit_json(index, |index| drop(index.remove("scheduler")));
        assert_refused(copy.path(), &["no `scheduler`"]);
        copy.edit_json(index, |index| {
            drop(index.insert("scheduler".to_owned(), json!(["diffusers", class])))
        });
        assert_refused(copy.path(), &[class]);
    }
}

/// A file that no run could draw with by default would only be found out after the conversion.
#[test]
fn refuses_a_config_that_its_own_scheduler_cannot_follow() {
    let config = "scheduler/scheduler_config.json";
    assert_config_refused(config, "rescale_betas_zero_snr", json!(true), &["pndm", "ddim"]);
    assert_config_refused(config, "prediction_type", json!("sample"), &["pndm", "sample"]);
}

/// Keys of a network saved from a running mean of its weights, and of old versions of the scheduler.
#[test]
fn keys_that_change_nothing_are_read_over() {
    let copy = ModelCopy::of("sd1");
    copy.edit_json("unet/config.json", |config| {
        config.extend([("decay".to_owned(), json!(0.9999)), ("use_ema_warmup".to_owned(), json!(true))]);
        config.extend([("optimization_step".to_owned(), json!(3000)), ("power".to_owned(), json!(0.6667))]);
    });
    copy.edit_json("scheduler/scheduler_config.json", |config| {
        config
            .extend([("tensor_format".to_owned(), json!("pt")), ("predict_epsilon".to_owned(), json!(true))]);
    });
    assert_same_weights(
        &Model::convert("sd1", WeightType::F16),
        &Model::convert_folder(copy.path(), WeightType::F16),
    );
}

#[test]
fn refuses_tokenizer_files_that_make_no_tokenizer() {
    for (file, content) in [("vocab.json", "{}"), ("vocab.json", "[1]"), ("merges.txt", "one two\n")] {
        let copy = ModelCopy::of("sd1");
        fs::write(copy.file(&format!("tokenizer/{file}")), content).unwrap();
        assert_refused(copy.path(), &["tokenizer"]);
    }
}

#[test]
fn refuses_a_directory_that_lacks_a_part() {
    for part in ["model_index.json", "unet/config.json", "vae/config.json", UNET, "tokenizer/merges.txt"] {
        let copy = ModelCopy::of("sd1");
        fs::remove_file(copy.file(part)).unwrap();
        // The error may name any of the accepted variants, so only the folder or the bare name is required.
        assert_refused(copy.path(), &[part.split(['/', '.']).next().unwrap()]);
    }
}

#[test]
fn refuses_a_shard_that_is_missing_or_lacks_a_tensor() {
    let shard = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    let copy = ModelCopy::of("old");
    fs::remove_file(copy.file(shard)).unwrap();
    assert_refused(copy.path(), &["diffusion_pytorch_model-00002-of-00002.safetensors"]);

    let copy = ModelCopy::of("old");
    let mut removed = String::new();
    copy.edit_tensors(shard, |tensors| removed = tensors.pop().unwrap().name);
    assert_refused(copy.path(), &[&removed]);
}

#[test]
fn refuses_what_is_no_model_directory() {
    let folder = TempDir::new().unwrap();
    assert_refused(&folder.path().join("nowhere"), &["nowhere"]);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_refused(&empty, &["empty", "model_index.json"]);
    let file = folder.path().join("notes.txt");
    fs::write(&file, "hello").unwrap();
    assert_refused(&file, &["notes.txt"]);
}

#[test]
fn a_failed_conversion_keeps_the_file_that_was_there() {
    let copy = ModelCopy::of("sd1");
    copy.edit_tensors(UNET, |tensors| drop(tensors.pop()));
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("model.sdq");
    let precious = [&MAGIC[..], b"precious"].concat();
    fs::write(&output, &precious).unwrap();
    convert(copy.path(), &output).assert_failed(1, &[]);
    assert_eq!(fs::read(&output).unwrap(), precious);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn only_models_are_replaced() {
    let model = goldens::folder("sd1").join("model");
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("note.txt");
    for contents in ["a letter", "\u{89}PNG"] {
        fs::write(&output, contents).unwrap();
        convert(&model, &output).assert_failed(2, &["note.txt", "not an .sdq file", "--force"]);
        assert_eq!(fs::read(&output).unwrap(), contents.as_bytes());
    }
    let replace = |flags: &[&str]| {
        let args = ["convert", model.to_str().unwrap(), "-o", "note.txt"];
        command::run(SDQ, folder.path(), &[&args[..], flags].concat()).assert_done();
        fs::read(&output).unwrap()
    };
    let converted = replace(&["--force"]);
    assert!(converted.starts_with(&MAGIC));
    // A model and an empty file are replaced without it.
    assert_eq!(replace(&["--type", "q8"])[..8], MAGIC);
    fs::write(&output, "").unwrap();
    assert_eq!(replace(&[]), converted);
}

#[test]
fn refuses_an_output_that_cannot_be_written() {
    let model = goldens::folder("sd1").join("model");
    let folder = TempDir::new().unwrap();
    convert(&model, &folder.path().join("no/such/folder.sdq")).assert_failed(1, &["folder.sdq"]);
    convert(&model, folder.path()).assert_failed(1, &[folder.path().file_name().unwrap().to_str().unwrap()]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_same_model_converts_to_the_same_bytes() {
    for name in TINY {
        let [one, two] = [(); 2].map(|()| fs::read(Model::convert(name, WeightType::F16).path()).unwrap());
        assert!(one == two, "{name}: two conversions differ");
    }
}

/// Old attention names, the `text_model.` prefix, a variant in the file name and shards affect where a weight
/// is found, but not its values.
#[test]
fn names_and_files_do_not_change_the_weights() {
    let original = Model::convert("sd1", WeightType::F32);
    let copy = ModelCopy::of("sd1");
    copy.edit_tensors(TEXT_ENCODER, |tensors| {
        tensors.retain(|tensor| !tensor.name.ends_with("position_ids"));
        for tensor in tensors {
            tensor.name = tensor.name.strip_prefix("text_model.").unwrap().to_owned();
        }
    });
    copy.edit_tensors(VAE, |tensors| {
        let names = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        for tensor in tensors.iter_mut().filter(|tensor| tensor.name.contains(".attentions.")) {
            for (new, old) in names {
                tensor.name = tensor.name.replace(new, old);
            }
        }
    });
    for file in [UNET, VAE, TEXT_ENCODER] {
        let variant = file.replace(".safetensors", ".fp16.safetensors");
        fs::rename(copy.file(file), copy.file(&variant)).unwrap();
    }
    assert_same_weights(&original, &Model::convert_folder(copy.path(), WeightType::F32));
}

fn assert_same_weights(original: &Model, other: &Model) {
    let [original, other] = [original, other].map(|model| SdqFile::open(model.path()).unwrap());
    for component in original.components() {
        let other = other.component(component.name()).unwrap();
        assert_eq!(component.weights().count(), other.weights().count());
        for weight in component.weights() {
            let twin = other.weight(&weight.spec.name).unwrap();
            assert_eq!(weight.data, twin.data, "{} {}", component.name(), weight.spec.name);
        }
    }
}

#[test]
fn each_component_can_have_its_own_type() {
    let folder = TempDir::new().unwrap();
    let model = goldens::folder("sd1").join("model");
    let args = ["convert", model.to_str().unwrap(), "-o", "m.sdq", "--type", "f16", "--vae-type", "f32"];
    command::run(SDQ, folder.path(), &args).assert_done();
    let file = SdqFile::open(folder.path().join("m.sdq")).unwrap();
    let weight_type = |component: &str, weight: &str| {
        file.component(component).unwrap().weight(weight).unwrap().weight_type
    };
    assert_eq!(weight_type("unet", "conv_out.weight"), WeightType::F16);
    assert_eq!(weight_type("vae", "decoder.conv_out.weight"), WeightType::F32);
    assert_eq!(weight_type("unet", "conv_out.bias"), WeightType::F32, "biases stay f32");
}
