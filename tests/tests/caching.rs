//! Step caching: compared with diffusers using the same caches, and independent of everything but the
//! request.

use std::{collections::BTreeMap, ops::ControlFlow};

use sdq_engine::{Error, Event, Generated, Picture, Pipeline, Request, SavedRun, pipeline::Caching};
use sdq_formats::WeightType;
use sdq_tests::{
    goldens::{EndToEnd, Goldens},
    measure::{LATENT_ERROR, PICTURE_DB, Table, psnr, relative_error},
    models::Model,
};
use tempfile::TempDir;

/// Both kinds, the first one with several depths.
const KINDS: [Caching; 3] = [
    Caching::Deep { every: 3, skip: 0 },
    Caching::Deep { every: 2, skip: 2 },
    Caching::Guidance { every: 3 },
];

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

/// Latents as bits.
fn bits(generated: &Generated) -> Vec<u32> {
    generated.latents.values().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn caches_give_what_diffusers_gives_with_them() {
    let goldens = Goldens::load("caching");
    let mut models: BTreeMap<&str, (Model, Pipeline)> = BTreeMap::new();
    let mut table = Table::default();
    for case in &goldens.manifest.end_to_end {
        let EndToEnd { model, cache, .. } = case;
        let name = model.as_deref().unwrap();
        let (_, pipeline) = models.entry(name).or_insert_with(|| {
            let model = Model::convert(name, WeightType::F32);
            let pipeline = model.open(2);
            (model, pipeline)
        });
        let label = format!("{} {} of {name}", cache.as_deref().unwrap(), case.label());
        let request = case.request();
        let found = generate(pipeline, &request);
        let expected = goldens.tensor(&case.case, "latents");
        table.at_most(&label, relative_error(found.latents.values(), expected.values()), LATENT_ERROR);
        table.at_least(&label, psnr(&found.pictures[0].rgb, &goldens.picture(&case.case).1), PICTURE_DB);
        // Without caches the result differs, so the case would detect a cache that is not used.
        let full = generate(pipeline, &request.caching(Caching::None));
        let distance = relative_error(full.latents.values(), expected.values());
        table.at_most(
            &format!("{label}, in units of its distance to no cache"),
            10.0 * LATENT_ERROR / distance,
            1.0,
        );
    }
    table.finish();
}

/// A picture depends neither on others in its batch nor on a memory limit that makes branches of guidance
/// take turns.
#[test]
fn a_cached_picture_depends_on_its_request_alone() {
    let pipeline = Model::convert("sd1", WeightType::F16).open(2);
    for caching in KINDS {
        let request = Request::new("a red apple").size(64, 64).steps(7).seed(3).caching(caching);
        let together = generate(&pipeline, &request.clone().count(5));
        for (image, picture) in together.pictures.iter().enumerate() {
            let alone = generate(&pipeline, &request.clone().seed(3 + image as u64));
            assert_eq!(alone.pictures[0], *picture, "picture {image} with {caching}");
        }
        let tight = match pipeline.with_max_memory(Some(1)).plan(&request) {
            Err(Error::DoesNotFit { needed, .. }) => pipeline.with_max_memory(Some(needed)),
            other => panic!("one byte is enough: {other:?}"),
        };
        assert!(tight.plan(&request).unwrap().batching.split_guidance);
        assert_eq!(bits(&generate(&tight, &request)), bits(&generate(&pipeline, &request)), "{caching}");
    }
}

/// Resumes at every evaluation, bit for bit, even with another memory limit: the caches are recomputed from
/// the input of the last full evaluation.
#[test]
fn a_cached_run_goes_on_from_every_step() {
    let pipeline = Model::convert("old", WeightType::F16).open(2);
    let rgb: Vec<u8> = (0..32 * 32 * 3).map(|value| (value % 251) as u8).collect();
    let picture = Picture { width: 32, height: 32, rgb };
    let plain = Request::new("a red apple").size(32, 32).steps(7).seed(3);
    let requests = [
        // Two evaluations per step.
        plain.clone().scheduler("heun"),
        plain.clone().scheduler("dpm_multistep").count(3),
        // Starts in the middle of the schedule.
        plain.clone().init_image(picture).strength(0.7),
    ];
    for (caching, request) in KINDS.into_iter().flat_map(|kind| requests.iter().map(move |r| (kind, r))) {
        let request = request.clone().caching(caching);
        let expected = generate(&pipeline, &request);
        let least = match pipeline.with_max_memory(Some(1)).plan(&request) {
            Err(Error::DoesNotFit { needed, .. }) => needed,
            other => panic!("one byte is enough: {other:?}"),
        };
        let tight = pipeline.with_max_memory(Some(least));
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("x.sdq-run");
        let mut step = 0;
        let mut observer = |event: Event<'_>| {
            if let Event::Saveable(checkpoint) = event {
                checkpoint.save(&path, &[]).unwrap();
                let saved = SavedRun::open(&path).unwrap();
                assert_eq!(saved.request().caching, caching);
                let pipeline = if step % 2 == 0 { &pipeline } else { &tight };
                let found = pipeline.resume(&saved, &mut |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(bits(&found), bits(&expected), "{caching} from {step}");
                step += 1;
            }
            ControlFlow::Continue(())
        };
        pipeline.generate(&request, &mut observer).unwrap();
        assert!(step >= 5, "{step}");
    }
}

/// The deepest layers are the most expensive; without guidance there is none to cache.
#[test]
fn caches_that_cannot_be_are_refused_and_idle_ones_change_nothing() {
    let refused = |model: &str, caching, word: &str| {
        let pipeline = Model::convert(model, WeightType::F16).open(1);
        match pipeline.settings(&Request::new("x").caching(caching)) {
            Err(error @ Error::Request { field: "cache", .. }) => {
                assert!(error.to_string().contains(word), "{error}");
            }
            other => panic!("{caching} of {model}: {other:?}"),
        }
    };
    for every in [0, 1] {
        refused("old", Caching::Deep { every, skip: 0 }, "at least 2");
        refused("old", Caching::Guidance { every }, "at least 2");
    }
    // Two levels of one layer: four skips, with only the middle below the last.
    refused("old", Caching::Deep { every: 2, skip: 4 }, "a skip from 0 to 3");
    refused("old", Caching::Deep { every: 2, skip: usize::MAX }, "a skip from 0 to 3");

    let pipeline = Model::convert("old", WeightType::F16).open(2);
    let unguided = Request::new("a red apple").size(16, 16).steps(5).guidance_scale(1.0);
    let cached = generate(&pipeline, &unguided.clone().caching(Caching::Guidance { every: 2 }));
    assert_eq!(bits(&cached), bits(&generate(&pipeline, &unguided)));
}
