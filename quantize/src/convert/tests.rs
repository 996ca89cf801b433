//! Conversions of small models within this process: the written file, the reported progress, and the errors.

use std::fs;
use std::path::PathBuf;

use sdq_formats::{
    dtype::DType,
    layout,
    sdq::{Manifest, SdqFile},
};
use serde_json::{Value, json};

use super::*;

/// A tensor's name, shape and bytes.
type Tensor = (&'static str, Vec<usize>, Vec<u8>);

/// A model of two components, its tensors as f32.
struct Model {
    tensors: BTreeMap<&'static str, Vec<Tensor>>,
    files: BTreeMap<String, PathBuf>,
    texts: Vec<(String, String)>,
    config: Value,
}

fn bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 * 0.5 - 3.0).collect()
}

impl Model {
    fn new() -> Model {
        let unet = vec![("w", vec![3, 4], bytes(numbers(12))), ("b", vec![3], bytes(numbers(3)))];
        let vae = vec![("c", vec![2, 1, 2, 2], bytes(numbers(8)))];
        Model {
            tensors: [("unet", unet), ("vae", vae)].into(),
            files: BTreeMap::new(),
            texts: vec![("LICENSE".to_owned(), "CC0".to_owned())],
            config: json!({"channels": 4}),
        }
    }

    /// The model with the tensors of its U-Net changed.
    fn with(change: impl FnOnce(&mut Vec<Tensor>)) -> Model {
        let mut model = Model::new();
        change(model.tensors.get_mut("unet").unwrap());
        model
    }

    fn source<'m>(&'m self) -> ModelSource<'m> {
        let view = |(name, shape, bytes): &'m Tensor| {
            let name = (*name).to_owned();
            (name.clone(), TensorView { name, dtype: DType::F32, shape: shape.clone(), bytes })
        };
        let components = self.tensors.iter().map(|(name, tensors)| ComponentSource {
            path: Path::new(*name),
            name,
            class_name: "Network",
            config: &self.config,
            tensors: tensors.iter().map(view).collect(),
            scales: BTreeMap::new(),
        });
        ModelSource {
            path: Path::new("model"),
            manifest: manifest(),
            components: components.collect(),
            texts: &self.texts,
            files: &self.files,
        }
    }

    /// Converts into a folder of its own. Returns the result, and the names of the files in the folder
    /// afterwards.
    fn convert(&self, plan: &Plan) -> (Result<Report, ConvertError>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.sdq");
        let result = convert(&self.source(), plan, None, &output, &mut |_| ControlFlow::Continue(()));
        let left = fs::read_dir(folder.path()).unwrap();
        (result, left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    fn refused(&self, plan: &Plan) -> String {
        let (result, left) = self.convert(plan);
        assert!(left.is_empty(), "{left:?}");
        result.expect_err("the model must be refused").to_string()
    }
}

fn manifest() -> Manifest {
    Manifest {
        name: "m".into(),
        description: String::new(),
        license: String::new(),
        pipeline_class: "StableDiffusionPipeline".into(),
        converter: "sdq 0.1.0".into(),
        defaults: json!({}),
        sources: Vec::new(),
        quantization: None,
    }
}

fn planned(name: &str, role: WeightRole, shape: &[usize], weight_type: WeightType) -> PlannedWeight {
    PlannedWeight { spec: WeightSpec::new(name, role, shape), weight_type, importance: None }
}

/// The plan of [`Model::new`].
fn plan() -> Plan {
    let unet = vec![
        planned("w", WeightRole::Matrix, &[3, 4], WeightType::F16),
        planned("b", WeightRole::Vector, &[3], WeightType::F32),
    ];
    let vae = vec![planned("c", WeightRole::Conv, &[2, 1, 2, 2], WeightType::F32)];
    let part = |component: &str, weights| Part { component: component.to_owned(), weights };
    Plan { parts: vec![part("vae", vae), part("unet", unet)], quantization: None }
}

#[test]
fn the_file_holds_the_plans_weights_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = folder.path().join("vocab.json");
    fs::write(&vocabulary, "{}").unwrap();
    let mut model = Model::new();
    model.files.insert("tokenizer/vocab.json".to_owned(), vocabulary);
    let output = folder.path().join("m.sdq");
    let mut told = Vec::new();
    let report = convert(&model.source(), &plan(), NonZeroUsize::new(2), &output, &mut |progress| {
        told.push((progress.done, progress.total, progress.component.to_owned()));
        ControlFlow::Continue(())
    })
    .unwrap();
    let len = fs::metadata(&output).unwrap().len();
    assert_eq!(report, Report { weights: 3, parameters: 8 + 12 + 3, bytes: len });
    assert_eq!(told, [(1, 3, "vae".into()), (2, 3, "unet".into()), (3, 3, "unet".into())]);

    let file = SdqFile::open(&output).unwrap();
    let weights: Vec<(&str, &str, WeightType)> = file
        .components()
        .flat_map(|component| {
            component.weights().map(move |w| (component.name(), w.spec.name.as_str(), w.weight_type))
        })
        .collect();
    assert_eq!(
        weights,
        [("vae", "c", WeightType::F32), ("unet", "w", WeightType::F16), ("unet", "b", WeightType::F32)]
    );
    for (component, name, count) in [("vae", "c", 8), ("unet", "w", 12), ("unet", "b", 3)] {
        let weight = file.component(component).unwrap().weight(name).unwrap();
        assert_eq!(layout::decode(weight.spec, &weight.data), numbers(count), "{name}");
    }
    assert_eq!(file.component("unet").unwrap().config(), &model.config);
    assert_eq!(file.text("LICENSE"), Some("CC0"));
    let sources = &file.manifest().sources;
    assert_eq!((sources[0].file.as_str(), sources[0].bytes), ("tokenizer/vocab.json", 2));
}

#[test]
fn a_matrix_may_come_as_a_convolution_of_one_tap_and_nothing_else_may() {
    let shaped =
        |shape: &[usize]| Model::with(|tensors| tensors[0].1 = shape.to_vec()).convert(&plan()).0.map(|_| ());
    for shape in [&[3, 4, 1, 1][..], &[3, 4, 1]] {
        assert!(shaped(shape).is_ok(), "{shape:?}");
    }
    for shape in [&[3, 2, 2, 1][..], &[4, 3], &[12], &[1, 3, 4], &[3, 4, 2]] {
        let message = shaped(shape).unwrap_err().to_string();
        assert_eq!(message, format!("unet: tensor `w` has the shape {shape:?}, expected [3, 4]"));
    }
    let vector = Model::with(|tensors| tensors[1].1 = vec![3, 1]);
    assert_eq!(vector.refused(&plan()), "unet: tensor `b` has the shape [3, 1], expected [3]");
    let mut convolution = Model::new();
    convolution.tensors.get_mut("vae").unwrap()[0].1 = vec![2, 4];
    assert_eq!(convolution.refused(&plan()), "vae: tensor `c` has the shape [2, 4], expected [2, 1, 2, 2]");
}

#[test]
fn tensors_and_components_must_be_those_of_the_plan() {
    let missing = Model::with(|tensors| drop(tensors.remove(1)));
    let requires =
        |tensor: &str| format!("unet: the model needs tensor `{tensor}`, which the weights do not contain");
    assert_eq!(missing.refused(&plan()), requires("b"));
    let surplus =
        Model::with(|tensors| tensors.extend([("x", vec![1], bytes([0.0])), ("y", vec![1], bytes([0.0]))]));
    assert_eq!(
        surplus.refused(&plan()),
        "unet: the weights contain tensors `x`, `y`, which the model does not use"
    );
    // A tensor with a wrong name is reported as missing before it is reported as surplus.
    let renamed = Model::with(|tensors| tensors[0].0 = "v");
    assert_eq!(renamed.refused(&plan()), requires("w"));

    let mut without = Model::new();
    without.tensors.remove("vae");
    assert_eq!(without.refused(&plan()), "model: the model has no component `vae`");
    let mut part = plan();
    part.parts.remove(0);
    let message = Model::new().refused(&part);
    assert_eq!(message, "model: component `vae` (Network) is not part of a model that sdq runs");

    let mut empty = Model::new();
    empty.tensors.values_mut().for_each(Vec::clear);
    let mut nothing = plan();
    nothing.parts.iter_mut().for_each(|part| part.weights.clear());
    assert_eq!(empty.refused(&nothing), "model: the model has no weights");
}

#[test]
fn check_says_what_convert_would_without_a_file() {
    assert!(check(&Model::new().source(), &plan()).is_ok());
    let renamed = Model::with(|tensors| tensors[0].0 = "v");
    let error = check(&renamed.source(), &plan()).unwrap_err();
    assert_eq!(error.to_string(), renamed.refused(&plan()));
    // Values are not checked.
    let infinite = Model::with(|tensors| tensors[1].2 = bytes([f32::INFINITY; 3]));
    assert!(check(&infinite.source(), &plan()).is_ok());
}

#[test]
fn values_that_cannot_be_stored_leave_no_file() {
    let with = |index: usize, at: usize, value: f32| {
        Model::with(|tensors| tensors[index].2[4 * at..][..4].copy_from_slice(&value.to_le_bytes()))
    };
    assert_eq!(
        with(0, 7, f32::NAN).refused(&plan()),
        "unet: weight `w` contains NaN at element 7; the checkpoint is damaged"
    );
    assert_eq!(
        with(1, 2, f32::NEG_INFINITY).refused(&plan()),
        "unet: weight `b` contains -inf at element 2; the checkpoint is damaged"
    );
    assert_eq!(
        with(0, 11, 65520.0).refused(&plan()),
        "unet: weight `w` contains 65520 at element 11, which is beyond the range of f16; use --type f32"
    );
    assert!(with(1, 2, 65520.0).convert(&plan()).0.is_ok(), "the vector is f32");
    let cut = Model::with(|tensors| {
        tensors[0].2.pop();
    });
    assert_eq!(cut.refused(&plan()), "unet: tensor `w` has 47 bytes, expected 48");
}

#[test]
fn a_conversion_stops_where_it_is_told_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("m.sdq");
    fs::write(&output, "old").unwrap();
    for stop in 1..=3 {
        let model = Model::new();
        let error = convert(&model.source(), &plan(), None, &output, &mut |progress| {
            if progress.done == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let expected = format!("stopped after {stop} of 3 tensors; nothing was written");
        assert_eq!(error.unwrap_err().to_string(), expected);
        assert_eq!(fs::read(&output).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_source_that_is_gone_is_named() {
    let mut model = Model::new();
    model.files.insert("unet/a.safetensors".to_owned(), PathBuf::from("/nonexistent/a.safetensors"));
    let message = model.refused(&plan());
    assert!(message.starts_with("/nonexistent/a.safetensors: "), "{message}");
}

#[test]
fn the_manifest_says_how_weights_were_quantized() {
    use sdq_formats::sdq::Quantization;
    let quantization =
        Quantization { recipes: vec!["unet: q8".into()], rules: vec!["w=q8".into()], calibration_prompts: 3 };
    let mut plan = plan();
    plan.parts[1].weights[0].weight_type = WeightType::Q8;
    plan.quantization = Some(quantization.clone());
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("m.sdq");
    convert(&Model::new().source(), &plan, None, &output, &mut |_| ControlFlow::Continue(())).unwrap();
    let file = SdqFile::open(&output).unwrap();
    assert_eq!(file.manifest().quantization, Some(quantization));
    let unet = file.component("unet").unwrap();
    assert!(unet.weight("w").unwrap().relative_error().is_some_and(|error| error < 0.01));
    assert_eq!(unet.weight("b").unwrap().relative_error(), None);
}
