//! A small model directory, and every possible fault of one.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use sdq_formats::dtype::DType;
use sdq_formats::safetensors;
use sdq_formats::tensor::TensorView;

fn open(path: &Path) -> Result<PublishedModel, PublishedError> {
    PublishedModel::open(&ModelFiles { model: Some(path.to_path_buf()), ..ModelFiles::default() })
}

struct Model(TempDir);

impl Model {
    /// A directory with the minimum that a pipeline needs.
    fn new() -> Model {
        let model = Model(tempfile::tempdir().unwrap());
        model.put(
            "model_index.json",
            &json!({
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": "0.30.0",
                "text_encoder": ["transformers", "CLIPTextModel"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "scheduler": ["diffusers", "DDIMScheduler"],
                "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
                "feature_extractor": [null, null],
                "requires_safety_checker": false,
            })
            .to_string(),
        );
        for name in ["text_encoder", "unet", "vae"] {
            model.put(&format!("{name}/config.json"), &format!(r#"{{"_of": "{name}"}}"#));
        }
        model.put_weights(
            "text_encoder/model.safetensors",
            &["encoder.w", "text_model.embeddings.position_ids"],
        );
        model.put_weights("unet/diffusion_pytorch_model.safetensors", &["conv_in.weight"]);
        model.put_weights(
            "vae/diffusion_pytorch_model.safetensors",
            &["decoder.mid_block.attentions.0.query.bias"],
        );
        model.put("tokenizer/vocab.json", "{}");
        model.put("tokenizer/merges.txt", "#version: 0.2\n");
        model.put("scheduler/scheduler_config.json", "{}");
        model
    }

    fn put(&self, name: &str, content: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A safetensors file with tensors of one element, 1.0 in the first, 2.0 in the second and so on.
    fn put_weights(&self, name: &str, tensors: &[&str]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let values: Vec<[u8; 4]> = (1..=tensors.len()).map(|i| (i as f32).to_le_bytes()).collect();
        let view = |(name, bytes): (&&str, &'_ [u8; 4])| (name.to_string(), bytes.to_vec());
        let owned: Vec<(String, Vec<u8>)> = tensors.iter().zip(&values).map(view).collect();
        let views: Vec<TensorView<'_>> = owned
            .iter()
            .map(|(name, bytes)| TensorView { name: name.clone(), dtype: DType::F32, shape: vec![1], bytes })
            .collect();
        safetensors::write(path, &views, &[]).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.0.path().join(from), self.0.path().join(to)).unwrap();
    }

    fn open(&self) -> PublishedModel {
        open(self.0.path()).unwrap()
    }

    /// The error, without the folder's own path.
    fn error(&self) -> String {
        let error = open(self.0.path()).unwrap_err().to_string();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn reads_components_texts_and_canonical_names() {
    let model = Model::new().open();
    assert_eq!(model.class_name(), "StableDiffusionPipeline");
    let names: Vec<&str> = model.components().iter().map(PublishedComponent::name).collect();
    assert_eq!(names, ["text_encoder", "unet", "vae"]);
    let unet = model.component("unet").unwrap();
    assert_eq!(unet.class_name(), "UNet2DConditionModel");
    assert_eq!(unet.config()["_of"], "unet");
    assert_eq!(unet.tensors().unwrap()["conv_in.weight"].to_f32().unwrap(), [1.0]);
    let keys =
        |name: &str| model.component(name).unwrap().tensors().unwrap().into_keys().collect::<Vec<String>>();
    assert_eq!(keys("text_encoder"), ["text_model.encoder.w"]);
    assert_eq!(keys("vae"), ["decoder.mid_block.attentions.0.to_q.bias"]);
    let texts: Vec<&str> = model.texts().iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "model_index.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn the_manifest_names_every_file_relative_to_the_model() {
    let model = Model::new();
    model.put(
        "sdq.json",
        r#"{"name": "tiny", "license": "OFL-1.1", "description": "d", "width": 64, "steps": 20}"#,
    );
    model.put("LICENSE.md", "be kind");
    model.put("NOTICE", "not used");
    let model = model.open();
    assert!(model.texts().contains(&("LICENSE".to_owned(), "be kind".to_owned())));
    let manifest = model.manifest("sdq 1.2.3");
    assert_eq!((manifest.name.as_str(), manifest.license.as_str()), ("tiny", "OFL-1.1"));
    assert_eq!(manifest.converter, "sdq 1.2.3");
    assert_eq!(manifest.defaults.to_string(), r#"{"width":64,"steps":20}"#);
    let files: Vec<&str> = model.files().keys().map(String::as_str).collect();
    assert_eq!(
        files,
        [
            "LICENSE.md",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "sdq.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
}

#[test]
fn without_a_card_the_folder_names_the_model() {
    let model = Model::new();
    let manifest = model.open().manifest("sdq");
    assert_eq!(manifest.name, model.0.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(manifest.defaults, json!({}));
}

#[test]
fn prefers_whole_precision_then_falls_back_to_fp16() {
    let model = Model::new();
    model.put_weights("unet/diffusion_pytorch_model.fp16.safetensors", &["half"]);
    assert!(model.open().component("unet").unwrap().tensors().unwrap().contains_key("conv_in.weight"));
    model.remove("unet/diffusion_pytorch_model.safetensors");
    assert!(model.open().component("unet").unwrap().tensors().unwrap().contains_key("half"));
}

/// Where there is no plain file, whichever variant there is, with a word about the others.
#[test]
fn finds_the_weights_of_every_variant() {
    for variant in ["fp32", "bf16", "non_ema", "ours"] {
        let model = Model::new();
        let name = |variant: &str| format!("unet/diffusion_pytorch_model.{variant}safetensors");
        model.rename(&name(""), &name(&format!("{variant}.")));
        assert!(model.open().component("unet").unwrap().tensors().unwrap().contains_key("conv_in.weight"));
        assert_eq!(model.open().remarks(), []);
        model.put_weights(&name("pruned."), &["other"]);
        let remarks = model.open().remarks().to_vec();
        let [Remark::Variants { .. }] = remarks[..] else { panic!("{variant}: {remarks:?}") };
    }
}

/// The caches of Hugging Face's libraries: what people copy is the folder above the model.
#[test]
fn the_folders_around_a_model_are_told_from_it() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("models--a--b");
    let snapshots = root.join("snapshots");
    fs::create_dir_all(snapshots.join("0000")).unwrap();
    let error = |path: &Path| open(path).unwrap_err().to_string();
    let snapshot = snapshots.join("1234");
    fs::rename(model.0.path(), &snapshot).unwrap();
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::write(root.join("refs/main"), "1234").unwrap();
    let give = format!("give `{}`", snapshot.display());
    assert!(
        error(&root).ends_with(&format!("the folder is the cache of a Hugging Face model; {give}")),
        "{}",
        error(&root)
    );
    assert!(error(&snapshots).ends_with(&give), "{}", error(&snapshots));
    assert!(error(folder.path()).contains(&snapshot.display().to_string()), "{}", error(folder.path()));
    let unet = error(&snapshot.join("unet"));
    let canonical = fs::canonicalize(&snapshot).unwrap();
    assert!(
        unet.ends_with(&format!("the folder is a part of a model; give `{}`", canonical.display())),
        "{unet}"
    );
    let index = error(&snapshot.join("model_index.json"));
    assert!(index.ends_with("give the folder that contains it"), "{index}");
    fs::remove_dir_all(&snapshots).unwrap();
    fs::create_dir_all(&snapshots).unwrap();
    assert!(error(&root).ends_with("download the model again"));
    let single = tempfile::tempdir().unwrap();
    fs::write(single.path().join("v1-5.ckpt"), "").unwrap();
    assert!(error(single.path()).contains("v1-5.ckpt"));
    fs::rename(single.path().join("v1-5.ckpt"), single.path().join("notes.txt")).unwrap();
    assert!(error(single.path()).ends_with("expected a diffusers directory"));
}

/// A download that stopped leaves links to files that never came.
#[cfg(unix)]
#[test]
fn a_broken_link_is_named_with_its_target() {
    for file in [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "model_index.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ] {
        let model = Model::new();
        model.remove(file);
        std::os::unix::fs::symlink("../../blobs/0123", model.0.path().join(file)).unwrap();
        let expected = format!("{file}: the path is a link to `../../blobs/0123`, which does not exist");
        assert_eq!(model.error(), expected);
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("model.safetensors");
    std::os::unix::fs::symlink("gone", &link).unwrap();
    assert!(
        open(&link).unwrap_err().to_string().ends_with("the path is a link to `gone`, which does not exist")
    );
}

#[test]
fn reads_shards_under_every_name_of_their_index() {
    for index in [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        let model = Model::new();
        model.rename("unet/diffusion_pytorch_model.safetensors", "unet/shard-1.safetensors");
        model.put(&format!("unet/{index}"), r#"{"weight_map": {"conv_in.weight": "shard-1.safetensors"}}"#);
        let model = model.open();
        assert!(model.component("unet").unwrap().tensors().unwrap().contains_key("conv_in.weight"));
        assert!(model.files().contains_key(&format!("unet/{index}")));
        assert!(model.files().contains_key("unet/shard-1.safetensors"));
    }
}

#[test]
fn a_tokenizer_may_be_one_file() {
    let model = Model::new();
    model.remove("tokenizer/vocab.json");
    assert_eq!(
        model.error(),
        "tokenizer: a file is missing; the model needs vocab.json and merges.txt, or tokenizer.json"
    );
    model.put("tokenizer/tokenizer.json", "{}");
    model.put("tokenizer/special_tokens_map.json", "{}");
    let texts = model.open().texts.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert!(texts.contains(&"tokenizer/tokenizer.json".to_owned()));
    assert!(texts.contains(&"tokenizer/special_tokens_map.json".to_owned()));
}

#[test]
fn rejects_what_is_not_a_model_directory() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| open(path).unwrap_err().to_string();
    assert!(message(&folder.path().join("no")).ends_with("/no: no such file or directory"));
    assert!(
        message(folder.path())
            .ends_with("the directory contains no model_index.json, expected a diffusers directory")
    );
    let file = folder.path().join("model.ckpt");
    fs::write(&file, b"PK\x03\x04").unwrap();
    let error = message(&file);
    assert!(error.contains("not a valid PyTorch archive"), "{error}");
}

#[test]
fn rejects_an_index_without_class_or_components() {
    let model = Model::new();
    model.put("model_index.json", "{}");
    assert_eq!(model.error(), "model_index.json: the file is not valid: `_class_name` is not a string");
    model.put("model_index.json", r#"{"_class_name": "P", "unet": [null, null]}"#);
    assert_eq!(model.error(), "model_index.json: the pipeline has no `text_encoder`");
    model.put("model_index.json", "[]");
    assert_eq!(model.error(), "model_index.json: the file is not valid: expected an object");
    model.put("model_index.json", r#"{"_class_name": "#);
    assert!(model.error().starts_with("model_index.json: the file is not valid: EOF"), "{}", model.error());
}

#[test]
fn a_component_cannot_lie_outside_of_the_model() {
    let model = Model::new();
    let text = fs::read_to_string(model.0.path().join("model_index.json")).unwrap();
    model.put("model_index.json", &text.replace("\"unet\"", "\"../unet\""));
    assert!(model.error().contains("has no `unet`"));
    model.put("model_index.json", &text.replacen('{', r#"{"../x": ["diffusers", "X"],"#, 1));
    assert_eq!(
        model.error(),
        "model_index.json: the file is not valid: the component name \"../x\" is not allowed: a component is a folder beside the file"
    );
}

#[test]
fn rejects_missing_configs_and_weights() {
    let model = Model::new();
    model.remove("unet/config.json");
    assert!(model.error().starts_with("unet/config.json: No such file"), "{}", model.error());
    model.put("unet/config.json", "{}");
    model.remove("unet/diffusion_pytorch_model.safetensors");
    assert_eq!(
        model.error(),
        "unet: a file is missing; the model needs diffusion_pytorch_model.safetensors or model.safetensors"
    );
    model.put("unet/diffusion_pytorch_model.bin", "");
    assert_eq!(
        model.error(),
        "unet/diffusion_pytorch_model.bin: expected a checkpoint (safetensors, .ckpt or GGUF), found an empty file"
    );
}

#[test]
fn says_when_a_file_was_not_downloaded() {
    let model = Model::new();
    model.put("unet/diffusion_pytorch_model.safetensors", "version https://git-lfs.github.com/spec/v1\noid");
    let error = model.error();
    assert!(
        error.starts_with("unet/diffusion_pytorch_model.safetensors: ") && error.contains("git-lfs pointer")
    );
    let model = Model::new();
    model.put("tokenizer/vocab.json", "<!DOCTYPE html>");
    assert!(model.error().starts_with("tokenizer/vocab.json: expected a text file, found a web page"));
}

#[test]
fn rejects_two_names_of_one_tensor() {
    let model = Model::new();
    model.put_weights("text_encoder/model.safetensors", &["encoder.w", "text_model.encoder.w"]);
    let error = model.open().component("text_encoder").unwrap().tensors().unwrap_err().to_string();
    assert!(
        error.ends_with(
            "tensors `encoder.w` and `text_model.encoder.w` are both names of `text_model.encoder.w`"
        ),
        "{error}"
    );
}

#[test]
fn rejects_a_card_with_mistakes() {
    let model = Model::new();
    model.put("sdq.json", r#"{"height": "64"}"#);
    assert!(
        model.error().starts_with("sdq.json: the file is not valid: invalid type: string"),
        "{}",
        model.error()
    );
    model.put("sdq.json", "[]");
    assert_eq!(model.error(), "sdq.json: the file is not valid: expected an object");
}

/// A file of one layer each, with a dimension of zero and another beyond any memory: refused without using
/// the size.
#[test]
fn sizes_beyond_all_memory_are_refused() {
    let huge = usize::MAX / 2;
    let shapes: [(&str, &[usize]); 12] = [
        ("model.diffusion_model.input_blocks.0.0.weight", &[0, huge, 3, 3]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[huge, 0, 3, 3]),
        ("model.diffusion_model.input_blocks.1.1.proj_in.weight", &[huge, 0]),
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", &[0, huge]),
        ("model.diffusion_model.output_blocks.0.0.in_layers.2.weight", &[huge, 0, 3, 3]),
        ("model.diffusion_model.out.2.weight", &[huge, 0, 3, 3]),
        ("first_stage_model.decoder.conv_in.weight", &[0, huge, 3, 3]),
        ("first_stage_model.decoder.norm_out.weight", &[0]),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", &[huge, 0, 3, 3]),
        ("cond_stage_model.model.token_embedding.weight", &[0, huge]),
        ("cond_stage_model.model.positional_embedding", &[huge, 0]),
        ("cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight", &[huge, 0]),
    ];
    let joined = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    for extra in
        [&[][..], &[(joined, &[huge, 0][..])], &[("cond_stage_model.model.text_projection", &[0, huge])]]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let views: Vec<TensorView<'_>> = shapes
            .iter()
            .chain(extra)
            .map(|(name, shape)| TensorView {
                name: (*name).to_owned(),
                dtype: DType::F16,
                shape: shape.to_vec(),
                bytes: &[],
            })
            .collect();
        safetensors::write(&path, &views, &[]).unwrap();
        // It must return at once; sizes are checked when the configs are read.
        let _ = open(&path)
            .map(|model| model.components().iter().map(|c| c.tensors().unwrap().len()).sum::<usize>());
    }
}
