//! Valid files of every kind.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use sdq::{
    picture::{self, Picture},
    recipe::Recipe,
};
use sdq_engine::{Error, Event, Pipeline, Request};
use sdq_formats::{WeightType, picture::PREVIEW};
use sdq_tests::{
    checkpoint::{ModelCopy, write_f32},
    models::Model,
};

/// The golden model with the smallest vocabulary, as files and open.
pub(crate) struct Fixtures {
    pub(crate) pipeline: Pipeline,
    pub(crate) model: Vec<u8>,
    folder: tempfile::TempDir,
    pub(crate) directory: ModelCopy,
}

impl Fixtures {
    pub(crate) fn new() -> Fixtures {
        let model = Model::convert("old", WeightType::Q8);
        let (pipeline, model) = (model.open(1), fs::read(model.path()).unwrap());
        Fixtures { pipeline, model, folder: tempfile::tempdir().unwrap(), directory: ModelCopy::of("old") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn written(&self, name: &str, write: impl FnOnce(&Path)) -> Vec<u8> {
        let path = self.file(name);
        write(&path);
        fs::read(path).unwrap()
    }

    pub(crate) fn lora(&self) -> Vec<u8> {
        let weights = self.pipeline.weights();
        let (_, specs) = weights.iter().find(|(component, _)| *component == "unet").unwrap();
        let spec = specs.iter().find(|spec| spec.name.ends_with("attn1.to_q.weight")).unwrap();
        let module = spec.name.trim_end_matches(".weight");
        let (rows, columns) = (spec.shape[0], spec.shape[1..].iter().product::<usize>());
        let [down, up] = ["down", "up"].map(|part| format!("unet.{module}.lora.{part}.weight"));
        let values = vec![0.1; rows.max(columns)];
        self.written("lora.safetensors", |path| {
            let down = (down.as_str(), &[1, columns][..], &values[..columns]);
            write_f32(path, &[down, (up.as_str(), &[rows, 1][..], &values[..rows])]);
        })
    }

    pub(crate) fn saved_run(&self) -> Vec<u8> {
        let path = self.file("a.png.sdq-run");
        let request = Request::new("a (red:1.2) apple").size(16, 16).steps(3).count(2).scheduler("unipc");
        let result = self.pipeline.generate(&request, &mut |event: Event<'_>| {
            if let Event::Saveable(checkpoint) = event {
                checkpoint.save(&path, &[("sdq.files", r#"{"output":"/x/a.png"}"#)]).unwrap();
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(Error::Cancelled { .. })));
        fs::read(path).unwrap()
    }

    pub(crate) fn pictures(&self, extension: &str) -> Vec<u8> {
        let rgb = (0..3 * 24 * 16).map(|index| (index * 7 % 256) as u8).collect();
        let picture = Picture { width: 24, height: 16, rgb };
        let recipe = Recipe {
            model: "m".to_owned(),
            request: Request::new("a ☕ <lora:x:1>").steps(3),
            ..Recipe::default()
        };
        let texts = recipe.texts();
        let mut texts = texts.each_ref().map(|(key, text)| (*key, text.as_str())).to_vec();
        texts.push((PREVIEW, "p"));
        self.written(&format!("picture.{extension}"), |path| picture::write(path, &picture, &texts).unwrap())
    }
}

/// Recipes as programs write them.
pub(crate) fn recipes() -> Vec<Vec<u8>> {
    let own = Recipe { request: Request::new("a fox").steps(3), ..Recipe::default() };
    let comfy = r#"{"3":{"class_type":"KSampler","inputs":{"seed":5,"steps":20,"cfg":8.0,"sampler_name":"euler",
        "scheduler":"normal","denoise":1.0,"positive":["6",0],"negative":["7",0],"latent_image":["5",0]}},
        "5":{"class_type":"EmptyLatentImage","inputs":{"width":512,"height":512,"batch_size":1}},
        "6":{"class_type":"CLIPTextEncode","inputs":{"text":"a fox"}},"7":{"class_type":"CLIPTextEncode","inputs":{"text":"x"}}}"#;
    let parameters = "a fox <lora:ink:0.8>\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG \
                      scale: 7, Seed: 42, Size: 512x512, Model hash: abc, Model: m, Clip skip: 2, Version: v1.9";
    vec![own.json().to_string().into_bytes(), comfy.as_bytes().to_vec(), parameters.as_bytes().to_vec()]
}
