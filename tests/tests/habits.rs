//! Names and values that users know from other programs: they are used, refused by name, or reported as unused.

use std::{fs, process::Command};

use sdq_formats::picture;
use sdq_tests::{
    checkpoint::write_f32,
    command::{self, Outcome},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn sdq(folder: &TempDir, args: &[&str]) -> Outcome {
    command::run(SDQ, folder.path(), args)
}

/// One step of a red apple, with `flags`.
fn draw(folder: &TempDir, flags: &[&str]) -> Outcome {
    sdq(folder, &[&["generate", "a red apple", "--steps", "1"], flags].concat())
}

fn info(folder: &TempDir, name: &str) -> Value {
    let info = sdq(folder, &["info", name, "--json"]);
    assert_eq!(info.code, 0, "{}", info.errors);
    serde_json::from_str(&info.output).unwrap()
}

/// The last line of the text that AUTOMATIC1111's web UI would read.
fn parameters(folder: &TempDir, name: &str) -> String {
    let texts = picture::read_texts(folder.path().join(name)).unwrap();
    let text = texts.into_iter().find(|(keyword, _)| keyword == picture::PARAMETERS).unwrap().1;
    text.lines().last().unwrap().to_owned()
}

#[test]
fn samplers_are_named_as_in_other_programs() {
    let folder = TempDir::new().unwrap();
    for (name, stored, written) in [
        ("Euler a", "euler-ancestral", "Sampler: Euler a, CFG"),
        ("DPM++ 2M Karras", "dpmpp-2m-karras", "Sampler: DPM++ 2M, Schedule type: Karras, "),
        ("dpmpp_2m_sde_gpu karras", "dpmpp-2m-sde-karras", "Sampler: DPM++ 2M SDE, Schedule type: Karras, "),
        (
            "dpmpp_3m_sde_gpu_exponential",
            "dpmpp-3m-sde-exponential",
            "Sampler: DPM++ 3M SDE, Schedule type: Exp",
        ),
        ("EulerDiscreteScheduler", "euler", "Sampler: Euler, CFG"),
        ("lcm sgm_uniform", "lcm-sgm-uniform", "Sampler: LCM, Schedule type: SGM Uniform, "),
        ("UniPC", "uni-pc-bh1", "Sampler: UniPC, CFG"),
        ("uni_pc karras", "uni-pc-bh1-karras", "Sampler: UniPC, Schedule type: Karras, "),
        ("unipc", "unipc", "Sampler: unipc, CFG"),
        ("euler sgm_uniform", "euler-sgm-uniform", "Sampler: Euler, Schedule type: SGM Uniform, "),
        (
            "DPM++ 2S a ays",
            "dpmpp-2s-ancestral-ays",
            "Sampler: DPM++ 2S a, Schedule type: Align Your Steps, ",
        ),
    ] {
        draw(&folder, &["--scheduler", name, "-o", "a.png"]).assert_done();
        assert_eq!(info(&folder, "a.png")["scheduler"], stored, "{name}");
        let line = parameters(&folder, "a.png");
        assert!(line.contains(written), "{name}: {line}");
    }
    for (name, words) in [
        ("DPM adaptive", &["the scheduler `DPM adaptive` is unknown"][..]),
        ("euler a karas", &["did you mean `euler-ancestral-karras`"]),
        ("karras", &["`karras` is a sigma schedule", "`euler-karras`"]),
        ("TCD Karras", &["`tcd` does not support the sigma schedule `karras`"]),
    ] {
        draw(&folder, &["--scheduler", name, "-o", "b.png"]).assert_failed(2, words);
    }
    let steps = sdq(&folder, &["generate", "x", "--scheduler", "lcm", "--steps", "60", "-o", "b.png"]);
    steps.assert_failed(2, &["60 steps, expected 1 to 50", "distilled"]);
    assert!(!steps.errors.contains("num_train_timesteps"), "{}", steps.errors);
    let listed = sdq(&folder, &["schedulers"]).output;
    for name in ["dpmpp-3m-sde", "dpmpp-2s-ancestral", "kl-optimal", "SGM Uniform"] {
        assert!(listed.contains(name), "{name}");
    }
}

#[test]
fn without_a_seed_one_is_chosen_printed_and_stored() {
    let folder = TempDir::new().unwrap();
    let seed = |name: &str| {
        let drawn = draw(&folder, &["--seed", "-1", "--count", "2", "-o", &format!("{name}.png")]);
        drawn.assert_done();
        let (first, second) =
            (info(&folder, &format!("{name}-1.png")), info(&folder, &format!("{name}-2.png")));
        let seed = first["seed"].as_u64().unwrap();
        assert!(drawn.errors.contains(&format!("note: the seed is {seed}\n")), "{}", drawn.errors);
        assert_eq!(second["seed"].as_u64(), Some(seed + 1));
        seed
    };
    let seeds = ["a", "b", "c"].map(seed);
    assert!(seeds[0] != seeds[1] || seeds[1] != seeds[2], "{seeds:?}");
    // As where nothing is said.
    let unsaid = ["d.png", "e.png", "f.png"].map(|name| {
        let flags = ["generate", "a red apple", "--steps", "1", "-o", name];
        command::run_without_seed(SDQ, folder.path(), &flags).assert_done();
        info(&folder, name)["seed"].as_u64()
    });
    assert!(unsaid[0] != unsaid[1] || unsaid[1] != unsaid[2], "{unsaid:?}");
    draw(&folder, &["--seed", "-2"]).assert_failed(2, &["--seed", "-1 for a random seed"]);
}

#[test]
fn tags_are_used_or_reported() {
    let folder = TempDir::new().unwrap();
    let prompt = "a red apple <hypernet:x:1> <Wildcard:colours>";
    let drawn = sdq(&folder, &["generate", prompt, "-n", "<lora:x:1>", "--steps", "1", "-o", "tags.png"]);
    drawn.assert_done();
    for tag in [
        "<hypernet:x:1> is left out",
        "<Wildcard:colours> is left out",
        "<lora:x:1> is left out of the negative",
    ] {
        assert!(drawn.errors.contains(tag), "{tag}: {}", drawn.errors);
    }
    assert_eq!(info(&folder, "tags.png")["prompt"], "a red apple");
    for tag in ["<lyco:style/ink:1>", "<LoRA:ink>"] {
        let refused = sdq(&folder, &["generate", tag, "--lora-dir", ".", "-o", "x.png"]);
        refused.assert_failed(2, &["ink.safetensors"]);
    }
    fs::create_dir(folder.path().join("style")).unwrap();
    for name in ["ink.safetensors", "style/ink.pt"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let ambiguous = sdq(&folder, &["generate", "<lora:ink:1>", "--lora-dir", ".", "-o", "x.png"]);
    ambiguous.assert_failed(2, &["ink.safetensors", "style/ink.pt"]);
}

#[test]
fn values_without_effect_are_reported_or_refused() {
    let folder = TempDir::new().unwrap();
    let noted = draw(&folder, &["-n", "blue", "-g", "1", "-o", "a.png"]);
    noted.assert_done();
    assert!(noted.errors.contains("the negative prompt has no effect"), "{}", noted.errors);
    let cached = draw(&folder, &["--cache", "guidance:2", "-g", "1", "-o", "a.png"]);
    assert!(cached.errors.contains("caching of guidance has no effect"), "{}", cached.errors);
    let guided = draw(&folder, &["-n", "blue", "-g", "3", "--cache", "guidance:2", "-o", "a.png"]);
    assert!(!guided.errors.contains("no effect"), "{}", guided.errors);
    let edited =
        draw(&folder, &["--image-guidance-scale", "2", "-i", "a.png", "--strength", "1", "-o", "b.png"]);
    edited.assert_done();
    assert!(edited.errors.contains("the image guidance scale has no effect"), "{}", edited.errors);
    for (flag, value) in
        [("--clip-skip", "-1"), ("--clip-skip", "0"), ("--steps", "-1"), ("--count", "-1"), ("-W", "-8")]
    {
        let refused = sdq(&folder, &["generate", "x", flag, value, "-o", "b.png"]);
        assert_eq!(refused.code, 2, "{flag} {value}: {}", refused.errors);
        assert!(!refused.errors.contains("unexpected argument"), "{}", refused.errors);
    }
    for (isa, reported) in [("avx9000", true), ("", false), ("scalar", false)] {
        let output = Command::new(SDQ)
            .args(["plan", "x", "--backend", "cpu"])
            .env("SDQ_ISA", isa)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(errors.contains("SDQ_ISA is \"avx9000\" and has no effect"), reported, "{errors}");
    }
}

#[test]
fn nothing_is_replaced_that_was_not_named() {
    let folder = TempDir::new().unwrap();
    let drawn = |flags: &[&str]| {
        let drawn = draw(&folder, flags);
        drawn.assert_done();
        drawn.output
    };
    assert_eq!(drawn(&[]), "sdq.png\n");
    let first = fs::read(folder.path().join("sdq.png")).unwrap();
    assert_eq!(drawn(&["--seed", "2"]), "sdq-2.png\n");
    assert_eq!(drawn(&["--seed", "3"]), "sdq-3.png\n");
    assert_eq!(drawn(&["--count", "2"]), "sdq-2-1.png\nsdq-2-2.png\n");
    assert_eq!(fs::read(folder.path().join("sdq.png")).unwrap(), first);
    // A picture that is named is replaced.
    assert_eq!(drawn(&["--seed", "2", "-o", "sdq.png"]), "sdq.png\n");
    assert_ne!(fs::read(folder.path().join("sdq.png")).unwrap(), first);
    fs::write(folder.path().join("letter.png"), "a letter").unwrap();
    draw(&folder, &["-o", "letter.png"]).assert_failed(2, &["letter.png", "not a picture", "--force"]);
    assert_eq!(fs::read(folder.path().join("letter.png")).unwrap(), b"a letter");
    draw(&folder, &["-o", "a.png", "--save-latents", "letter.png"])
        .assert_failed(2, &["--save-latents", "letter.png", "not a file of latents", "--force"]);
    assert_eq!(drawn(&["-o", "letter.png", "--force"]), "letter.png\n");
}

/// Prompts and settings of pictures by other programs.
#[test]
fn pictures_of_other_programs_are_shown() {
    let folder = TempDir::new().unwrap();
    let shown = |name: &str, keyword: &str, text: &str| {
        let picture = picture::Picture { width: 8, height: 8, rgb: vec![90; 192] };
        picture::write(folder.path().join(name), &picture, &[(keyword, text)]).unwrap();
        info(&folder, name)
    };
    let web_ui = "a lighthouse\nNegative prompt: lowres\nSteps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5, \
        Size: 512x768, Version: v1.9.4";
    for name in ["a.png", "a.jpg", "a.webp"] {
        let shown = shown(name, picture::PARAMETERS, web_ui);
        assert_eq!(
            (&shown["prompt"], &shown["scheduler"]),
            (&json!("a lighthouse"), &json!("dpmpp-2m-karras"))
        );
    }
    let graph = json!({
        "3": { "class_type": "KSampler", "inputs": { "seed": 5, "steps": 20, "cfg": 8.0, "sampler_name": "euler",
            "scheduler": "normal", "positive": ["6", 0] } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": "a lighthouse" } },
    });
    let comfy = shown("comfy.png", "prompt", &graph.to_string());
    assert_eq!((&comfy["prompt"], &comfy["scheduler"]), (&json!("a lighthouse"), &json!("euler-normal")));
    assert_eq!((&comfy["written_by"], &comfy["steps"]), (&json!("ComfyUI"), &json!(20)));
    // A picture without a seed is drawn with any.
    let without = shown(
        "without.png",
        picture::PARAMETERS,
        "a lighthouse\nSteps: 1, Sampler: Euler, CFG scale: 7, Seed: -1",
    );
    assert_eq!((&without["seed"], &without["not_used"]), (&Value::Null, &json!(["Seed: -1"])));
    let again = sdq(&folder, &["generate", "--from", "without.png", "-o", "again.png"]);
    again.assert_done();
    let seed = info(&folder, "again.png")["seed"].as_u64().unwrap();
    assert!(again.errors.contains(&format!("note: the seed is {seed}\n")), "{}", again.errors);
    let plain = sdq(&folder, &["info", "comfy.png"]).output;
    assert!(plain.contains("prompt: a lighthouse") && plain.contains("steps: 20"), "{plain}");
}

#[test]
fn info_describes_add_ons() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
    let (down, up) = (format!("{module}.lora_down.weight"), format!("{module}.lora_up.weight"));
    let text = "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight".to_owned();
    let zeros = [0.0; 2 * 768];
    write_f32(
        &path("style.safetensors"),
        &[(down, &[2, 768], &zeros[..]), (up, &[4, 2], &zeros[..8]), (text, &[1, 8], &zeros[..8])],
    );
    let style = &info(&folder, "style.safetensors")["lora"];
    assert_eq!(
        *style,
        json!({ "made_for": "SD1", "layers": { "U-Net": 1, "text encoder": 1 }, "ranks": "1, 2" })
    );

    write_f32(&path("other.safetensors"), &[("lora_unet_conv_in.hada_w1_a", &[2, 2], &zeros[..4])]);
    let other = &info(&folder, "other.safetensors")["looks_like"];
    assert!(other.as_str().unwrap().contains("LoHa"), "{other}");

    write_f32(&path("word.safetensors"), &[("<fox>", &[2, 768], &zeros)]);
    let word = &info(&folder, "word.safetensors")["textual_inversion"];
    assert_eq!(*word, json!([{ "word": "<fox>", "vectors": "2 x 768" }]));
}
