//! A test double for each role: networks of other kinds than Stable Diffusion's work in a pipeline.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use sdq_formats::{
    Sensitivity, WeightSpec, WeightType,
    sdq::{Manifest, SdqFile, SdqWriter},
};
use sdq_schedulers::SchedulerConfig;
use serde_json::json;

use super::*;
use crate::{
    JoinedTextStates, ModelIndex, PromptLength, PromptReading, PromptSyntax,
    backend::{Executable, cpu::CpuBackend},
    graph::{Graph, GraphBuilder, Window},
    roles::{
        Autoencoder, DenoiserNetwork, EncodedText, LATENTS, MOMENTS, NOISE_PRED, PIXELS, PictureNetwork,
        PromptEncoder, PromptShape, Prompts, StepGraphs, StepNetwork, StepShape, StoredNetwork, TEXT_STATES,
    },
};

/// The number of channels of all networks here.
const WIDTH: usize = 3;

/// A network that computes without weights.
macro_rules! without_weights {
    ($network:ty, $component:literal) => {
        impl StoredNetwork for $network {
            fn component(&self) -> &'static str {
                $component
            }

            fn weights(&self) -> Vec<WeightSpec> {
                Vec::new()
            }

            fn sensitivity(&self, _: &WeightSpec) -> Sensitivity {
                Sensitivity::Low
            }
        }
    };
}

/// Reads the first letters of a prompt.
#[derive(Debug)]
struct Letters {
    component: &'static str,
    tokens: usize,
    factor: f32,
}

impl StoredNetwork for Letters {
    fn component(&self) -> &'static str {
        self.component
    }

    fn weights(&self) -> Vec<WeightSpec> {
        Vec::new()
    }

    fn sensitivity(&self, _: &WeightSpec) -> Sensitivity {
        Sensitivity::Low
    }
}

impl PromptEncoder for Letters {
    fn width(&self) -> usize {
        WIDTH
    }

    fn pooled_width(&self) -> Option<usize> {
        None
    }

    fn chunk_tokens(&self) -> usize {
        self.tokens
    }

    fn blocks(&self) -> usize {
        1
    }

    fn token_ids(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let letters = prompt.bytes().map(u32::from).chain(std::iter::repeat(0));
        Ok(letters.take(self.tokens).collect())
    }

    fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error> {
        Ok(prompt.len().saturating_sub(self.tokens))
    }

    fn prompt_length(&self, _: &str, _: PromptSyntax, _: &ExtraWords) -> Result<PromptLength, Error> {
        Ok(PromptLength { tokens: 0, chunks: 1, per_chunk: self.tokens })
    }

    fn graphs(&self, shape: &PromptShape) -> Vec<Graph> {
        let mut graph = GraphBuilder::new();
        let letters = graph.input("letters", &[shape.prompts, self.tokens, WIDTH]);
        let states = graph.affine(self.factor, 0.0, letters);
        graph.output("states", states);
        vec![graph.finish()]
    }

    fn encode(
        &self,
        executables: &mut [Box<dyn Executable + '_>],
        prompts: &Prompts<'_>,
    ) -> Result<EncodedText, Error> {
        let mut letters = Vec::new();
        for text in prompts.texts {
            letters.extend(self.token_ids(text)?.iter().flat_map(|&id| [id as f32; WIDTH]));
        }
        executables[0].set_input("letters", &letters);
        executables[0].run()?;
        Ok(EncodedText { states: executables[0].output("states").to_vec(), pooled: None })
    }
}

/// Name of the input that a companion adds to.
const RESIDUAL: &str = "residual";

/// A denoiser that is not a U-Net: every pixel attends to the letters. With `half_added` it adds half of the
/// latents to its prediction by itself; otherwise a companion may do so.
#[derive(Debug)]
struct PixelAttention {
    half_added: bool,
    companion: bool,
    /// Multiplies its prediction, twice.
    factor: f32,
}

impl Default for PixelAttention {
    fn default() -> PixelAttention {
        PixelAttention { half_added: false, companion: false, factor: 1.0 }
    }
}

without_weights!(PixelAttention, "transformer");

impl StepNetwork for PixelAttention {
    fn label(&self) -> &'static str {
        "transformer"
    }

    fn in_channels(&self) -> usize {
        WIDTH
    }

    fn center_input_sample(&self) -> bool {
        false
    }

    fn text_width(&self) -> usize {
        WIDTH
    }

    fn added_width(&self) -> Option<usize> {
        None
    }

    fn reads_guidance_scale(&self) -> bool {
        false
    }

    fn graphs(&self, shape: &StepShape, _: Option<usize>) -> StepGraphs {
        let &StepShape { batch, height, width, tokens, timesteps } = shape;
        let (mut schedule, mut prompt) = (GraphBuilder::new(), GraphBuilder::new());
        let times = schedule.input("times", &[timesteps, WIDTH]);
        let shifted = schedule.affine(1e-3, 0.0, times);
        schedule.output("time", shifted);
        let states = prompt.input(TEXT_STATES, &[batch, tokens, WIDTH]);
        let keys = prompt.affine(0.5, 0.0, states);
        prompt.output("keys", keys);
        let mut step = GraphBuilder::new();
        let latents = step.input(LATENTS, &[batch, height, width, WIDTH]);
        let keys = step.input("keys", &[batch, tokens, WIDTH]);
        let time = step.input("time", &[1, WIDTH]);
        let time = step.affine(2.0, 0.0, time);
        let attended = step.attention(latents, keys, keys, 1, false);
        let mut noise_pred = step.add(attended, latents);
        if self.half_added {
            let half = step.affine(0.5, 0.0, latents);
            noise_pred = step.add(half, noise_pred);
        }
        if self.companion {
            let residual = step.input(RESIDUAL, &[batch, height, width, WIDTH]);
            noise_pred = step.add(residual, noise_pred);
        }
        for _ in 0..2 {
            noise_pred = step.affine(self.factor, 0.0, noise_pred);
        }
        step.output(NOISE_PRED, noise_pred);
        step.output("time seen", time);
        StepGraphs { schedule: schedule.finish(), prompt: prompt.finish(), step: step.finish() }
    }

    fn schedule_inputs(
        &self,
        timesteps: &[f64],
        rows: usize,
        _: Option<f32>,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let times = timesteps.iter().flat_map(|&time| vec![time as f32; rows * WIDTH]);
        vec![("times", times.collect())]
    }
}

impl DenoiserNetwork for PixelAttention {
    fn out_channels(&self) -> usize {
        WIDTH
    }

    fn sample_size(&self) -> Option<(usize, usize)> {
        Some((8, 8))
    }

    fn deep_skips(&self) -> usize {
        0
    }

    fn embed_number(&self, _: f32) -> Vec<f32> {
        Vec::new()
    }
}

/// A companion that computes half of the latents, for a denoiser that reads them as its residual.
#[derive(Debug)]
struct Half;

without_weights!(Half, "companion");

impl StepNetwork for Half {
    fn label(&self) -> &'static str {
        "companion"
    }

    fn in_channels(&self) -> usize {
        WIDTH
    }

    fn center_input_sample(&self) -> bool {
        false
    }

    fn text_width(&self) -> usize {
        WIDTH
    }

    fn added_width(&self) -> Option<usize> {
        None
    }

    fn reads_guidance_scale(&self) -> bool {
        false
    }

    fn graphs(&self, shape: &StepShape, _: Option<usize>) -> StepGraphs {
        let &StepShape { batch, height, width, tokens, .. } = shape;
        let (schedule, mut prompt, mut step) =
            (GraphBuilder::new(), GraphBuilder::new(), GraphBuilder::new());
        prompt.input(TEXT_STATES, &[batch, tokens, WIDTH]);
        let latents = step.input(LATENTS, &[batch, height, width, WIDTH]);
        let half = step.affine(0.5, 0.0, latents);
        step.output(RESIDUAL, half);
        StepGraphs { schedule: schedule.finish(), prompt: prompt.finish(), step: step.finish() }
    }

    fn schedule_inputs(&self, _: &[f64], _: usize, _: Option<f32>) -> Vec<(&'static str, Vec<f32>)> {
        Vec::new()
    }
}

/// Latents are pictures of half the size.
#[derive(Debug)]
struct Halved;

const ENCODER: &str = "encoder";

impl StoredNetwork for Halved {
    fn component(&self) -> &'static str {
        "halved"
    }

    fn weights(&self) -> Vec<WeightSpec> {
        self.encoder(1, 2, 2).weights
    }

    fn sensitivity(&self, _: &WeightSpec) -> Sensitivity {
        Sensitivity::Low
    }
}

impl Autoencoder for Halved {
    fn latent_channels(&self) -> usize {
        WIDTH
    }

    fn scale_factor(&self) -> usize {
        2
    }

    fn scaling_factor(&self) -> f32 {
        1.0
    }

    fn is_distribution(&self) -> bool {
        false
    }

    fn encoder(&self, batch: usize, height: usize, width: usize) -> Graph {
        let mut graph = GraphBuilder::new();
        let pixels = graph.input(PIXELS, &[batch, height, width, WIDTH]);
        let window = Window { stride: 2, ..Window::POINT };
        let latents = graph.conv2d_without_bias(ENCODER, pixels, WIDTH, window);
        graph.output(LATENTS, latents);
        graph.finish()
    }

    fn decoder(&self, batch: usize, height: usize, width: usize) -> Graph {
        let mut graph = GraphBuilder::new();
        let latents = graph.input(LATENTS, &[batch, height, width, WIDTH]);
        let pixels = graph.upsample_nearest(latents, (2 * height, 2 * width));
        graph.output(PIXELS, pixels);
        graph.finish()
    }

    fn scale_latents(&self, _: &mut [f32], _: usize) {}

    fn scale_deviations(&self, _: &mut [f32], _: usize) {}

    fn unscale_latents(&self, _: &mut [f32], _: usize) {}
}

/// Doubles the size, and blurs with a 3x3 window that crosses the borders of strips.
#[derive(Debug)]
struct Upscaler;

impl StoredNetwork for Upscaler {
    fn component(&self) -> &'static str {
        "upscaler"
    }

    fn weights(&self) -> Vec<WeightSpec> {
        self.graph(2, 2).weights
    }

    fn sensitivity(&self, _: &WeightSpec) -> Sensitivity {
        Sensitivity::Low
    }
}

impl PictureNetwork for Upscaler {
    fn scale(&self) -> usize {
        2
    }

    fn graph(&self, height: usize, width: usize) -> Graph {
        let mut graph = GraphBuilder::new();
        let picture = graph.input("picture", &[1, height, width, WIDTH]);
        let blurred = graph.conv2d_without_bias("blur", picture, WIDTH, Window::SAME_3X3);
        let large = graph.upsample_nearest(blurred, (2 * height, 2 * width));
        let smooth = graph.conv2d_without_bias("smooth", large, WIDTH, Window::SAME_3X3);
        graph.output("larger", smooth);
        graph.finish()
    }
}

/// A file with a component for every double; all weights are `1 / elements read`.
fn file(folder: &Path) -> Arc<SdqFile> {
    let path = folder.join("doubles.sdq");
    let manifest = Manifest::of_no_model("doubles", "sdq");
    let mut writer = SdqWriter::create(&path, manifest).unwrap();
    let components = [
        ("first letters", Vec::new()),
        ("more letters", Vec::new()),
        ("transformer", Vec::new()),
        ("companion", Vec::new()),
        ("halved", Halved.weights()),
        ("upscaler", Upscaler.weights()),
    ];
    for (name, weights) in components {
        writer.begin_component(name, json!({})).unwrap();
        for spec in weights {
            let read: usize = spec.shape[1..].iter().product();
            let values = vec![1.0 / read as f32; spec.shape.iter().product()];
            writer.append(&spec, WeightType::F32, &values).unwrap();
        }
    }
    writer.finish().unwrap();
    Arc::new(SdqFile::open(&path).unwrap())
}

fn arranged(file: &Arc<SdqFile>, denoiser: PixelAttention) -> Pipeline {
    let companions: Vec<Box<dyn StepNetwork>> =
        if denoiser.companion { vec![Box::new(Half)] } else { Vec::new() };
    let model = Model {
        text_encoders: vec![
            Box::new(Letters { component: "first letters", tokens: 2, factor: 1e-2 }),
            Box::new(Letters { component: "more letters", tokens: 3, factor: 1e-3 }),
        ],
        joined_text_states: JoinedTextStates::Tokens,
        denoiser: Box::new(denoiser),
        companions,
        autoencoder: Box::new(Halved),
        scheduler: SchedulerConfig::from_json("{}").unwrap(),
        family: crate::families::Family::Sd1,
        index: ModelIndex::from_text(None).unwrap(),
        extra_input: crate::ExtraInput::None,
    };
    Pipeline::arranged(model, file.clone(), &PipelineOptions::default()).unwrap()
}

fn draw(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn encoders_of_two_kinds_are_joined_token_by_token() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = arranged(&file(folder.path()), PixelAttention::default());
    let encoded = pipeline.encode_prompts_as(&["abc", ""], PromptReading::default()).unwrap();
    assert_eq!(encoded.text_states.shape(), [2, 5, WIDTH]);
    let of_token = |token: usize| encoded.text_states.values()[token * WIDTH];
    let expected = [0.97, 0.98, 0.097, 0.098, 0.099, 0.0];
    for (token, expected) in expected.into_iter().enumerate() {
        assert!((of_token(token) - expected).abs() < 1e-6, "{token}: {}", of_token(token));
    }
}

#[test]
fn a_companion_adds_to_what_the_denoiser_reads_and_is_planned() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let with_companion = arranged(&file, PixelAttention { companion: true, ..Default::default() });
    let alone = arranged(&file, PixelAttention { half_added: true, ..Default::default() });
    for (count, guidance_scale, size) in [(1, 1.0, 16), (2, 3.0, 24), (5, 3.0, 16)] {
        let request =
            Request::new("abc").size(size, size).steps(3).count(count).guidance_scale(guidance_scale);
        assert_eq!(draw(&with_companion, &request).latents, draw(&alone, &request).latents, "{count}");
    }
    let request = Request::new("abc").size(64, 64).steps(3);
    let [more, less] = [&with_companion, &alone].map(|pipeline| {
        let plan = pipeline.plan(&request).unwrap();
        assert_eq!(plan.phases[2].name, "transformer");
        plan.phases[2].bytes - plan.phases[1].bytes
    });
    // The companion's latents and half of them, for both branches of guidance.
    assert!(more >= less + 2 * (2 * 32 * 32 * WIDTH * size_of::<f32>()) as u64, "{more} beside {less}");
}

#[test]
fn a_prediction_that_overflows_is_an_error_and_no_black_picture() {
    let folder = tempfile::tempdir().unwrap();
    let denoiser = PixelAttention { factor: 1e30, ..Default::default() };
    let pipeline = arranged(&file(folder.path()), denoiser);
    let request = Request::new("abc").size(16, 16).steps(3);
    match pipeline.generate(&request, &mut |_| ControlFlow::Continue(())) {
        Err(Error::NotFinite { stage }) => assert_eq!(stage, "the transformer at step 0"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pictures_to_start_from_go_through_any_autoencoder() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = arranged(&file(folder.path()), PixelAttention::default());
    let pixels = Tensor::new(vec![1, 3, 4, 4], vec![0.25; 48]).unwrap();
    let moments = pipeline.encode_pixels(&pixels).unwrap();
    assert_eq!(moments.mean.shape(), [1, WIDTH, 2, 2]);
    assert!(moments.std.is_none() && moments.mean.values().iter().all(|value| *value == 0.25));
    assert_ne!(LATENTS, MOMENTS);
}

#[test]
fn a_picture_network_is_cut_into_strips_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    let backend = Arc::new(CpuBackend::new(None).unwrap());
    let network = Network::open(file, "upscaler", &Upscaler.weights(), backend).unwrap();
    let (width, height) = (36, 40);
    let rgb = (0..width * height * 3).map(|index| (index * 7919 % 251) as u8).collect();
    let picture = Picture { width, height, rgb };
    let whole = map_picture(&network, &Upscaler, &picture, None).unwrap();
    assert_eq!((whole.width, whole.height), (2 * width, 2 * height));
    let needed = match map_picture(&network, &Upscaler, &picture, Some(1)) {
        Err(Error::DoesNotFit { needed, .. }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    };
    assert_eq!(map_picture(&network, &Upscaler, &picture, Some(needed)).unwrap(), whole);
    assert!(map_picture(&network, &Upscaler, &picture, Some(needed - 1)).is_err());
}
