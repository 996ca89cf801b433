use serde_json::json;

use super::*;

/// The recipe of a sampler with `inputs`, among `nodes`.
fn sampled(inputs: Value, mut nodes: Value) -> Found {
    nodes["sampler"] = json!({ "class_type": "KSampler", "inputs": inputs });
    read(&nodes).unwrap_or_else(|error| panic!("{error}"))
}

fn node(class: &str, inputs: Value) -> Value {
    json!({ "class_type": class, "inputs": inputs })
}

#[test]
fn the_sampler_of_a_saved_picture_goes_before_others() {
    let sampler = |steps: usize| node("KSampler", json!({ "steps": steps }));
    let saved = |from: &str| {
        json!({
            "1": sampler(11), "2": sampler(22),
            "3": node("VAEDecode", json!({ "samples": [from, 0] })),
            "4": node("SaveImage", json!({ "images": ["3", 0] })),
        })
    };
    for (from, steps) in [("1", 11), ("2", 22)] {
        assert_eq!(read(&saved(from)).unwrap().recipe.request.steps, Some(steps));
    }
    // If no picture is saved, the first sampler is used, under any name. `KSamplerSelect` only names a method.
    let found = read(&json!({
        "a": node("KSamplerSelect", json!({ "sampler_name": "lms" })),
        "b": node("KSampler (Efficient)", json!({ "steps": 7 })),
        "c": sampler(8),
    }))
    .unwrap();
    assert_eq!(found.recipe.request.steps, Some(7));
    assert_eq!(found.unused, ["node: KSamplerSelect", "node: KSampler"]);
}

#[test]
fn a_sampler_is_found_at_most_so_many_links_away() {
    let chain = |links: usize| {
        let mut graph = json!({ "0": node("KSampler", json!({ "steps": 5 })) });
        for link in 1..links {
            graph[link.to_string()] =
                node("LatentUpscale", json!({ "samples": [(link - 1).to_string(), 0] }));
        }
        graph["save"] = node("SaveImage", json!({ "images": [(links - 1).to_string(), 0] }));
        // It is the first in the file, and is used if the path is too long.
        graph["-"] = node("KSampler", json!({ "steps": 9 }));
        let first = json!({ "-": graph["-"] });
        let mut sorted = first;
        graph.as_object().unwrap().iter().for_each(|(name, node)| sorted[name] = node.clone());
        read(&sorted).unwrap().recipe.request.steps
    };
    assert_eq!([chain(1), chain(MAX_LINKS - 1)], [Some(5), Some(5)]);
    assert_eq!(chain(MAX_LINKS), Some(9));
}

#[test]
fn numbers_are_read_from_the_sampler_or_from_nodes_that_hold_them() {
    let nodes = json!({
        "seed": node("Seed", json!({ "seed": 7 })),
        "through": node("Reroute", json!({ "": ["seed", 0] })),
        "text": node("Text", json!({ "value": "8" })),
    });
    for (inputs, seed) in [
        (json!({ "seed": 5 }), 5),
        (json!({ "noise_seed": 6 }), 6),
        (json!({ "seed": ["seed", 0] }), 7),
        (json!({ "seed": ["through", 0] }), 7),
        (json!({ "seed": u64::MAX }), u64::MAX),
        // An invalid seed is ignored, so the default remains.
        (json!({ "seed": -1 }), 42),
        (json!({ "seed": 1.5 }), 42),
        (json!({ "seed": ["text", 0] }), 42),
        (json!({ "seed": ["nowhere", 0] }), 42),
        (json!({ "seed": [] }), 42),
    ] {
        let found = sampled(inputs.clone(), nodes.clone());
        assert_eq!(found.recipe.request.seed, seed, "{inputs}");
    }
}

/// A value is taken from a node that has no other; one that computes it of several is listed.
#[test]
fn values_that_a_node_computes_are_left_out() {
    let nodes = json!({
        "a": node("PrimitiveString", json!({ "value": "a cat" })),
        "b": node("PrimitiveString", json!({ "value": "in a hat" })),
        "joined": node("StringConcatenate",
            json!({ "delimiter": ", ", "string_a": ["a", 0], "string_b": ["b", 0] })),
        "upper": node("StringUpper", json!({ "string": ["a", 0] })),
        "through": node("Reroute", json!({ "": ["a", 0] })),
        "sum": node("Math", json!({ "a": 512, "b": 8, "op": "add" })),
        "text": node("CLIPTextEncode", json!({ "text": ["joined", 0] })),
        "plain": node("CLIPTextEncode", json!({ "text": ["through", 0] })),
        "changed": node("CLIPTextEncode", json!({ "text": ["upper", 0] })),
        "size": node("EmptyLatentImage", json!({ "width": ["sum", 0], "height": ["sum", 0] })),
    });
    for (positive, prompt, listed) in [
        ("text", "", &["node: StringConcatenate", "node: Math"][..]),
        ("plain", "a cat", &["node: Math"]),
        ("changed", "a cat", &["node: StringUpper", "node: Math"]),
    ] {
        let inputs = json!({ "positive": [positive, 0], "latent_image": ["size", 0] });
        let found = sampled(inputs, nodes.clone());
        let request = found.recipe.request;
        assert_eq!((&*request.prompt, request.width, request.height), (prompt, None, None));
        for unused in listed {
            assert_eq!(found.unused.iter().filter(|other| other == unused).count(), 1, "{unused}");
        }
    }
}

#[test]
fn a_circle_of_links_ends() {
    let nodes = json!({
        "a": node("Reroute", json!({ "conditioning": ["b", 0], "model": ["b", 0], "pixels": ["b", 0] })),
        "b": node("Reroute", json!({ "conditioning": ["a", 0], "model": ["a", 0], "pixels": ["a", 0] })),
    });
    let inputs = json!({
        "positive": ["a", 0], "model": ["a", 0], "latent_image": ["a", 0], "seed": ["a", 0], "steps": 3,
    });
    let found = sampled(inputs, nodes);
    assert_eq!((found.recipe.request.prompt.as_str(), found.recipe.request.steps), ("", Some(3)));
    assert!(found.recipe.loras.is_empty() && found.recipe.model.is_empty());
}

#[test]
fn a_part_of_the_noise_counts_only_from_a_picture() {
    let nodes = json!({
        "empty": node("EmptyLatentImage", json!({ "width": 64, "height": 96, "batch_size": 3 })),
        "encoded": node("VAEEncode", json!({ "pixels": ["loaded", 0] })),
        "loaded": node("LoadImage", json!({ "image": "in\\a/start.png" })),
        "scaled": node("ImageScale", json!({ "image": ["loaded", 0] })),
        "inpaint": node("VAEEncode", json!({ "pixels": ["scaled", 0] })),
    });
    let drawn = |latents: &str, denoise: f64| {
        let found = sampled(json!({ "latent_image": [latents, 0], "denoise": denoise }), nodes.clone());
        let is_of_sampler = |unused: &&String| !unused.starts_with("node: ");
        let unused: Vec<String> = found.unused.iter().filter(is_of_sampler).cloned().collect();
        (found.recipe.request.strength, found.recipe.init_image, unused)
    };
    let start = || Some("start.png".to_owned());
    assert_eq!(drawn("empty", 1.0), (None, None, vec!["batch_size: 3".to_owned()]));
    let both = vec!["batch_size: 3".to_owned(), "denoise: 0.5".to_owned()];
    assert_eq!(drawn("empty", 0.5), (None, None, both));
    assert_eq!(drawn("encoded", 0.5), (Some(0.5), start(), vec![]));
    assert_eq!(drawn("encoded", 1.0), (Some(1.0), start(), vec![]));
    assert_eq!(drawn("inpaint", 0.25), (Some(0.25), start(), vec![]));
    let found = sampled(json!({ "latent_image": ["empty", 0] }), nodes);
    assert_eq!((found.recipe.request.width, found.recipe.request.height), (Some(64), Some(96)));
}

#[test]
fn steps_that_are_left_out_are_named() {
    for (inputs, unused) in [
        (json!({ "start_at_step": 0, "end_at_step": 10_000 }), &[][..]),
        (json!({ "start_at_step": 4, "end_at_step": 10_000 }), &["start_at_step: 4"][..]),
        (json!({ "start_at_step": 0, "end_at_step": 20 }), &["end_at_step: 20"][..]),
    ] {
        assert_eq!(sampled(inputs, json!({})).unused, unused);
    }
}

#[test]
fn loras_are_listed_from_the_checkpoint_on() {
    let lora = |file: &str, model: &str, clip: f64| {
        node(
            "LoraLoader",
            json!({
                "lora_name": file, "strength_model": 0.5, "strength_clip": clip, "model": [model, 0],
            }),
        )
    };
    let nodes = json!({
        "unet": node("UNETLoader", json!({ "unet_name": "base.safetensors" })),
        "first": lora("sub/first.pt", "unet", 0.5),
        "second": lora("second.pt", "first", 0.25),
        "patch": node("FreeU", json!({ "model": ["second", 0], "b1": 1.3 })),
    });
    let found = sampled(json!({ "model": ["patch", 0] }), nodes);
    let text_strengths: Vec<Option<f32>> = found.recipe.loras.iter().map(|lora| lora.text_strength).collect();
    assert_eq!(text_strengths, [None, Some(0.25)]);
    let files: Vec<&str> = found.recipe.loras.iter().map(|lora| lora.file.as_str()).collect();
    assert_eq!(
        (files.as_slice(), found.recipe.model.as_str()),
        (&["first.pt", "second.pt"][..], "base.safetensors")
    );
    assert_eq!(found.unused, ["node: FreeU"]);
}

#[test]
fn prompts_are_found_through_what_changes_them() {
    let nodes = json!({
        "a": node("CLIPTextEncode", json!({ "text": "a cat <lora:ink:0.5>", "clip": ["skip", 0] })),
        "b": node("CLIPTextEncodeSDXL", json!({ "text_g": "a dog", "text_l": "a small dog", "clip": ["clip", 0] })),
        "same": node("CLIPTextEncodeSDXL", json!({ "text_g": "a dog", "text_l": "a dog" })),
        "area": node("ConditioningSetArea", json!({ "conditioning": ["a", 0] })),
        "joined": node("ConditioningCombine", json!({ "conditioning_1": ["same", 0], "conditioning_2": ["b", 0] })),
        "skip": node("CLIPSetLastLayer", json!({ "stop_at_clip_layer": -2, "clip": ["clip", 0] })),
        "clip": node("CLIPLoader", json!({})),
    });
    let found = |link: &str| {
        let found = sampled(json!({ "positive": [link, 0] }), nodes.clone());
        let unused =
            found.unused.iter().filter(|unused| !unused.starts_with("node: CLIP")).cloned().collect();
        (found.recipe.request.prompt, found.recipe.request.reading.clip_skip, unused)
    };
    let unused = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let rest = ["node: ConditioningSetArea", "node: ConditioningCombine"];
    assert_eq!(found("a"), ("a cat".to_owned(), Some(2), unused(&rest)));
    assert_eq!(found("area"), ("a cat".to_owned(), Some(2), unused(&rest)));
    assert_eq!(found("same"), ("a dog".to_owned(), None, unused(&rest)));
    assert_eq!(found("b").2, unused(&["text_l: a small dog", rest[0], rest[1]]));
    assert_eq!(found("joined").0, "a dog");
    assert_eq!(found("nowhere").0, "");
}

#[test]
fn a_graph_without_a_sampler_is_damaged() {
    for (graph, reason) in [
        (json!([]), "the graph is not an object of nodes"),
        (json!("text"), "the graph is not an object of nodes"),
        (json!({}), "the graph has no KSampler"),
        (json!({ "1": node("SaveImage", json!({})) }), "the graph has no KSampler"),
        (json!({ "1": { "class_type": 3 }, "2": 4 }), "the graph has no KSampler"),
    ] {
        let damaged = RecipeError::Damaged { program: "ComfyUI", reason: reason.to_owned() };
        assert_eq!(read(&graph), Err(damaged), "{graph}");
    }
}

/// Samplers whose settings are in separate nodes.
#[test]
fn a_custom_sampler_has_its_settings_from_other_nodes() {
    let text = |text: &str| node("CLIPTextEncode", json!({ "text": text, "clip": ["4", 1] }));
    let shared = json!({
        "4": node("CheckpointLoaderSimple", json!({ "ckpt_name": "sd.safetensors" })),
        "5": node("EmptyLatentImage", json!({ "width": 512, "height": 768, "batch_size": 1 })),
        "6": text("a cat"), "7": text("blurry"),
        "10": node("KSamplerSelect", json!({ "sampler_name": "dpmpp_2m_sde_gpu" })),
        "11": node("BasicScheduler",
            json!({ "model": ["4", 0], "scheduler": "karras", "steps": 25, "denoise": 1.0 })),
        "12": node("RandomNoise", json!({ "noise_seed": 77 })),
        "13": node("CFGGuider", json!({ "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "cfg": 6.5 })),
    });
    let custom = json!({
        "model": ["4", 0], "add_noise": true, "noise_seed": 77, "cfg": 6.5, "positive": ["6", 0], "negative": ["7", 0],
        "sampler": ["10", 0], "sigmas": ["11", 0], "latent_image": ["5", 0],
    });
    let advanced = json!({
        "noise": ["12", 0], "guider": ["13", 0], "sampler": ["10", 0], "sigmas": ["11", 0], "latent_image": ["5", 0],
    });
    let expected = sdq_engine::Request::new("a cat")
        .negative_prompt("blurry")
        .reading(sdq_engine::PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None })
        .size(512, 768)
        .steps(25)
        .seed(77)
        .guidance_scale(6.5)
        .scheduler("dpmpp-2m-sde-karras");
    for (class, inputs) in [("SamplerCustom", custom), ("SamplerCustomAdvanced", advanced.clone())] {
        let mut graph = shared.clone();
        graph["1"] = node(class, inputs);
        graph["2"] = node("VAEDecode", json!({ "samples": ["1", 0], "vae": ["4", 2] }));
        graph["3"] = node("SaveImage", json!({ "images": ["2", 0] }));
        let found = read(&graph).unwrap();
        assert_eq!(
            (found.recipe.request, found.recipe.model.as_str()),
            (expected.clone(), "sd.safetensors"),
            "{class}"
        );
    }
    for (class, name) in [
        ("KarrasScheduler", "dpmpp-2m-sde-karras"),
        ("PolyexponentialScheduler", "dpmpp-2m-sde-exponential"),
        ("AlignYourStepsScheduler", "dpmpp-2m-sde-ays"),
        ("BetaSamplingScheduler", "dpmpp-2m-sde-beta-timesteps"),
    ] {
        let mut graph = shared.clone();
        graph["1"] = node("SamplerCustomAdvanced", advanced.clone());
        graph["11"] = node(class, json!({ "steps": 9 }));
        let found = read(&graph).unwrap();
        let request = found.recipe.request;
        assert_eq!((request.scheduler.as_deref(), request.steps), (Some(name), Some(9)), "{class}");
    }
}
