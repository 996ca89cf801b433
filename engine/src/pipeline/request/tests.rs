use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Any request without pictures.
fn requests() -> impl Strategy<Value = Request> {
    let texts = (".{0,20}", ".{0,20}", proptest::option::of("[a-z0-9_]{1,8}"));
    let sizes = proptest::option::of(0..100_000_usize);
    let float = || proptest::option::of(proptest::num::f32::NORMAL | proptest::num::f32::ZERO);
    let reading = (any::<bool>(), proptest::option::of(0..40_usize));
    let variation = proptest::option::of((any::<u64>(), -1.0..2.0_f64));
    let caching = prop_oneof![
        Just(Caching::None),
        (2..9_usize, 0..9_usize).prop_map(|(every, skip)| Caching::Deep { every, skip }),
        (2..9_usize).prop_map(|every| Caching::Guidance { every }),
    ];
    let options = proptest::collection::vec(("[a-z]{1,9}", ".{0,9}"), 0..4);
    let numbers = (sizes.clone(), sizes.clone(), sizes, any::<u64>(), 1..9_usize);
    let scales = (float(), float(), float(), proptest::option::of(0.0..1.0_f64));
    (texts, numbers, scales, reading, variation, caching, options).prop_map(
        |(texts, numbers, scales, (plain, clip_skip), variation, caching, mut options)| {
            options.sort();
            options.dedup_by(|a, b| a.0 == b.0);
            Request {
                prompt: texts.0,
                negative_prompt: texts.1,
                scheduler: texts.2,
                width: numbers.0,
                height: numbers.1,
                steps: numbers.2,
                seed: numbers.3,
                count: numbers.4,
                guidance_scale: scales.0,
                image_guidance_scale: scales.1,
                guidance_rescale: scales.2.unwrap_or(0.0),
                strength: scales.3,
                reading: PromptReading {
                    syntax: if plain { PromptSyntax::Plain } else { PromptSyntax::Weighted },
                    clip_skip,
                },
                variation: variation.map(|(seed, strength)| Variation { seed, strength }),
                caching,
                scheduler_options: options,
                mask_blur: plain.then_some(7),
                paste: !plain,
                only_masked: plain.then_some(u16::MAX),
                masked_content: if plain { MaskedContent::Noise } else { MaskedContent::Original },
                init_image: None,
                mask: None,
            }
        },
    )
}

#[test]
fn the_keys_are_those_of_the_json_form() {
    let request = Request {
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        scheduler: Some("ddim".to_owned()),
        guidance_scale: Some(2.0),
        reading: PromptReading { syntax: PromptSyntax::Plain, clip_skip: Some(2) },
        guidance_rescale: 0.5,
        variation: Some(Variation { seed: 1, strength: 0.5 }),
        caching: Caching::Guidance { every: 2 },
        strength: Some(0.5),
        image_guidance_scale: Some(1.5),
        mask_blur: Some(4),
        paste: false,
        only_masked: Some(32),
        masked_content: MaskedContent::Nothing,
        count: 2,
        ..Request::new("a cat")
    };
    let json = serde_json::to_value(&request).unwrap();
    let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = Request::KEYS.to_vec();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(request in requests()) {
        let text = serde_json::to_string(&request).unwrap();
        prop_assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}

#[test]
fn the_spelling_stays_as_it_is() {
    let request = Request::new("a \"quoted\" fox, 狐")
        .negative_prompt("x")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) })
        .size(512, 768)
        .steps(30)
        .scheduler("ddim")
        .scheduler_option("eta", "0.5")
        .guidance_scale(7.1)
        .guidance_rescale(0.7)
        .seed(u64::MAX)
        .variation(3, 0.1)
        .caching(Caching::Deep { every: 3, skip: 1 });
    let expected = json!({
        "prompt": "a \"quoted\" fox, 狐", "negative_prompt": "x", "width": 512, "height": 768, "steps": 30,
        "scheduler": "ddim", "scheduler_options": { "eta": "0.5" }, "guidance_scale": 7.1, "seed": u64::MAX,
        "clip_skip": 2, "guidance_rescale": 0.7, "variation_seed": 3, "variation_strength": 0.1,
        "cache": "deepcache:3:1",
    });
    assert_eq!(serde_json::to_value(&request).unwrap(), expected);
    // Options as numbers, and as the pairs of older saved runs.
    for options in [json!({ "eta": 0.5 }), json!([["eta", "0.5"]])] {
        let mut older = expected.clone();
        older["scheduler_options"] = options;
        older["strength"] = Value::Null;
        assert_eq!(serde_json::from_value::<Request>(older).unwrap(), request);
    }
}

#[test]
fn what_is_open_or_off_is_absent() {
    let json = serde_json::to_value(Request::default()).unwrap();
    let expected = json!({
        "prompt": "", "negative_prompt": "", "scheduler_options": {}, "seed": 42, "plain_prompt": true,
    });
    assert_eq!(json, expected);
    // An empty object is a request that reads prompts with their weights.
    let empty: Request = serde_json::from_value(json!({})).unwrap();
    let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None };
    assert_eq!(empty, Request { reading, ..Request::default() });
    let picture = Picture { width: 1, height: 1, rgb: vec![0; 3] };
    let mask = Mask { width: 1, height: 1, values: vec![0] };
    let with_pictures = Request::default().init_image(picture).mask(mask);
    assert_eq!(serde_json::to_value(with_pictures).unwrap(), expected, "pictures are no part of it");
}

#[test]
fn each_setter_sets_its_field_alone() {
    let mask = || Mask { width: 1, height: 1, values: vec![0] };
    let picture = || Picture { width: 1, height: 1, rgb: vec![0; 3] };
    let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) };
    let variation = Variation { seed: 3, strength: 0.5 };
    let caching = Caching::Guidance { every: 2 };
    let open = Request::default;
    for (set, expected) in [
        (Request::new("a"), Request { prompt: "a".to_owned(), ..open() }),
        (open().negative_prompt("a"), Request { negative_prompt: "a".to_owned(), ..open() }),
        (open().reading(reading), Request { reading, ..open() }),
        (open().size(8, 16), Request { width: Some(8), height: Some(16), ..open() }),
        (open().steps(3), Request { steps: Some(3), ..open() }),
        (open().scheduler("ddim"), Request { scheduler: Some("ddim".to_owned()), ..open() }),
        (open().guidance_scale(2.0), Request { guidance_scale: Some(2.0), ..open() }),
        (open().guidance_rescale(0.5), Request { guidance_rescale: 0.5, ..open() }),
        (open().image_guidance_scale(2.0), Request { image_guidance_scale: Some(2.0), ..open() }),
        (open().seed(7), Request { seed: 7, ..open() }),
        (open().variation(3, 0.5), Request { variation: Some(variation), ..open() }),
        (open().count(3), Request { count: 3, ..open() }),
        (open().strength(0.5), Request { strength: Some(0.5), ..open() }),
        (open().init_image(picture()), Request { init_image: Some(picture()), ..open() }),
        (open().mask_blur(3), Request { mask_blur: Some(3), ..open() }),
        (open().paste(false), Request { paste: false, ..open() }),
        (open().only_masked(0), Request { only_masked: Some(0), ..open() }),
        (
            open().masked_content(MaskedContent::Noise),
            Request { masked_content: MaskedContent::Noise, ..open() },
        ),
        (open().mask(mask()), Request { mask: Some(mask()), ..open() }),
        (open().caching(caching), Request { caching, ..open() }),
    ] {
        assert_eq!(set, expected);
    }
    let options = open().scheduler_option("b", "1").scheduler_option("a", "2").scheduler_options;
    assert_eq!(options, [("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]);
}

#[test]
fn values_of_another_kind_are_refused() {
    for wrong in [
        json!({ "prompt": 1 }),
        json!({ "width": -8 }),
        json!({ "width": 8.5 }),
        json!({ "seed": -1 }),
        json!({ "seed": null }),
        json!({ "count": "1" }),
        json!({ "guidance_scale": "7" }),
        json!({ "scheduler_options": "eta=1" }),
        json!({ "scheduler_options": [["eta"]] }),
        json!({ "cache": "deepcache" }),
        json!({ "cache": 3 }),
        json!({ "plain_prompt": "yes" }),
        json!([]),
    ] {
        assert!(serde_json::from_value::<Request>(wrong.clone()).is_err(), "{wrong}");
    }
    let options = json!({ "scheduler_options": { "a": true, "b": 1, "c": "x", "d": null } });
    let read: Request = serde_json::from_value(options).unwrap();
    let values: Vec<&str> = read.scheduler_options.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["true", "1", "x", "null"]);
}

proptest! {
    #[test]
    fn a_number_is_written_as_it_was_typed(hundredths in -100_000..100_000_i32, any in any::<f32>()) {
        let typed = f64::from(hundredths) / 100.0;
        prop_assert_eq!(as_typed(typed as f32), typed);
        // Converting back is exact for every number.
    prop_assert!(any.is_nan() || (as_typed(any) as f32).to_bits() == any.to_bits(), "{}", any);
    }
}
