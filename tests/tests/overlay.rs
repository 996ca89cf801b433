//! A model with some weights from another file of the same model.

use std::{collections::HashSet, ops::ControlFlow};

use sdq_engine::{Error, Pipeline, Request, pipeline::Probe};
use sdq_formats::{WeightType, sdq::SdqFile};
use sdq_tests::models::Model;

fn draw(pipeline: &Pipeline) -> Vec<f32> {
    let request = Request {
        prompt: "a cat".to_owned(),
        width: Some(40),
        height: Some(56),
        steps: Some(2),
        ..Request::default()
    };
    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().latents.into_values()
}

#[test]
fn an_overlay_replaces_what_it_names_and_nothing_else() {
    let files = [WeightType::F32, WeightType::F16, WeightType::Q8].map(|t| Model::convert("sd1", t));
    let [f32s, f16s, q8s] = files.each_ref().map(|file| file.open(2));
    let file = SdqFile::open(files[0].path()).unwrap();
    let all: HashSet<String> = file
        .components()
        .flat_map(|c| c.weights().map(move |weight| format!("{}.{}", c.name(), weight.spec.name)))
        .collect();
    assert_eq!(draw(&f32s.with_overlay(&f16s, HashSet::new()).unwrap()), draw(&f32s));
    assert_eq!(draw(&f32s.with_overlay(&q8s, all.clone()).unwrap()), draw(&q8s));
    let one = HashSet::from(["unet.conv_in.weight".to_owned()]);
    let some = f32s.with_overlay(&f16s, one.clone()).unwrap();
    assert_ne!(draw(&some), draw(&f32s));
    assert_ne!(draw(&some), draw(&f16s));
    // The last one counts.
    let twice = f32s.with_overlay(&q8s, all.clone()).unwrap().with_overlay(&f16s, all).unwrap();
    assert_eq!(draw(&twice), draw(&f16s));
    assert_eq!(draw(&some.with_overlay(&f32s, one).unwrap()), draw(&f32s));
}

#[test]
fn another_model_is_no_overlay() {
    let [sd1, old] = ["sd1", "old"].map(|name| Model::convert(name, WeightType::F16));
    let refused = sd1.open(1).with_overlay(&old.open(1), HashSet::new());
    assert!(matches!(refused, Err(Error::Mismatch { .. })));
}

/// A probe detects a change of a component, and only of that one.
#[test]
fn a_probe_measures_the_component_that_changed() {
    let [f32s, q8s] = [WeightType::F32, WeightType::Q8].map(|t| Model::convert("sd1", t).open(2));
    let request = Request { width: Some(40), height: Some(56), steps: Some(4), ..Request::default() };
    let probe = Probe::new(&f32s, &request, 2, &mut |_| ControlFlow::Continue(())).unwrap();
    for (component, weight) in [
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1.weight"),
        ("unet", "mid_block.resnets.0.conv1.weight"),
        ("vae", "decoder.mid_block.resnets.0.conv1.weight"),
    ] {
        assert_eq!(probe.error(&f32s, component).unwrap(), 0.0);
        let changed = f32s.with_overlay(&q8s, HashSet::from([format!("{component}.{weight}")])).unwrap();
        for other in ["text_encoder", "unet", "vae"] {
            let error = probe.error(&changed, other).unwrap();
            assert!((error > 0.0) == (other == component) && error < 1e-2, "{component} {other} {error}");
        }
    }
    assert!(matches!(probe.error(&f32s, "encoder"), Err(Error::Request { .. })));
}
