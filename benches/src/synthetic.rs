//! Models of published shapes with random weights: size, speed and memory do not depend on the values of
//! weights.

use std::{collections::HashMap, fs, path::Path};

use anyhow::Context as _;
use half::f16;
use sdq_engine::Model;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    dtype::DType,
    safetensors,
    sdq::{Manifest, SdqWriter},
    tensor::TensorView,
};
use serde_json::{Value, json};

/// A published shape. The VAE has 83.7 M weights in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Stable Diffusion 1.5: 859.5 M weights in the U-Net, 123 M in the text encoder.
    Sd15,
    /// Stable Diffusion 2.1: 865.9 M weights in the U-Net, 340 M in the text encoder, which has 23 layers as diffusers
    /// saves it; linear projections, heads of 64 channels, v-prediction.
    Sd21,
    /// SDXL: 2567.5 M weights in the U-Net, 123 and 695 M in its two text encoders.
    Sdxl,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 3] = [Shape::Sd15, Shape::Sd21, Shape::Sdxl];

    /// The name on the command line of `synthetic`.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Sd15 => "sd15",
            Shape::Sd21 => "sd21",
            Shape::Sdxl => "sdxl",
        }
    }
}

/// Writes a model of a published shape to `path`. Its vocabulary contains bytes and no words.
///
/// # Errors
/// When the file cannot be written.
pub fn write(shape: Shape, path: &Path, weight_type: WeightType) -> anyhow::Result<()> {
    let manifest = Manifest {
        description: "random weights in a published shape".to_owned(),
        pipeline_class: pipeline_class(shape).to_owned(),
        ..Manifest::of_no_model(&format!("synthetic {}", shape.name()), "sdq-benches")
    };
    let description = Description::new(shape);
    let (texts, configs) = (&description.texts, &description.configs);
    let model = description.model()?;

    let mut writer = SdqWriter::create(path, manifest)?;
    let mut random = Random(0x5DEE_CE66);
    for (component, specs) in model.weights() {
        writer.begin_component(component, configs[component].clone())?;
        for spec in &specs {
            let stored = if spec.role == WeightRole::Vector { WeightType::F32 } else { weight_type };
            let values = random.weight(spec);
            writer.append(spec, stored, &values).with_context(|| spec.name.clone())?;
        }
    }
    for (name, text) in texts {
        writer.add_text(name, text)?;
    }
    writer.finish()?;
    Ok(())
}

/// Writes the same model as a diffusers directory with weights in f16, the input of `sdq convert`: 2.13 GB
/// for SD1.5, 2.58 GB for SD2.1, 6.94 GB for SDXL.
///
/// # Errors
/// When a file cannot be written.
pub fn write_checkpoint(shape: Shape, folder: &Path) -> anyhow::Result<()> {
    let description = Description::new(shape);
    for (name, text) in &description.texts {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a text lies in a folder")?)?;
        fs::write(path, text)?;
    }
    let mut random = Random(0x5DEE_CE66);
    for (component, specs) in description.model()?.weights() {
        let file = match component {
            "unet" | "vae" => "diffusion_pytorch_model.safetensors",
            _ => "model.safetensors",
        };
        let folder = folder.join(component);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("config.json"), description.configs[component].to_string())?;
        let halves: Vec<Vec<f16>> =
            specs.iter().map(|spec| random.weight(spec).into_iter().map(f16::from_f32).collect()).collect();
        let tensors = specs.into_iter().zip(&halves).map(|(spec, halves)| TensorView {
            shape: published_shape(shape, &spec),
            name: spec.name,
            dtype: DType::F16,
            bytes: bytemuck::cast_slice(halves),
        });
        let tensors: Vec<TensorView<'_>> = tensors.collect();
        safetensors::write(folder.join(file), &tensors, &[])?;
    }
    Ok(())
}

/// The shape of `spec` in published files, where 1x1 convolutions have four axes; in sdq they are matrices.
fn published_shape(shape: Shape, spec: &WeightSpec) -> Vec<usize> {
    let module = spec.name.strip_suffix(".weight").and_then(|module| module.rsplit('.').next());
    let is_convolution = match module {
        Some("conv_shortcut" | "quant_conv" | "post_quant_conv") => true,
        Some("proj_in" | "proj_out") => shape == Shape::Sd15,
        _ => false,
    };
    match is_convolution && spec.shape.len() == 2 {
        true => [&spec.shape[..], &[1, 1]].concat(),
        false => spec.shape.clone(),
    }
}

/// Everything in a model except its weights.
struct Description {
    texts: Vec<(String, String)>,
    configs: HashMap<&'static str, Value>,
}

impl Description {
    fn new(shape: Shape) -> Description {
        let (vocab, merges) = byte_vocabulary();
        let encoders = text_encoders(shape);
        let mut texts = vec![
            ("model_index.json".to_owned(), index(shape).to_string()),
            ("scheduler/scheduler_config.json".to_owned(), scheduler(shape).to_string()),
        ];
        for folder in ["tokenizer", "tokenizer_2"].iter().take(encoders.len()) {
            texts.push((format!("{folder}/vocab.json"), vocab.to_string()));
            texts.push((format!("{folder}/merges.txt"), merges.to_owned()));
        }
        let configs = encoders.into_iter().chain([("unet", unet(shape)), ("vae", vae())]).collect();
        Description { texts, configs }
    }

    fn model(&self) -> anyhow::Result<Model> {
        let text =
            |name: &str| self.texts.iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
        Ok(Model::new(|component| self.configs.get(component), text)?)
    }
}

/// The weights that each component of a model of that shape reads.
///
/// # Errors
/// Never, as long as the engine knows the shape.
pub fn weights(shape: Shape) -> anyhow::Result<Vec<(&'static str, Vec<WeightSpec>)>> {
    Ok(Description::new(shape).model()?.weights())
}

/// Marsaglia's xorshift64*; good enough for meaningless weights.
struct Random(u64);

impl Random {
    /// Approximately normal (the sum of four uniforms), standard deviation 1.
    fn normal(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let uniform = |shift: u32| f32::from((bits >> shift) as u16) / 65_536.0 - 0.5;
        // Each uniform has a variance of 1/12.
        (uniform(0) + uniform(16) + uniform(32) + uniform(48)) * 3.0_f32.sqrt()
    }

    /// Norm scales of one, products that keep the magnitude of their input, and one weight in 4096 far from
    /// the others.
    fn weight(&mut self, spec: &WeightSpec) -> Vec<f32> {
        let elements = spec.shape.iter().product();
        if spec.role == WeightRole::Vector {
            let value = if spec.name.contains("norm") && spec.name.ends_with("weight") { 1.0 } else { 0.0 };
            return vec![value; elements];
        }
        let fan_in = spec.shape[1..].iter().product::<usize>() as f32;
        let scale = fan_in.sqrt().recip();
        (0..elements)
            .map(|index| self.normal() * if index % 4096 == 1 { 8.0 * scale } else { scale })
            .collect()
    }
}

fn unet(shape: Shape) -> Value {
    let (down, up) = match shape {
        Shape::Sd15 | Shape::Sd21 => (
            json!(["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]),
            json!(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
        ),
        Shape::Sdxl => (
            json!(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
            json!(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
        ),
    };
    let (channels, heads, depths, width, side) = match shape {
        Shape::Sd15 => (json!([320, 640, 1280, 1280]), json!(8), json!(1), 768, 64),
        Shape::Sd21 => (json!([320, 640, 1280, 1280]), json!([5, 10, 20, 20]), json!(1), 1024, 96),
        Shape::Sdxl => (json!([320, 640, 1280]), json!([5, 10, 20]), json!([1, 2, 10]), 2048, 128),
    };
    let mut config = json!({
        "act_fn": "silu", "attention_head_dim": heads, "block_out_channels": channels,
        "cross_attention_dim": width, "down_block_types": down, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4,
        "sample_size": side, "transformer_layers_per_block": depths, "up_block_types": up,
        "use_linear_projection": shape != Shape::Sd15,
    });
    if shape == Shape::Sdxl {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(1280 + 6 * 256);
    }
    config
}

fn pipeline_class(shape: Shape) -> &'static str {
    match shape {
        Shape::Sd15 | Shape::Sd21 => "StableDiffusionPipeline",
        Shape::Sdxl => "StableDiffusionXLPipeline",
    }
}

fn index(shape: Shape) -> Value {
    let mut index = json!({
        "_class_name": pipeline_class(shape), "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    });
    if shape == Shape::Sdxl {
        index["force_zeros_for_empty_prompt"] = json!(true);
        index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
    }
    index
}

fn vae() -> Value {
    json!({
        "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "in_channels": 3, "latent_channels": 4,
        "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

fn text_encoders(shape: Shape) -> Vec<(&'static str, Value)> {
    let clip_l = ("text_encoder", text_encoder("quick_gelu", 768, 12, 12));
    match shape {
        Shape::Sd15 => vec![clip_l],
        Shape::Sd21 => vec![("text_encoder", text_encoder("gelu", 1024, 16, 23))],
        Shape::Sdxl => vec![clip_l, ("text_encoder_2", text_encoder("gelu", 1280, 20, 32))],
    }
}

fn text_encoder(activation: &str, width: usize, heads: usize, layers: usize) -> Value {
    json!({
        "model_type": "clip_text_model", "hidden_act": activation, "hidden_size": width,
        "intermediate_size": 4 * width, "max_position_embeddings": 77, "num_attention_heads": heads,
        "num_hidden_layers": layers, "projection_dim": width, "vocab_size": 49408,
    })
}

fn scheduler(shape: Shape) -> Value {
    json!({
        "prediction_type": if shape == Shape::Sd21 { "v_prediction" } else { "epsilon" },
        "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "clip_sample": false, "num_train_timesteps": 1000,
        "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
    })
}

/// Letters with and without the end of a word, and the two special tokens.
fn byte_vocabulary() -> (Value, &'static str) {
    let mut vocab = serde_json::Map::new();
    for letter in (b'!'..=b'~').map(char::from) {
        vocab.insert(letter.to_string(), vocab.len().into());
        vocab.insert(format!("{letter}</w>"), vocab.len().into());
    }
    for special in ["<|startoftext|>", "<|endoftext|>"] {
        vocab.insert(special.to_owned(), vocab.len().into());
    }
    (Value::Object(vocab), "#version: 0.2\n")
}

#[cfg(test)]
mod tests {
    use sdq_formats::layout;
    use sdq_quantize::{Precision, plan};

    use super::*;

    /// Size of all weights in a file, without its texts and table (about a megabyte), in megabytes.
    fn megabytes(precision: Precision) -> f64 {
        let weights = Description::new(Shape::Sd15).model().unwrap().rated_weights().into_iter();
        let weights = weights.map(|(component, weights)| (component, weights, precision));
        let plan = plan(weights, &[]).unwrap();
        let weights = plan.parts.iter().flat_map(|part| &part.weights);
        let parts =
            weights.flat_map(|weight| layout::stored_parts(&weight.spec, weight.weight_type).unwrap());
        parts.map(|part| part.bytes).sum::<usize>() as f64 / 1e6
    }

    #[test]
    fn shapes_have_their_published_sizes() {
        for (shape, expected) in [
            (Shape::Sd15, &[123.1, 859.5, 83.7][..]),
            (Shape::Sd21, &[340.4, 865.9, 83.7]),
            (Shape::Sdxl, &[123.1, 694.7, 2567.5, 83.7]),
        ] {
            let found = weights(shape).unwrap().into_iter().map(|(_, specs)| {
                let elements: usize = specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
                (elements as f64 / 1e5).round() / 10.0
            });
            assert_eq!(found.collect::<Vec<f64>>(), expected, "{shape:?}");
        }
    }

    /// As in the published files: SD1.5 projects by convolutions, the later ones by matrices.
    #[test]
    fn convolutions_of_one_pixel_have_four_axes() {
        for (shape, [shortcuts, projections]) in
            [(Shape::Sd15, [14, 32]), (Shape::Sd21, [14, 0]), (Shape::Sdxl, [11, 0])]
        {
            let weights = weights(shape).unwrap();
            let convolutions = |module: &str| {
                let specs = weights.iter().flat_map(|(_, specs)| specs);
                let of_module = specs.filter(|spec| spec.name.ends_with(&format!("{module}.weight")));
                of_module.filter(|spec| published_shape(shape, spec).ends_with(&[1, 1])).count()
            };
            // Four more shortcuts are in the autoencoder.
            assert_eq!(convolutions(".conv_shortcut"), shortcuts + 4, "{shape:?}");
            assert_eq!(convolutions(".proj_in") + convolutions(".proj_out"), projections, "{shape:?}");
            assert_eq!(convolutions("quant_conv"), 2, "{shape:?}");
            assert_eq!(convolutions(".to_q"), 0, "{shape:?}");
        }
    }

    #[test]
    fn precisions_keep_their_sizes() {
        for (precision, largest) in
            [(Precision::Q8, 1100.0), (Precision::Mixed, 800.0), (Precision::Q4, 620.0)]
        {
            let found = megabytes(precision) + 1.0;
            assert!(found < largest && found > 0.95 * largest, "{}: {found:.1} MB", precision.name());
        }
    }
}
