//! LoRAs as low-rank branches draw the same pictures as the model with the products merged into its weights.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use sdq::{
    Cancel, Watch,
    add_ons::{AddOns, LoraFile},
};
use sdq_engine::{
    Pipeline, Request, Tensor,
    adapters::lora::{self, Lora, Strength},
    models::{naming::Names, unet::UNetStructure},
    pipeline::Conditioning,
};
use sdq_formats::{WeightRole, WeightSpec, WeightType, checkpoint::Checkpoint, sdq::SdqFile};
use sdq_tests::{
    checkpoint::{ModelCopy, RawTensor, tensors_of, write_f32, write_raw},
    measure::relative_error,
    models::Model,
};
use tempfile::TempDir;

/// Tolerance between a branch and merged weights, both in f32.
const SAME: f64 = 1e-4;
const RANK: usize = 2;

/// The names of tensors in a LoRA file.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// Those of kohya's trainers.
    Kohya,
    /// The same, with the U-Net's names of the original code.
    KohyaOriginal,
    /// Those of peft, as diffusers saves them.
    Peft,
    /// Those of diffusers before peft.
    Processors,
}

/// A low-rank product for one layer.
struct Product {
    component: &'static str,
    spec: WeightSpec,
    /// `[rank, inputs · window]`
    down: Vec<f32>,
    /// `[outputs, rank]`
    up: Vec<f32>,
}

impl Product {
    fn new(component: &'static str, spec: &WeightSpec, seed: usize) -> Product {
        let value = |index: usize| ((index.wrapping_mul(7919) + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0;
        let inputs: usize = spec.shape[1..].iter().product();
        let down = (0..RANK * inputs).map(|index| value(index) * (3.0 / inputs as f32).sqrt()).collect();
        let up = (0..spec.shape[0] * RANK).map(|index| 0.3 * value(index + 5000)).collect();
        Product { component, spec: spec.clone(), down, up }
    }

    /// The term that merging adds to the weight, in its order.
    fn delta(&self, scale: f32) -> Vec<f32> {
        let inputs = self.down.len() / RANK;
        let element = |index: usize| {
            let (row, column) = (index / inputs, index % inputs);
            (0..RANK).map(|r| self.up[row * RANK + r] * self.down[r * inputs + column]).sum::<f32>() * scale
        };
        (0..self.spec.shape[0] * inputs).map(element).collect()
    }

    fn module(&self) -> &str {
        self.spec.name.strip_suffix(".weight").unwrap()
    }
}

/// A product for every layer of `components` that has one.
fn products(pipeline: &Pipeline, components: &[&str], seed: usize) -> Vec<Product> {
    let weights = pipeline.weights().into_iter().filter(|(component, _)| components.contains(component));
    let product = |(component, specs): (&'static str, Vec<WeightSpec>)| {
        let is_product = |spec: &&WeightSpec| matches!(spec.role, WeightRole::Matrix | WeightRole::Conv);
        let products = specs.iter().filter(is_product).enumerate();
        products.map(|(index, spec)| Product::new(component, spec, seed + index)).collect::<Vec<_>>()
    };
    weights.flat_map(product).collect()
}

/// Names of a product's halves, and of its alpha where such files have one.
fn names(product: &Product, style: Style, structure: &UNetStructure) -> (String, String, Option<String>) {
    let (component, module) = (product.component, product.module());
    match style {
        Style::Kohya | Style::KohyaOriginal => {
            let prefix = if component == "unet" { "lora_unet" } else { "lora_te" };
            let module = match (component, style) {
                ("unet", Style::KohyaOriginal) => structure.modules().from_diffusers(module),
                _ => module.to_owned(),
            };
            let key = format!("{prefix}_{}", module.replace('.', "_"));
            (format!("{key}.lora_down.weight"), format!("{key}.lora_up.weight"), Some(format!("{key}.alpha")))
        }
        Style::Peft => {
            let key = format!("{component}.{module}");
            (format!("{key}.lora_A.weight"), format!("{key}.lora_B.weight"), None)
        }
        Style::Processors => {
            let module = module.replace(".to_out.0", ".to_out");
            let (block, projection) = module.rsplit_once('.').unwrap();
            let key = format!("{component}.{block}.processor.{projection}_lora");
            (format!("{key}.down.weight"), format!("{key}.up.weight"), None)
        }
    }
}

/// A safetensors file with `products`, their alpha where there is one.
fn write(path: &Path, products: &[Product], style: Style, alpha: f32, structure: &UNetStructure) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for product in products {
        let (down, up, own_alpha) = names(product, style, structure);
        let window = &product.spec.shape[2..];
        let points = vec![1; window.len()];
        tensors.push((down, [&[RANK, product.spec.shape[1]], window].concat(), product.down.clone()));
        tensors.push((up, [&[product.spec.shape[0], RANK], points.as_slice()].concat(), product.up.clone()));
        tensors.extend(own_alpha.map(|name| (name, Vec::new(), vec![alpha])));
    }
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| (name.clone(), shape.as_slice(), values.as_slice()))
        .collect();
    write_f32(path, &tensors);
}

/// `pipeline` with the LoRAs in `files`, each at its strength.
fn adapted(pipeline: &Pipeline, files: &[(&Path, f32)]) -> Pipeline {
    let everywhere = |(path, strength): &(&Path, f32)| (path.to_path_buf(), Strength::everywhere(*strength));
    adapted_with(pipeline, &files.iter().map(everywhere).collect::<Vec<_>>())
}

/// `pipeline` with the LoRAs in `files`, each at its strengths.
fn adapted_with(pipeline: &Pipeline, files: &[(PathBuf, Strength)]) -> Pipeline {
    let targets = pipeline.weights();
    let checkpoints: Vec<_> = files.iter().map(|(path, _)| Checkpoint::open(path).unwrap()).collect();
    let loras = checkpoints.iter().zip(files).map(|(checkpoint, (_, strength))| {
        let lora = Lora::new(checkpoint, &targets).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((lora.applied(), lora.unmatched()), (lora.modules(), &[][..]));
        (lora, *strength)
    });
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("branches.sdq");
    lora::write(&loras.collect::<Vec<_>>(), &path).unwrap();
    pipeline.with_branches(SdqFile::open(&path).unwrap()).unwrap()
}

/// The golden model `sd1` with `products` in its weights.
fn merged(products: &[(&Product, f32)]) -> Model {
    Model::convert_folder(merged_copy(products).path(), WeightType::F32)
}

fn merged_copy(products: &[(&Product, f32)]) -> ModelCopy {
    let copy = ModelCopy::of("sd1");
    for (component, file) in [
        ("unet", "unet/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
    ] {
        copy.edit_tensors(file, |tensors| {
            for (product, scale) in products.iter().filter(|(product, _)| product.component == component) {
                add(tensors, product, *scale);
            }
        });
    }
    copy
}

fn add(tensors: &mut [RawTensor], product: &Product, scale: f32) {
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == product.spec.name).unwrap();
    assert_eq!(tensor.dtype, "F32");
    for (bytes, delta) in tensor.bytes.chunks_exact_mut(4).zip(product.delta(scale)) {
        let value = f32::from_le_bytes(bytes.try_into().unwrap()) + delta;
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

fn latents(pipeline: &Pipeline) -> Tensor {
    let request = Request {
        prompt: "a red apple".to_owned(),
        negative_prompt: "blurry".to_owned(),
        width: Some(32),
        height: Some(40),
        steps: Some(4),
        scheduler: Some("ddim".to_owned()),
        ..Request::default()
    };
    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().latents
}

fn structure(pipeline: &Pipeline) -> UNetStructure {
    let specs = pipeline.weights().into_iter().find(|(component, _)| *component == "unet").unwrap().1;
    let names: Names = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
    UNetStructure::of(&names, "").unwrap()
}

#[test]
fn a_branch_is_what_merging_is_under_every_naming() {
    let model = Model::convert("sd1", WeightType::F32);
    let pipeline = model.open(2);
    let plain = latents(&pipeline);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    for (style, alpha, strength) in [
        (Style::Kohya, 1.0, 0.8),
        (Style::KohyaOriginal, 3.0, 0.5),
        (Style::Peft, 2.0, 0.7),
        (Style::Processors, 2.0, -0.6),
    ] {
        let components: &[&str] =
            if matches!(style, Style::Processors) { &["unet"] } else { &["unet", "text_encoder"] };
        let mut products = products(&pipeline, components, 1);
        if matches!(style, Style::Processors) {
            // Attention processors cover only these layers.
            products.retain(|product| product.spec.name.contains(".attn"));
        }
        write(&path, &products, style, alpha, &structure(&pipeline));
        let found = latents(&adapted(&pipeline, &[(&path, strength)]));
        let scale = strength * alpha / RANK as f32;
        let deltas: Vec<_> = products.iter().map(|product| (product, scale)).collect();
        let expected = latents(&merged(&deltas).open(2));
        let error = relative_error(found.values(), expected.values());
        let change = relative_error(found.values(), plain.values());
        println!("{style:?}: {error:.1e} from merged, {change:.2} from the model without");
        assert!(error < SAME, "{style:?}: {error}");
        assert!(change > 0.05, "{style:?} changes next to nothing: {change}");
    }
}

#[test]
fn text_encoders_and_unet_may_have_strengths_of_their_own() {
    let pipeline = Model::convert("sd1", WeightType::F32).open(2);
    let products = products(&pipeline, &["unet", "text_encoder"], 1);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    write(&path, &products, Style::Kohya, RANK as f32, &structure(&pipeline));
    let strength = Strength { text_encoders: 0.8, others: 0.3 };
    let found = latents(&adapted_with(&pipeline, &[(path.clone(), strength)]));
    let scale = |product: &Product| if product.component == "unet" { 0.3 } else { 0.8 };
    let deltas: Vec<_> = products.iter().map(|product| (product, scale(product))).collect();
    let error = relative_error(found.values(), latents(&merged(&deltas).open(2)).values());
    assert!(error < SAME, "{error}");
    let alike = latents(&adapted(&pipeline, &[(&path, 0.3)]));
    assert!(relative_error(found.values(), alike.values()) > 0.01);
}

#[test]
fn several_add_up_and_none_is_none() {
    let model = Model::convert("sd1", WeightType::F32);
    let pipeline = model.open(2);
    let folder = TempDir::new().unwrap();
    let paths = ["one", "two"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let of_two = [products(&pipeline, &["unet"], 1), products(&pipeline, &["unet", "text_encoder"], 99)];
    for (path, products) in paths.iter().zip(&of_two) {
        write(path, products, Style::Kohya, RANK as f32, &structure(&pipeline));
    }
    let found = latents(&adapted(&pipeline, &[(&paths[0], 0.5), (&paths[1], 0.3)]));
    let first = of_two[0].iter().map(|product| (product, 0.5));
    let deltas: Vec<_> = first.chain(of_two[1].iter().map(|product| (product, 0.3))).collect();
    let expected = latents(&merged(&deltas).open(2));
    let error = relative_error(found.values(), expected.values());
    assert!(error < SAME, "{error}");
    let none = latents(&adapted(&pipeline, &[(&paths[0], 0.0)]));
    assert_eq!(none.values(), latents(&pipeline).values());
}

/// The branch is in floats for any type of the model's weights: it has no rounding error, and does not affect
/// the weights.
#[test]
fn on_a_quantized_model_a_branch_is_as_near_as_quantizing_again() {
    let exact = Model::convert("sd1", WeightType::F32).open(2);
    let quantized = Model::convert("sd1", WeightType::Q8);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    let products = products(&exact, &["unet"], 1);
    write(&path, &products, Style::Kohya, RANK as f32, &structure(&exact));
    let conditioning = Conditioning {
        text_states: exact.encode_prompts(&["a red apple"]).unwrap().text_states,
        added: None,
        guidance_scale: None,
    };
    let noise =
        Tensor::new(vec![1, 4, 16, 16], (0..1024).map(|i| ((i * 37) % 101) as f32 / 29.0 - 1.7).collect());
    let noise = noise.unwrap();
    for strength in [0.1, 0.4] {
        let deltas: Vec<_> = products.iter().map(|product| (product, strength)).collect();
        let merged_copy = merged_copy(&deltas);
        let predict = |pipeline: &Pipeline| pipeline.predict_noise(&noise, 500.0, &conditioning).unwrap();
        let expected = predict(&Model::convert_folder(merged_copy.path(), WeightType::F32).open(2));
        let again = predict(&Model::convert_folder(merged_copy.path(), WeightType::Q8).open(2));
        let branch = predict(&adapted(&quantized.open(2), &[(&path, strength)]));
        let plain = predict(&quantized.open(2));
        let [branch, again, plain] =
            [branch, again, plain].map(|found| relative_error(found.values(), expected.values()));
        println!(
            "strength {strength}: branch {branch:.4}, quantized again {again:.4}, without the LoRA {plain:.4}"
        );
        assert!(branch < 1.2 * again && branch < plain / 2.0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Model::convert("sd1", WeightType::F32);
    let pipeline = model.open(2);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    let key = "lora_unet_mid_block_attentions_0_proj_in";
    let refused = |tensors: &[(&str, &[usize], &[f32])]| {
        let named: Vec<_> =
            tensors.iter().map(|(name, shape, values)| (format!("{key}{name}"), *shape, *values)).collect();
        write_f32(&path, &named);
        Lora::new(&Checkpoint::open(&path).unwrap(), &pipeline.weights()).unwrap_err().to_string()
    };
    let specs = pipeline.weights().into_iter().find(|(component, _)| *component == "unet").unwrap().1;
    let spec = specs.iter().find(|spec| spec.name == "mid_block.attentions.0.proj_in.weight").unwrap();
    let (outputs, inputs) = (spec.shape[0], spec.shape[1]);
    let zeros = vec![0.0; 4 * outputs.max(inputs)];
    let down = (".lora_down.weight", &[2, inputs][..], &zeros[..2 * inputs]);
    let up = (".lora_up.weight", &[outputs, 2][..], &zeros[..2 * outputs]);
    for (tensors, words) in [
        (vec![down], "has no `lora_up`"),
        (vec![up], "has no `lora_down`"),
        (vec![down, (".lora_up.weight", &[outputs, 3], &zeros[..3 * outputs])], "expected"),
        (
            vec![(".lora_down.weight", &[2, inputs + 1], &zeros[..2 * inputs + 2]), up],
            "the LoRA may be for another model",
        ),
        (
            vec![(".lora_down.weight", &[0, inputs], &[]), (".lora_up.weight", &[outputs, 0], &[])],
            "a rank of at least 1",
        ),
        (vec![down, up, (".alpha", &[], &[f32::NAN])], "expected a finite number"),
        (vec![down, up, (".dora_scale", &[1], &[1.0])], "DoRA"),
        (vec![(".hada_w1_a", &[1], &[1.0])], "LoHa"),
        (vec![(".lokr_w1", &[1], &[1.0])], "LoKr"),
        (vec![down, up, (".lora_magnitude_vector.weight", &[1], &[1.0])], "DoRA"),
        (vec![down, up, (".lora_B.bias", &[1], &[1.0])], "LoRA with biases"),
        (vec![(".weight", &[1], &[1.0]), (".on_input", &[], &[1.0])], "IA3"),
        (vec![(".a1.weight", &[1], &[1.0])], "GLoRA"),
        (vec![down, (".lora_A.weight", &[2, inputs], &zeros[..2 * inputs]), up], "the lora_down of module"),
        (
            vec![("_x.lora_down.weight", &[2, inputs], &zeros[..2 * inputs])],
            "the model has none of the 1 modules of the LoRA",
        ),
    ] {
        let message = refused(&tensors);
        assert!(message.contains(words), "{message}");
    }
}

/// The error for a file that is not a LoRA names its kind.
#[test]
fn files_that_are_no_loras_are_named() {
    let model = Model::convert("sd1", WeightType::F32);
    let weights = model.open(1).weights();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file.safetensors");
    for (name, shape, words) in [
        ("emb_params", &[1, 32][..], "a textual inversion; give it with --embedding"),
        ("model.diffusion_model.out.2.bias", &[1, 32, 1][..], "a model or a part of one"),
        ("text_model.embeddings.x", &[1, 32, 1], "a model or a part of one"),
        (
            "lora_unet_x.y",
            &[1, 32, 1],
            "a file without tensors of a LoRA, the first tensor of which is `lora_unet_x.y`",
        ),
    ] {
        write_f32(&path, &[(name, shape, &[0.0; 32][..])]);
        let refused = Lora::new(&Checkpoint::open(&path).unwrap(), &weights).unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

/// Every tensor of a file is used or reported as left out; an error about one names the user's file.
#[test]
fn every_tensor_of_a_file_is_accounted_for() {
    let model = Model::convert("sd1", WeightType::F32);
    let pipeline = model.open(2);
    let folder = TempDir::new().unwrap();
    let plain = folder.path().join("plain.safetensors");
    let products = products(&pipeline, &["unet"], 3);
    write(&plain, &products, Style::Kohya, 4.0, &structure(&pipeline));
    let expected = latents(&adapted(&pipeline, &[(&plain, 1.0)]));

    // Alphas of any number type, and names of adapters in the names of tensors.
    let copy = folder.path().join("copy.safetensors");
    for (dtype, four) in [
        ("I64", 4_i64.to_le_bytes().to_vec()),
        ("I32", 4_i32.to_le_bytes().to_vec()),
        ("U8", vec![4]),
        ("F64", 4_f64.to_le_bytes().to_vec()),
    ] {
        let mut tensors = tensors_of(&plain);
        for tensor in &mut tensors {
            if tensor.name.ends_with(".alpha") {
                (tensor.dtype, tensor.bytes) = (dtype.to_owned(), four.clone());
            }
            tensor.name = tensor.name.replace(".lora_down.weight", ".lora_A.my_style.weight");
            tensor.name = tensor.name.replace(".lora_up.weight", ".lora_B.my_style.weight");
        }
        write_raw(&copy, &tensors);
        let found = latents(&adapted(&pipeline, &[(&copy, 1.0)]));
        assert_eq!(found.values(), expected.values(), "{dtype}");
    }

    // Words that come with the LoRA, and unknown tensors.
    let mut tensors = tensors_of(&plain);
    let vector = |name: &str, values: &[f32]| RawTensor {
        name: name.to_owned(),
        dtype: "F32".to_owned(),
        shape: vec![values.len() / 32, 32],
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    tensors.push(vector("bundle_emb.my toy.clip_l", &[0.3; 64]));
    tensors.push(vector("surprise", &[0.0; 32]));
    write_raw(&copy, &tensors);
    let lora = |strength| LoraFile { path: copy.clone(), strength, text_strength: None };
    let apply = |add_ons: AddOns| {
        let mut notes = Vec::new();
        let mut observer = |event: sdq::Event| {
            if let sdq::Event::Note(note) = event {
                notes.push(note.to_string());
            }
        };
        let watch = &mut Watch::new(&mut observer, &Cancel::new());
        let adapted = add_ons.apply(pipeline.clone(), None, watch);
        adapted.map(|adapted| (adapted, notes))
    };
    let (bundled, notes) = apply(AddOns { loras: vec![lora(1.0)], ..AddOns::default() }).unwrap();
    let layers = products.len();
    let ends = [
        format!("the LoRA changes {layers} of {layers} layers with strength 1"),
        ": tensors that belong to no LoRA or embedding are left out: surprise".to_owned(),
        ": `my toy` stands for 2 vectors".to_owned(),
    ];
    assert_eq!(notes.len(), ends.len(), "{notes:?}");
    assert!(notes.iter().zip(&ends).all(|(note, end)| note.ends_with(end)), "{notes:?}");
    let states = |pipeline: &Pipeline| pipeline.encode_prompts(&["a my toy"]).unwrap().text_states;
    assert_ne!(states(&bundled).values(), states(&pipeline).values());

    // The error names the file and the tensor, and not the temporary file with the prepared branches.
    let tensor = tensors.iter_mut().find(|tensor| tensor.name.ends_with("lora_up.weight")).unwrap();
    tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let name = tensor.name.clone();
    write_raw(&copy, &tensors);
    let refused = apply(AddOns { loras: vec![lora(1.0)], ..AddOns::default() }).unwrap_err().to_string();
    assert!(refused.contains("copy.safetensors") && refused.contains(&name), "{refused}");
    assert!(!refused.contains("branches.sdq"), "{refused}");
}
