//! Every format in both directions, and the formats of other programs.

use proptest::prelude::*;
use sdq_engine::{PromptReading, PromptSyntax, Variation, pipeline::Caching};
use serde_json::json;

use super::*;

fn texts(keyword: &str, text: &str) -> Vec<(String, String)> {
    vec![(keyword.to_owned(), text.to_owned())]
}

fn read(keyword: &str, text: &str) -> Found {
    Found::from_texts(&texts(keyword, text)).unwrap_or_else(|error| panic!("{error}"))
}

/// Any recipe of sdq's own.
fn recipes() -> impl Strategy<Value = Recipe> {
    // A text that contains no tag and no line that begins with a keyword.
    let prompt = "[a-zA-Z狐é(),.: \\n]{0,30}";
    let name = || "[a-zA-Z0-9 _狐,-]{1,12}\\.[a-z]{2,6}";
    let option = |strategy| proptest::option::of(strategy);
    let float = || (-400_i16..400).prop_map(|hundredths| f32::from(hundredths) / 100.0);
    let share = || (0_u16..=1000).prop_map(|share| f64::from(share) / 1000.0);
    let request = (
        (
            prompt,
            prompt,
            proptest::sample::select(vec![
                "ddim",
                "euler-ancestral",
                "dpmpp-2m-karras",
                "euler-kl-optimal",
                "lms-normal",
            ]),
        ),
        (8..9999_usize, 8..9999_usize, 1..200_usize, any::<u64>()),
        (float(), float(), share(), proptest::option::of(float()), proptest::option::of(share())),
        (any::<bool>(), option(1..9_usize), proptest::option::of((any::<u64>(), share()))),
        prop_oneof![
            Just(Caching::None),
            (2..9_usize, 0..9_usize).prop_map(|(every, skip)| Caching::Deep { every, skip }),
            (2..9_usize).prop_map(|every| Caching::Guidance { every }),
        ],
        proptest::collection::btree_map("[a-z_]{1,9}", "[a-z0-9.]{1,9}", 0..3),
    )
        .prop_map(|(texts, sizes, scales, (plain, clip_skip, variation), caching, options)| Request {
            prompt: texts.0,
            negative_prompt: texts.1,
            scheduler: Some(texts.2.to_owned()),
            width: Some(sizes.0),
            height: Some(sizes.1),
            steps: Some(sizes.2),
            seed: sizes.3,
            guidance_scale: Some(scales.0),
            guidance_rescale: scales.2 as f32,
            image_guidance_scale: scales.3,
            strength: scales.4,
            reading: PromptReading {
                syntax: if plain { PromptSyntax::Plain } else { PromptSyntax::Weighted },
                clip_skip,
            },
            variation: variation.map(|(seed, strength)| Variation { seed, strength }),
            caching,
            scheduler_options: options.into_iter().collect(),
            ..Request::default()
        });
    let lora = (name(), float(), proptest::option::of(float())).prop_map(|(file, strength, other)| {
        UsedLora { file, strength, text_strength: other.filter(|&other| other != strength) }
    });
    let word = (name(), proptest::option::of("[a-z<>]{1,6}"));
    let embedding = word.prop_map(|(file, word)| UsedEmbedding { file, word });
    let files =
        (proptest::option::of(name()), proptest::option::of(name()), proptest::collection::vec(name(), 0..3));
    let model = ("[a-zA-Z0-9 ,\":狐-]{1,12}", proptest::option::of("[0-9a-f]{8}(\\+[0-9a-f]{8})?"));
    let weights = proptest::collection::btree_map("[a-z_]{1,9}", "[qf][0-9]", 0..3);
    let lists = (proptest::collection::vec(lora, 0..3), proptest::collection::vec(embedding, 0..3));
    (request, files, model, weights, lists).prop_map(
        |(request, (init_image, mask, vae), (model, fingerprint), weights, (loras, embeddings))| Recipe {
            request,
            init_image,
            mask,
            model,
            fingerprint,
            weights,
            version: VERSION.to_owned(),
            loras,
            embeddings,
            vae,
        },
    )
}

/// `recipe` without the fields for which the web UI's lines have no place.
fn on_the_lines(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.request.guidance_rescale = 0.0;
    recipe.request.scheduler_options.clear();
    recipe.request.reading.syntax = PromptSyntax::Weighted;
    for lora in &mut recipe.loras {
        lora.file = lora.file.rsplit_once('.').unwrap().0.to_owned();
    }
    let Recipe { request, model, version, loras, vae, .. } = recipe;
    Recipe { request, model, version, loras, vae, ..Recipe::default() }
}

proptest! {
    #[test]
    fn sdqs_json_gives_the_recipe_back(recipe in recipes()) {
        let [_, (keyword, text)] = recipe.texts();
        let found = read(keyword, &text);
        prop_assert_eq!(&found.recipe, &recipe);
        prop_assert_eq!(found.unused, Vec::<String>::new());
    }

    #[test]
    fn the_web_uis_lines_give_back_what_they_hold(recipe in recipes()) {
        // Files of a VAE are separated by commas.
        prop_assume!(recipe.vae.iter().all(|file| !file.contains(',')));
        let [(keyword, text), _] = recipe.texts();
        let found = read(keyword, &text);
        prop_assert_eq!(&found.recipe, &on_the_lines(&recipe), "{}", text);
        prop_assert_eq!(found.unused, Vec::<String>::new());
    }

    #[test]
    fn no_text_panics(text in ".{0,200}|[a-zA-Z:,\"\\[{<>\n ]{0,200}") {
        for keyword in [picture::PARAMETERS, picture::RECIPE, picture::GRAPH, foreign::INVOKEAI, foreign::NOVELAI] {
            let _ = Found::from_texts(&texts(keyword, &text));
        }
    }
}

/// What other programs write for a sampler and its schedule, what sdq makes of it, and what is left over.
#[test]
fn samplers_of_other_programs_are_schedulers_here() {
    for (sampler, schedule, expected, unused) in [
        ("DPM++ 2M Karras", None, Some("dpmpp-2m-karras"), &[][..]),
        ("DPM++ 2M", Some("Karras"), Some("dpmpp-2m-karras"), &[]),
        ("DPM++ 2M", Some("Automatic"), Some("dpmpp-2m-karras"), &[]),
        ("DPM++ 2M SDE", Some("Exponential"), Some("dpmpp-2m-sde-exponential"), &[]),
        ("DPM++ 2S a", Some(""), Some("dpmpp-2s-ancestral"), &[]),
        ("Euler a", Some("Automatic"), Some("euler-ancestral"), &[]),
        ("Euler a", Some("Karras"), Some("euler-ancestral-karras"), &[]),
        ("Euler", Some("SGM Uniform"), Some("euler-sgm-uniform"), &[]),
        ("dpmpp_2m_sde_gpu", Some("karras"), Some("dpmpp-2m-sde-karras"), &[]),
        ("uni_pc", Some("beta"), Some("uni-pc-bh1-beta"), &[]),
        ("UniPC", Some("Karras"), Some("uni-pc-bh1-karras"), &[]),
        ("k_euler_ancestral", Some("native"), Some("euler-ancestral-normal"), &[]),
        ("dpmpp_2m_k", None, Some("dpmpp-2m-karras"), &[]),
        ("ddim_v3", None, Some("ddim"), &[]),
        ("lcm", Some("sgm_uniform"), Some("lcm-sgm-uniform"), &[]),
        ("LCM Karras", None, Some("lcm-karras"), &[]),
        ("tcd", Some("sgm_uniform"), Some("tcd"), &["schedule: sgm_uniform"]),
        ("TCD Karras", None, Some("tcd"), &["schedule: karras"]),
        ("Euler", Some("Turbo"), Some("euler"), &["schedule: Turbo"]),
        ("DPM adaptive", Some("Karras"), None, &["sampler: DPM adaptive", "schedule: Karras"]),
        ("Restart", None, None, &["sampler: Restart"]),
    ] {
        let mut found = Found::default();
        found.set_sampler(sampler, schedule);
        assert_eq!(found.recipe.request.scheduler.as_deref(), expected, "{sampler} {schedule:?}");
        assert_eq!(found.unused, unused, "{sampler} {schedule:?}");
        assert!(found.recipe.request.scheduler_options.is_empty());
    }
}

/// For every scheduler, with every schedule that it takes: what is written for other programs is read back as the same
/// scheduler with the same settings.
#[test]
fn the_web_uis_names_give_the_scheduler_back() {
    let mut read_back = 0;
    for entry in sdq_schedulers::schedulers() {
        let own = sdq_schedulers::find(entry.name).unwrap();
        let presets = entry.presets.iter().map(|preset| sdq_schedulers::find(preset.name).unwrap());
        for named in std::iter::once(own).chain(presets) {
            let scheduled = sdq_schedulers::schedules()
                .iter()
                .filter_map(|schedule| named.with_schedule(schedule.name).ok());
            for named in std::iter::once(named).chain(scheduled) {
                let request = Request::new("a fox").scheduler(named.name()).steps(4).size(64, 64);
                let recipe = Recipe { request, ..Recipe::default() };
                let found = read(picture::PARAMETERS, &recipe.parameters());
                let again = sdq_schedulers::find(found.recipe.request.scheduler.as_deref().unwrap()).unwrap();
                let config = |named: sdq_schedulers::NamedScheduler| {
                    let config = named.configure(&sdq_schedulers::SchedulerConfig::default(), &[]).unwrap();
                    let scheduler = (named.entry.build)(&config, 5).unwrap();
                    (named.entry.name, scheduler.timesteps().to_vec(), scheduler.init_noise_sigma())
                };
                assert_eq!(config(again), config(named), "{}", named.name());
                assert_eq!(found.unused, Vec::<String>::new());
                read_back += 1;
            }
        }
    }
    assert!(read_back > 180, "{read_back}");
}

#[test]
fn the_web_uis_names_are_written() {
    let line = |name: &str, options: &[(&str, &str)]| {
        let request = Request::new("a fox").scheduler(name);
        let request =
            options.iter().fold(request, |request, (key, value)| request.scheduler_option(*key, *value));
        Recipe { request, ..Recipe::default() }.parameters().lines().nth(1).unwrap().to_owned()
    };
    for (name, options, expected) in [
        ("euler-a", &[][..], "Sampler: Euler a, Seed"),
        ("dpmpp-2m-karras", &[], "Sampler: DPM++ 2M, Schedule type: Karras, Seed"),
        ("euler", &[("use_karras_sigmas", "true")], "Sampler: Euler, Schedule type: Karras, Seed"),
        ("dpmpp-3m-sde-exponential", &[], "Sampler: DPM++ 3M SDE, Schedule type: Exponential, Seed"),
        ("uni_pc sgm_uniform", &[], "Sampler: UniPC, Schedule type: SGM Uniform, Seed"),
        ("unipc-sgm-uniform", &[], "Sampler: unipc, Schedule type: SGM Uniform, Seed"),
        ("my-own", &[], "Sampler: my-own, Seed"),
    ] {
        let line = line(name, options);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn fields_of_later_versions_are_listed() {
    let json = r#"{"prompt": "a fox", "loras": [], "control": [{"file": "x"}], "upscale": 2, "later": null}"#;
    let found = read(picture::RECIPE, json);
    assert_eq!(found.recipe.request.prompt, "a fox");
    assert_eq!(found.unused, [r#"control: [{"file":"x"}]"#, "upscale: 2"]);
}

/// The lines in the form that pictures of this version have always had.
#[test]
fn the_web_uis_lines_stay_as_they_are() {
    let request = Request::new("a fox")
        .negative_prompt("a dog")
        .size(512, 768)
        .steps(30)
        .scheduler("ddim")
        .guidance_scale(7.5)
        .seed(7)
        .variation(3, 0.1)
        .strength(0.5)
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) })
        .caching(Caching::Deep { every: 3, skip: 0 });
    let recipe = Recipe {
        request,
        model: "tiny".to_owned(),
        version: "sdq 0.1.0".to_owned(),
        loras: vec![UsedLora { file: "ink.v2.pt".to_owned(), strength: 0.5, text_strength: None }],
        vae: vec!["a.pt".to_owned()],
        ..Recipe::default()
    };
    let expected = "a fox <lora:ink.v2:0.5>\nNegative prompt: a dog\nSteps: 30, Sampler: DDIM, CFG scale: 7.5, Seed: 7, \
        Size: 512x768, Model: tiny, Clip skip: 2, VAE: a.pt, Denoising strength: 0.5, Cache: deepcache:3, \
        Variation seed: 3, Variation seed strength: 0.1, Version: sdq 0.1.0";
    assert_eq!(recipe.parameters(), expected);
}

/// A recipe from a version of sdq that did not write fingerprints.
#[test]
fn older_recipes_of_sdq_are_read() {
    let json = json!({
        "prompt": "a fox", "negative_prompt": "", "width": 64, "height": 64, "steps": 4, "scheduler": "ddim",
        "scheduler_options": { "eta": "0.5" }, "guidance_scale": 7.1, "seed": 3, "plain_prompt": true,
        "strength": 0.5, "init_image": "in.png", "model": "tiny", "version": "sdq 0.1.0",
        "loras": [{ "file": "ink.pt", "strength": 0.7, "tag": "<lora:ink:0.7>" }],
        "embeddings": [{ "file": "toy.pt", "word": null }], "vae": "encoder.pt, decoder.pt",
    });
    let found = read(picture::RECIPE, &json.to_string());
    let expected = Recipe {
        request: Request::new("a fox")
            .size(64, 64)
            .steps(4)
            .scheduler("ddim")
            .scheduler_option("eta", "0.5")
            .guidance_scale(7.1)
            .seed(3)
            .strength(0.5),
        init_image: Some("in.png".to_owned()),
        model: "tiny".to_owned(),
        version: "sdq 0.1.0".to_owned(),
        loras: vec![UsedLora { file: "ink.pt".to_owned(), strength: 0.7, text_strength: None }],
        embeddings: vec![UsedEmbedding { file: "toy.pt".to_owned(), word: None }],
        vae: vec!["encoder.pt".to_owned(), "decoder.pt".to_owned()],
        ..Recipe::default()
    };
    assert_eq!((found.recipe, found.program), (expected, "sdq"));
}

#[test]
fn the_web_ui_is_understood() {
    let text = "masterpiece, (best quality:1.2),\na lighthouse <lora:ink:0.7>\nNegative prompt: lowres,\nbad hands\n\
        Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, \
        Model hash: aabbccddee, Model: \"some, model\", Denoising strength: 0.4, Clip skip: 2, ENSD: 31337, \
        Hires upscale: 2, Lora hashes: \"ink: 0123, b: 4567\", Civitai resources: [{\"a\": 1, \"b\": \"x, y: z\"}], \
        VAE: Automatic, Version: v1.9.4";
    let found = read(picture::PARAMETERS, text);
    let request = Request::new("masterpiece, (best quality:1.2),\na lighthouse")
        .negative_prompt("lowres,\nbad hands")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) })
        .steps(28)
        .scheduler("dpmpp-2m-karras")
        .guidance_scale(7.0)
        .seed(1_234_567_890)
        .size(512, 768);
    assert_eq!(found.recipe.request, request);
    assert_eq!((found.recipe.model.as_str(), found.program), ("some, model", "AUTOMATIC1111"));
    assert_eq!(found.recipe.loras, [UsedLora { file: "ink".to_owned(), strength: 0.7, text_strength: None }]);
    let unused = [
        "Denoising strength: 0.4",
        "ENSD: 31337",
        "Hires upscale: 2",
        "Civitai resources: [{\"a\":1,\"b\":\"x, y: z\"}]",
    ];
    assert_eq!(found.unused, unused);

    let other = "a cat\nSteps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.500000, Seed: 42, Size: 512x512, \
        Model: sd.ckpt, RNG: cuda, Sampler: ddim karras, Version: stable-diffusion.cpp";
    let found = read(picture::PARAMETERS, other);
    assert_eq!(found.program, "stable-diffusion.cpp");
    assert_eq!(found.recipe.request.scheduler.as_deref(), Some("ddim"));
    assert_eq!(found.recipe.request.scheduler_options, [("eta".to_owned(), "0.500000".to_owned())]);
    assert_eq!(found.unused, ["schedule: karras", "Guidance: 3.500000", "RNG: cuda"]);

    // A prompt that only looks like settings.
    let found = read(picture::PARAMETERS, "a sign: stop, a dog");
    assert_eq!(found.recipe.request.prompt, "a sign: stop, a dog");
}

#[test]
fn invoke_ai_of_old_is_understood() {
    let json = json!({
        "model": "stable diffusion", "model_weights": "stable-diffusion-1.5", "app_id": "invoke-ai/InvokeAI",
        "app_version": "2.3.5", "image": {
            "prompt": [{ "prompt": "a cat [blurry] on a mat [ugly]", "weight": 1.0 }], "steps": 30, "cfg_scale": 7.5,
            "threshold": 0, "seed": 9, "width": 512, "height": 640, "sampler": "k_dpmpp_2", "type": "txt2img",
        },
    });
    let mut with_sampler = json.clone();
    with_sampler["image"]["sampler"] = "k_euler_a".into();
    let found = read(foreign::INVOKEAI_2, &with_sampler.to_string());
    let request = Request::new("a cat  on a mat")
        .negative_prompt("blurry, ugly")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None })
        .size(512, 640)
        .seed(9)
        .guidance_scale(7.5)
        .steps(30)
        .scheduler("euler-ancestral");
    assert_eq!(found.recipe.request, request);
    assert_eq!((found.program, found.recipe.model.as_str()), ("InvokeAI", "stable-diffusion-1.5"));
    assert_eq!(found.unused, Vec::<String>::new());
    // It draws by another method than any here.
    let found = read(foreign::INVOKEAI_2, &json.to_string());
    assert_eq!((found.recipe.request.scheduler, &*found.unused[0]), (None, "sampler: k_dpmpp_2"));
}

/// In the Exif of its WebP files NovelAI has all texts in one object.
#[test]
fn texts_may_be_in_one_object() {
    let comment = json!({ "prompt": "a cat", "uc": "lowres", "steps": 28, "seed": 3, "sampler": "k_euler" });
    let object = json!({ "Software": "NovelAI", "Description": "a cat", "Comment": comment.to_string() });
    let found = read(picture::PARAMETERS, &object.to_string());
    assert_eq!((found.program, found.recipe.request.prompt.as_str()), ("NovelAI", "a cat"));
    assert_eq!(found.recipe.request.steps, Some(28));
    for text in [r#"{"parameters": "{\"a\": 1}"}"#, "{}", "{"] {
        assert_eq!(Found::from_texts(&texts(picture::PARAMETERS, text)), Err(RecipeError::None), "{text}");
    }
}

#[test]
fn invoke_ai_is_understood() {
    let json = json!({
        "generation_mode": "txt2img", "positive_prompt": "a cat", "negative_prompt": "a dog", "width": 512,
        "height": 640, "seed": 9, "rand_device": "cpu", "cfg_scale": 7.5, "cfg_rescale_multiplier": 0.5, "steps": 30,
        "scheduler": "dpmpp_2m_k", "clip_skip": 1, "seamless_x": false, "hrf_enabled": true,
        "model": { "key": "1", "hash": "x", "name": "Deliberate_v5", "base": "sd-1" },
        "loras": [{ "model": { "name": "ink" }, "weight": 0.75 }], "app_version": "5.0.0",
    });
    let found = read(foreign::INVOKEAI, &json.to_string());
    let request = Request::new("a cat")
        .negative_prompt("a dog")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) })
        .size(512, 640)
        .seed(9)
        .guidance_scale(7.5)
        .guidance_rescale(0.5)
        .steps(30)
        .scheduler("dpmpp-2m-karras");
    assert_eq!(found.recipe.request, request);
    assert_eq!((found.recipe.model.as_str(), found.program), ("Deliberate_v5", "InvokeAI"));
    assert_eq!(
        found.recipe.loras,
        [UsedLora { file: "ink".to_owned(), strength: 0.75, text_strength: None }]
    );
    assert_eq!(found.unused, ["hrf_enabled: true"]);
}

#[test]
fn novel_ai_is_understood() {
    let json = json!({
        "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "cfg_rescale": 0.0, "seed": 77, "n_samples": 1,
        "noise_schedule": "karras", "sampler": "k_dpmpp_2m", "uc": "lowres", "dynamic_thresholding": true,
    });
    let mut texts = texts(foreign::NOVELAI, &json.to_string());
    texts.push(("Description".to_owned(), "a {cat}".to_owned()));
    let found = Found::from_texts(&texts).unwrap();
    let request = Request::new("a {cat}")
        .negative_prompt("lowres")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None })
        .size(832, 1216)
        .seed(77)
        .guidance_scale(5.0)
        .steps(28)
        .scheduler("dpmpp-2m-karras");
    assert_eq!((found.recipe.request, found.program), (request, "NovelAI"));
    assert_eq!(
        found.unused,
        ["braces and brackets that weight words as in NovelAI", "dynamic_thresholding: true"]
    );
}

#[test]
fn comfy_ui_is_understood() {
    let graph = json!({
        "9": { "class_type": "SaveImage", "inputs": { "images": ["8", 0] } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["4", 2] } },
        "3": { "class_type": "KSampler", "inputs": {
            "seed": ["12", 0], "steps": 20, "cfg": 8.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
            "model": ["11", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0] } },
        "4": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "v1-5.safetensors" } },
        "5": { "class_type": "EmptyLatentImage", "inputs": { "width": 512, "height": 640, "batch_size": 1 } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": ["14", 0], "clip": ["13", 0] } },
        "7": { "class_type": "CLIPTextEncode", "inputs": { "text": "text, watermark", "clip": ["13", 0] } },
        "10": { "class_type": "LoraLoader", "inputs": {
            "lora_name": "styles\\ink.safetensors", "strength_model": 0.5, "strength_clip": 1.0, "model": ["4", 0] } },
        "11": { "class_type": "LoraLoader", "inputs": {
            "lora_name": "toy.safetensors", "strength_model": 1.0, "strength_clip": 1.0, "model": ["10", 0] } },
        "12": { "class_type": "PrimitiveInt", "inputs": { "value": 5 } },
        "13": { "class_type": "CLIPSetLastLayer", "inputs": { "stop_at_clip_layer": -2, "clip": ["4", 1] } },
        "14": { "class_type": "PrimitiveString", "inputs": { "value": "a lighthouse" } },
        "15": { "class_type": "ControlNetLoader", "inputs": {} },
    });
    let found = read(picture::GRAPH, &graph.to_string());
    let request = Request::new("a lighthouse")
        .negative_prompt("text, watermark")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: Some(2) })
        .size(512, 640)
        .seed(5)
        .guidance_scale(8.0)
        .steps(20)
        .scheduler("dpmpp-2m-karras");
    assert_eq!((found.recipe.request, found.program), (request, "ComfyUI"));
    let lora =
        |file: &str, strength, text_strength| UsedLora { file: file.to_owned(), strength, text_strength };
    let loras = [lora("ink.safetensors", 0.5, Some(1.0)), lora("toy.safetensors", 1.0, None)];
    assert_eq!(found.recipe.loras, loras);
    assert_eq!(found.recipe.model, "v1-5.safetensors");
    assert_eq!(found.unused, ["node: ControlNetLoader"]);

    // From a picture, with a cycle, and without a sampler.
    let picture = json!({
        "1": { "class_type": "KSampler", "inputs": { "denoise": 0.6, "latent_image": ["2", 0], "model": ["1", 0],
            "positive": ["1", 0] } },
        "2": { "class_type": "VAEEncode", "inputs": { "pixels": ["3", 0] } },
        "3": { "class_type": "LoadImage", "inputs": { "image": "in.png" } },
    });
    let found = read(picture::GRAPH, &picture.to_string());
    assert_eq!(found.recipe.init_image.as_deref(), Some("in.png"));
    assert_eq!(found.recipe.request.strength, Some(0.6));
    for graph in
        ["{}", "[]", "{\"1\": {\"class_type\": \"SaveImage\", \"inputs\": {\"images\": [\"1\", 0]}}}"]
    {
        let error = Found::from_texts(&texts(picture::GRAPH, graph)).unwrap_err();
        assert!(matches!(error, RecipeError::Damaged { program: "ComfyUI", .. }), "{error}");
    }
}

#[test]
fn what_is_no_recipe_is_an_error() {
    assert_eq!(Found::from_texts(&[]), Err(RecipeError::None));
    assert_eq!(Found::from_texts(&texts("Comment", "made with care")), Err(RecipeError::None));
    assert_eq!(Found::from_texts(&texts(picture::PARAMETERS, "{\"sui\": 1}")), Err(RecipeError::None));
    let error = Found::from_texts(&texts(picture::RECIPE, "{\"prompt\": 1}")).unwrap_err();
    assert!(matches!(error, RecipeError::Damaged { program: "sdq", .. }), "{error}");
    let long = "a: [\"".repeat(MAX_TEXT_LEN / 6);
    assert!(Found::from_texts(&texts(picture::PARAMETERS, &long)).is_ok());
    let error = Found::from_texts(&texts(picture::PARAMETERS, &"x".repeat(MAX_TEXT_LEN + 1))).unwrap_err();
    assert_eq!(error, RecipeError::TooLong { len: MAX_TEXT_LEN + 1 });
}
