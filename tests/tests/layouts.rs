//! Single files of the published models, with their complete lists of names and shapes: every weight is
//! found, and no tensor is left over.

use std::{collections::BTreeMap, fs};

use sdq_engine::{
    families::{Certainty, Prediction},
    models::{
        naming::Names,
        unet::{UNetConfig, UNetStructure},
    },
    published::{PublishedComponent, PublishedModel},
};
use sdq_formats::{WeightType, checkpoint::Checkpoint, tensor::TensorView};
use sdq_tests::{
    command,
    goldens::{FAMILIES, TINY},
    models::Model,
    single_file::{Published, described, rows},
};

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// The weights that the model reads, such as `unet.conv_in.weight`, with their tensors.
fn weights(model: &PublishedModel) -> BTreeMap<String, TensorView<'_>> {
    fn of(component: &PublishedComponent) -> impl Iterator<Item = (String, TensorView<'_>)> {
        let tensors = component.tensors().unwrap().into_iter();
        tensors.map(|(name, tensor)| (format!("{}.{name}", component.name()), tensor))
    }
    model.components().iter().flat_map(of).collect()
}

#[test]
fn every_weight_of_the_published_models_is_found_where_it_lies() {
    for family in ["sd15", "sd21", "sdxl"] {
        let rows = rows(family);
        let published = Published::new(&rows);
        let model = published.open();
        let mut weights = weights(&model);
        let source = Checkpoint::open(published.file()).unwrap();
        let places: BTreeMap<String, usize> =
            source.tensors().map(|tensor| (tensor.name.clone(), tensor.bytes.as_ptr().addr())).collect();
        // Both maps are of the same file; only its address in memory differs.
        let (first, _, _) = &rows[0];
        let shift = |address: usize| address.wrapping_sub(places[first]);
        let own_first = weights["unet.conv_in.weight"].bytes.as_ptr().addr();
        for (name, shape, diffusers) in &rows {
            let mut place = places[name];
            for weight in diffusers {
                let tensor = weights.remove(weight).unwrap_or_else(|| panic!("{family}: no {weight}"));
                if name.ends_with(".text_projection") {
                    assert_eq!(tensor.shape, [shape[1], shape[0]], "{name}");
                    continue;
                }
                let found = tensor.bytes.as_ptr().addr().wrapping_sub(own_first);
                assert_eq!(found, shift(place), "{family}: {weight} is not in {name}");
                place += tensor.bytes.len();
                assert_eq!(
                    tensor.shape.iter().product::<usize>() * diffusers.len(),
                    shape.iter().product::<usize>()
                );
            }
        }
        assert!(weights.is_empty(), "{family}: surplus {:?}", weights.keys().collect::<Vec<_>>());
        let expected: usize = described(&model).weights().iter().map(|(_, specs)| specs.len()).sum();
        assert_eq!(expected, rows.iter().map(|(_, _, diffusers)| diffusers.len()).sum::<usize>(), "{family}");
    }
}

#[test]
fn a_dry_run_accepts_them_and_writes_nothing() {
    for (family, words) in [
        ("sd15", ["unet: 859.5 M", "predicts noise (epsilon), as its family does"]),
        ("sd21", ["unet: 865.9 M", "or noise, because the file does not say"]),
        ("sdxl", ["unet: 2567.5 M", "predicts noise (epsilon), or velocity, because the file does not say"]),
    ] {
        let published = Published::new(&rows(family));
        let file = published.file();
        let args =
            ["convert".as_ref(), file.as_os_str(), "--dry-run".as_ref(), "--type".as_ref(), "q8".as_ref()];
        let outcome = command::run(SDQ, published.folder(), &args);
        let said = outcome.errors + &outcome.output;
        assert_eq!(outcome.code, 0, "{family}: {said}");
        assert!(words.iter().all(|words| said.contains(words)), "{family}: {said}");
        assert_eq!(fs::read_dir(published.folder()).unwrap().count(), 1, "{family}");
    }
}

/// The keys in the configs of the published directories of these models that affect the picture.
#[test]
fn configs_are_those_of_the_published_directories() {
    let heads = |family: &str| {
        let model = Published::new(&rows(family)).open();
        let described = described(&model);
        let scheduler = described.scheduler.class_name.clone().unwrap();
        let config = |name: &str| model.component(name).unwrap().config();
        let encoders = described.text_encoders.iter().map(|encoder| config(encoder.component()));
        let heads = encoders.map(|config| config["num_attention_heads"].as_u64().unwrap());
        let layers: Vec<usize> = described.text_encoders.iter().map(|encoder| encoder.blocks()).collect();
        (
            UNetConfig::from_json(config("unet")).unwrap().num_attention_heads,
            heads.collect::<Vec<_>>(),
            layers,
            scheduler,
            described.autoencoder.scaling_factor(),
        )
    };
    assert_eq!(heads("sd15"), (vec![8; 4], vec![12], vec![12], "PNDMScheduler".to_owned(), 0.18215));
    assert_eq!(heads("sd21"), (vec![5, 10, 20, 20], vec![16], vec![23], "DDIMScheduler".to_owned(), 0.18215));
    let scheduler = "EulerDiscreteScheduler".to_owned();
    assert_eq!(heads("sdxl"), (vec![5, 10, 20], vec![12, 20], vec![12, 32], scheduler, 0.13025));
}

#[test]
fn the_size_goes_with_the_prediction() {
    let mut model = Published::new(&rows("sd21")).open();
    let size = |model: &PublishedModel| described(model).denoiser.sample_size();
    assert_eq!(size(&model), Some((96, 96)));
    model.set_prediction(Prediction::Epsilon, Certainty::Measured);
    assert_eq!(size(&model), Some((64, 64)));
    let scheduler = described(&model).scheduler.prediction_type;
    assert_eq!(format!("{scheduler:?}"), "Epsilon");
}

#[test]
fn markers_tell_velocity_from_noise() {
    let training = |family: &str, marker: Option<&str>| {
        let mut rows = rows(family);
        rows.extend(marker.map(|marker| (marker.to_owned(), vec![0], Vec::new())));
        let training = Published::new(&rows).open().training().unwrap();
        (training.prediction, training.certainty, training.zero_snr)
    };
    assert_eq!(training("sd15", None), (Prediction::Epsilon, Certainty::Family, false));
    assert_eq!(training("sd21", None), (Prediction::V, Certainty::Guess, false));
    assert_eq!(training("sdxl", Some("v_pred")), (Prediction::V, Certainty::Marked, false));
    assert_eq!(training("sdxl", Some("ztsnr")), (Prediction::V, Certainty::Guess, true));
    assert_eq!(training("sdxl", None), (Prediction::Epsilon, Certainty::Guess, false));
}

/// U-Nets without a middle, with unequal layers, with transformers without blocks: every structure of the
/// goldens.
#[test]
fn every_structure_is_the_same_in_both_conventions() {
    for name in TINY.into_iter().chain(FAMILIES) {
        let pipeline = Model::convert(name, WeightType::F32).open(1);
        let specs = pipeline.weights().into_iter().find(|(component, _)| *component == "unet").unwrap().1;
        let names: Names = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        let structure = UNetStructure::of(&names, "").unwrap();
        let modules = structure.modules();
        let original: Names = specs
            .iter()
            .map(|spec| (format!("p.{}", modules.from_diffusers(&spec.name)), spec.shape.clone()))
            .collect();
        assert!(original.has("p.input_blocks.0.0.weight"), "{name}");
        assert_eq!(original.iter().count(), specs.len(), "{name}: two weights of one name");
        assert_eq!(UNetStructure::of(&original, "p.").unwrap(), structure, "{name}");
        for spec in &specs {
            assert_eq!(modules.to_diffusers(&modules.from_diffusers(&spec.name)), spec.name, "{name}");
        }
    }
}
