//! Single files of tiny models, written by diffusers' own scripts, draw the same pictures as the directory in
//! diffusers.

use std::{
    ffi::{OsStr, OsString},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sdq_engine::{
    Request,
    models::{naming::Names, unet::UNetStructure},
};
use sdq_formats::{WeightType, sdq::SdqFile};
use sdq_tests::{
    checkpoint::{ModelCopy, RawTensor, tensors_of, write_raw},
    command,
    goldens::{self, FAMILIES, Goldens},
    measure::{LATENT_ERROR, PICTURE_DB, Table, psnr, relative_error},
    models::{Model, demo_model},
};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// A file of each family; the differences between families are derived from its names and shapes.
const MODELS: [&str; 3] = ["single_sd1", "single_sd2", "single_sdxl"];

fn file(model: &str) -> PathBuf {
    goldens::folder(model).join("model.safetensors")
}

/// Converts the single file of `model` with its tokenizer, which such files do not contain.
fn convert(model: &str, flags: &[&str]) -> Model {
    let tokenizer = goldens::folder(model).join("tokenizer");
    let tokenizer = tokenizer.to_str().expect("the path is UTF-8");
    Model::convert_with(&file(model), &[&["--type", "f32", "--tokenizer", tokenizer], flags].concat())
}

#[test]
fn pictures_are_those_that_diffusers_draws_with_the_directory() {
    let mut table = Table::default();
    for name in MODELS {
        let pipeline = convert(name, &[]).open(2);
        let goldens = Goldens::load(name);
        for case in &goldens.manifest.end_to_end {
            let found = pipeline.generate(&case.request(), &mut |_| ControlFlow::Continue(()));
            let found = found.unwrap_or_else(|error| panic!("{name} {}: {error}", case.label()));
            let expected = goldens.tensor(&case.case, "latents");
            let label = format!("{name} {}", case.label());
            table.at_most(&label, relative_error(found.latents.values(), expected.values()), LATENT_ERROR);
            let (_, picture) = goldens.picture(&case.case);
            table.at_least(&label, psnr(&found.pictures[0].rgb, &picture), PICTURE_DB);
        }
    }
    table.finish();
}

/// Asserts that every weight of the file `found` is stored as in `expected`.
fn assert_same_weights(found: &Path, expected: &Path, label: &str) {
    let (found, expected) = (SdqFile::open(found).unwrap(), SdqFile::open(expected).unwrap());
    let mut compared = 0;
    for component in expected.components() {
        let found = found.component(component.name()).unwrap();
        assert_eq!(found.config(), component.config(), "{label}");
        for weight in component.weights() {
            let found = found.weight(&weight.spec.name).unwrap();
            assert!(found.data == weight.data, "{label} {}", weight.spec.name);
            compared += 1;
        }
    }
    assert!(compared > 100);
}

#[test]
fn every_container_becomes_the_same_weights() {
    let tokenizer = goldens::folder("single_sd1").join("tokenizer");
    for weight_type in ["f32", "f16", "q8"] {
        let flags = ["--type", weight_type, "--tokenizer", tokenizer.to_str().unwrap()];
        let convert = |file: &str| Model::convert_with(&goldens::folder("single_sd1").join(file), &flags);
        let expected = convert("model.safetensors");
        for file in ["model.ckpt", "model.gguf"] {
            assert_same_weights(&convert(file).path(), &expected.path(), &format!("{file} as {weight_type}"));
        }
    }
}

#[test]
fn parts_given_one_by_one_become_the_same_weights() {
    let whole = file("single_sd1");
    let tokenizer = goldens::folder("single_sd1").join("tokenizer");
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("model.sdq");
    let mut args: Vec<OsString> = ["sdq", "convert", "--type", "f32", "-o"].map(OsString::from).to_vec();
    args.extend([output.clone().into(), "--tokenizer".into(), tokenizer.into()]);
    for flag in ["--unet", "--vae", "--text-encoder"] {
        args.extend([flag.into(), whole.clone().into()]);
    }
    assert_eq!(sdq_cli::run(args), ExitCode::SUCCESS);
    assert_same_weights(&output, &convert("single_sd1", &[]).path(), "parts");
}

/// A copy of the golden pipeline `name` whose U-Net and text encoders are in one file, with the names of the
/// original code.
fn packed(name: &str, folder: &Path) -> PathBuf {
    let copy = ModelCopy::of(name);
    let mut tensors: Vec<RawTensor> = Vec::new();
    let mut unet: Vec<RawTensor> = Vec::new();
    copy.edit_tensors("unet/diffusion_pytorch_model.safetensors", |found| unet = found.clone());
    let names: Names = unet.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
    let modules = UNetStructure::of(&names, "").unwrap().modules();
    for tensor in unet {
        let name = format!("model.diffusion_model.{}", modules.from_diffusers(&tensor.name));
        tensors.push(RawTensor { name, ..tensor });
    }
    for (component, prefix) in [
        ("text_encoder", "conditioner.embedders.0.transformer."),
        ("text_encoder_2", "conditioner.embedders.1.transformer."),
    ] {
        let file = format!("{component}/model.safetensors");
        if copy.file(&file).exists() {
            copy.edit_tensors(&file, |found| {
                let renamed = |tensor: &RawTensor| RawTensor {
                    name: format!("{prefix}{}", tensor.name),
                    ..tensor.clone()
                };
                tensors.extend(found.iter().map(renamed));
            });
        }
    }
    let path = folder.join("model.safetensors");
    write_raw(&path, &tensors);
    path
}

#[test]
fn every_family_in_one_file_becomes_what_its_directory_does() {
    for name in FAMILIES {
        let folder = TempDir::new().unwrap();
        let packed = packed(name, folder.path());
        let source = goldens::folder(name).join("model");
        let part = |part: &str| source.join(part).to_str().unwrap().to_owned();
        // The tokenizers of all these models are the same.
        let tokenizer =
            ["tokenizer", "tokenizer_2"].into_iter().find(|folder| source.join(folder).exists()).unwrap();
        let (vae, tokenizer, configs) = (part("vae"), part(tokenizer), source.to_str().unwrap().to_owned());
        let flags = ["--type", "f32", "--vae", &vae, "--tokenizer", &tokenizer, "--configs", &configs];
        let found = Model::convert_with(&packed, &flags);
        assert_same_weights(&found.path(), &Model::convert(name, WeightType::F32).path(), name);
        let class = |model: &Model| SdqFile::open(model.path()).unwrap().manifest().pipeline_class.clone();
        assert_eq!(class(&found), class(&Model::convert(name, WeightType::F32)), "{name}");
    }
}

#[test]
fn a_unet_alone_needs_no_prefix() {
    let whole = file("single_sd1");
    let folder = TempDir::new().unwrap();
    let tensors = tensors_of(&whole);
    let prefix = "model.diffusion_model.";
    let unet = tensors.iter().filter_map(|tensor| {
        Some(RawTensor { name: tensor.name.strip_prefix(prefix)?.to_owned(), ..tensor.clone() })
    });
    let path = folder.path().join("unet.safetensors");
    write_raw(&path, &unet.collect::<Vec<_>>());
    let found = convert("single_sd1", &["--unet", path.to_str().unwrap()]);
    assert_same_weights(&found.path(), &convert("single_sd1", &[]).path(), "a U-Net alone");
}

#[test]
fn says_what_is_missing_and_what_a_file_is_instead() {
    let folder = TempDir::new().unwrap();
    let tensors = tensors_of(&file("single_sd1"));
    let refused = |keep: &dyn Fn(&RawTensor) -> Option<RawTensor>, words: &[&str]| {
        let path = folder.path().join("m.safetensors");
        write_raw(&path, &tensors.iter().filter_map(keep).collect::<Vec<_>>());
        let tokenizer = goldens::folder("single_sd1").join("tokenizer");
        let [convert, dry_run, flag] = ["convert", "--dry-run", "--tokenizer"].map(OsStr::new);
        let args = [convert, path.as_os_str(), dry_run, flag, tokenizer.as_os_str()];
        command::run(SDQ, folder.path(), &args).assert_failed(1, words);
    };
    let without = |part: &'static str| {
        move |tensor: &RawTensor| (!tensor.name.starts_with(part)).then(|| tensor.clone())
    };
    refused(&without("first_stage_model."), &["contains no autoencoder (VAE)", "--vae FILE"]);
    refused(&without("cond_stage_model."), &["contains no text encoder", "--text-encoder FILE"]);
    refused(&without("model.diffusion_model."), &["contains no U-Net", "--unet FILE"]);
    refused(
        &without("model.diffusion_model.out.2.weight"),
        &["no tensor `model.diffusion_model.out.2.weight`"],
    );
    refused(
        &without("model.diffusion_model.middle_block.2.in_layers.2.bias"),
        &["the model needs tensor", "mid_block.resnets.1.conv1.bias"],
    );
    let lora = |tensor: &RawTensor| {
        Some(RawTensor { name: format!("lora_unet_{}.lora_down.weight", tensor.name), ..tensor.clone() })
    };
    refused(&lora, &["looks like a LoRA"]);
    let surplus = |tensor: &RawTensor| match tensor.name.ends_with("out.2.bias") {
        true => Some(RawTensor { name: "model.diffusion_model.extra.weight".to_owned(), ..tensor.clone() }),
        false => Some(tensor.clone()),
    };
    refused(&surplus, &["the model needs tensor", "conv_out.bias"]);
    let edm = |tensor: &RawTensor| match tensor.name.as_str() {
        "alphas_cumprod" => Some(RawTensor { name: "edm_vpred.sigma_max".to_owned(), ..tensor.clone() }),
        _ => Some(tensor.clone()),
    };
    refused(&edm, &["EDM"]);
}

/// TAESD in its author's form: two files with layers numbered from 0, the decoder's first without weights.
#[test]
fn taesd_comes_as_two_files_too() {
    let copy = ModelCopy::of("sdxs");
    let folder = TempDir::new().unwrap();
    let paths = ["encoder", "decoder"].map(|half| folder.path().join(format!("taesd_{half}.safetensors")));
    copy.edit_tensors("vae/diffusion_pytorch_model.safetensors", |tensors| {
        for (half, path, shift) in [("encoder", &paths[0], 0), ("decoder", &paths[1], 1)] {
            let own = tensors.iter().filter_map(|tensor| {
                let inner = tensor.name.strip_prefix(half)?.strip_prefix(".layers.")?;
                let (layer, rest) = inner.split_once('.')?;
                let name = format!("{}.{rest}", layer.parse::<usize>().ok()? + shift);
                Some(RawTensor { name, ..tensor.clone() })
            });
            write_raw(path, &own.collect::<Vec<_>>());
        }
    });
    let model = goldens::folder("sdxs").join("model");
    let [encoder, decoder] = paths.each_ref().map(|path| path.to_str().unwrap());
    let flags = ["--type", "f32", "--vae", encoder, "--vae", decoder];
    let found = Model::convert_with(&model, &flags);
    assert_same_weights(&found.path(), &Model::convert("sdxs", WeightType::F32).path(), "two files");
    let [convert, dry_run, vae] = ["convert", "--dry-run", "--vae"].map(OsStr::new);
    let alone = [convert, model.as_os_str(), dry_run, vae, paths[0].as_os_str()];
    command::run(SDQ, folder.path(), &alone)
        .assert_failed(1, &["only the encoder of TAESD", "second `--vae`"]);

    // The decoder is sufficient where nothing is encoded.
    let decodes = Model::convert_with(&model, &["--type", "f32", "--vae", decoder]);
    let request = Request::new("a fox").size(64, 64).steps(1).seed(3);
    let draw = |model: &Model, request: &Request| {
        model.open(2).generate(request, &mut |_| ControlFlow::Continue(()))
    };
    let picture = draw(&found, &request).unwrap().pictures.remove(0);
    assert_eq!(draw(&decodes, &request).unwrap().pictures, std::slice::from_ref(&picture));
    let prefixed = folder.path().join("prefixed.safetensors");
    let rename = |tensor: RawTensor| RawTensor {
        name: format!("first_stage_model.decoder.{}", tensor.name),
        ..tensor
    };
    write_raw(&prefixed, &tensors_of(&paths[1]).into_iter().map(rename).collect::<Vec<_>>());
    let flags = ["--type", "f32", "--vae", prefixed.to_str().unwrap()];
    assert_same_weights(&Model::convert_with(&model, &flags).path(), &decodes.path(), "with a prefix");
    let start = Request { init_image: Some(picture), ..request };
    let error = draw(&decodes, &start).unwrap_err().to_string();
    assert!(error.contains("no encoder"), "{error}");
}

/// The built-in model was trained to predict velocity. `sd1` has random weights except its last layer, which
/// is fitted to predict noise.
#[test]
fn who_predicts_noise_gives_it_back() {
    let trained = Model::convert_folder(&demo_model(), WeightType::F16).open(2).noise_likeness().unwrap();
    let fitted = Model::convert("sd1", WeightType::F16).open(2).noise_likeness().unwrap();
    println!("velocity {trained:.3}, noise {fitted:.3}");
    assert!(trained < 0.5 && fitted > 0.5);
}
