use serde_json::{Value, json};

use crate::{
    models::{
        self,
        clip::TextEncoderConfig,
        unet::UNetConfig,
        vae::{AutoencoderConfig, VaeConfig},
    },
    roles::StoredNetwork as _,
};

/// The keys that define the network, from stable-diffusion-v1-5's files.
fn unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32,
        "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    })
}

fn vae() -> Value {
    json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "in_channels": 3, "latent_channels": 4,
        "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
        "up_block_types": vec!["UpDecoderBlock2D"; 4]
    })
}

fn text_encoder() -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
        "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 49408, "dropout": 0.0,
        "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "projection_dim": 768
    })
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

/// The weights of the text encoder, the U-Net and the VAE above.
fn weights() -> [Vec<sdq_formats::WeightSpec>; 3] {
    [
        models::clip::transformer::weights(
            &TextEncoderConfig::from_json("text_encoder", &text_encoder(), false).unwrap(),
        ),
        models::unet::weights(&UNetConfig::from_json(&unet()).unwrap()),
        models::vae::kl::weights(&AutoencoderConfig::from_json(&vae()).unwrap()),
    ]
}

fn elements(specs: &[sdq_formats::WeightSpec]) -> usize {
    specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
}

/// Compares with the published numbers of parameters: an extra block or a wrong width would change them.
#[test]
fn sd15_has_the_published_number_of_weights() {
    let [text_encoder, unet, vae] = weights().map(|specs| elements(&specs));
    assert_eq!(unet, 859_520_964);
    assert_eq!(vae, 83_653_863);
    assert_eq!(text_encoder, 123_060_480);
}

/// U-Nets of other families, from the keys in which their files differ from the one above.
fn other_unets() -> Vec<(&'static str, usize, Value)> {
    let down = |kinds: &str| -> Value {
        kinds.chars().map(|kind| if kind == 'x' { "CrossAttnDownBlock2D" } else { "DownBlock2D" }).collect()
    };
    let up = |kinds: &str| -> Value {
        kinds.chars().rev().map(|kind| if kind == 'x' { "CrossAttnUpBlock2D" } else { "UpBlock2D" }).collect()
    };
    let changed = |changes: Value| {
        let mut config = unet();
        let changes = changes.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(changes);
        config
    };
    let sdxl = changed(json!({
        "block_out_channels": [320, 640, 1280], "down_block_types": down(".xx"), "up_block_types": up(".xx"),
        "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816, "num_attention_heads": null, "class_embed_type": null
    }));
    let mut ssd = sdxl.clone();
    ssd["mid_block_type"] = json!("UNetMidBlock2D");
    ssd["transformer_layers_per_block"] = json!([[], [2, 2], [4, 4]]);
    ssd["reverse_transformer_layers_per_block"] = json!([[4, 4, 10], [2, 1, 1], 1]);
    let refiner = changed(json!({
        "block_out_channels": [384, 768, 1536, 1536], "down_block_types": down(".xx."),
        "up_block_types": up(".xx."), "attention_head_dim": [6, 12, 24, 24], "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560
    }));
    let bk_sdm_tiny = changed(json!({
        "block_out_channels": [320, 640, 1280], "down_block_types": down("xxx"), "up_block_types": up("xxx"),
        "layers_per_block": 1, "mid_block_type": null
    }));
    vec![
        ("SDXL", 2_567_463_684, sdxl),
        ("SDXL's refiner", 2_259_526_660, refiner),
        ("SSD-1B", 1_331_334_404, ssd),
        ("an LCM", 859_602_884, with(unet(), "time_cond_proj_dim", json!(256))),
        ("SD1.5 for inpainting", 859_535_364, with(unet(), "in_channels", json!(9))),
        ("BK-SDM-Tiny", 323_384_964, bk_sdm_tiny),
    ]
}

/// The numbers are those that diffusers counts in models of these configs.
#[test]
fn other_families_have_their_numbers_of_weights() {
    for (name, expected, config) in other_unets() {
        let config = UNetConfig::from_json(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(elements(&models::unet::weights(&config)), expected, "{name}");
    }
    let tiny = VaeConfig::from_json(&json!({"_class_name": "AutoencoderTiny"})).unwrap();
    assert_eq!(elements(&tiny.weights()), 2_445_063);
}

#[test]
fn an_autoencoder_is_known_by_its_class() {
    let error = |config: &Value| VaeConfig::from_json(config).unwrap_err().to_string();
    assert!(error(&with(vae(), "_class_name", json!("ConsistencyDecoderVAE"))).contains("AutoencoderTiny"));
    assert!(error(&with(vae(), "latents_mean", json!([0.0, 1.0]))).contains("4 finite numbers"));
    let with_mean = with(vae(), "latents_mean", json!([0.0, 1.0, 2.0, 3.0]));
    assert!(error(&with(with_mean, "latents_std", json!([1.0, 0.0, 1.0, 1.0]))).contains("positive"));
    for (key, value, expected) in [
        ("decoder_block_out_channels", json!([64, 32, 64, 64]), "equal widths"),
        ("num_encoder_blocks", json!([1, 3, 3]), "as many levels"),
        ("upsampling_scaling_factor", json!(3), "2"),
        ("act_fn", json!("mish"), "relu"),
        ("shift_factor", json!(0.5), "0"),
        ("brand_new_switch", json!("on"), "is unknown"),
    ] {
        let found = error(&with(json!({"_class_name": "AutoencoderTiny"}), key, value));
        assert!(found.contains(key) && found.contains(expected), "{found}");
    }
}

#[test]
fn the_end_of_a_prompt_is_found_by_both_rules() {
    let pooling = |id: u64| {
        let config = with(text_encoder(), "eos_token_id", json!(id));
        TextEncoderConfig::from_json("text_encoder_2", &config, true).unwrap().pooling
    };
    // Start, two words, end, padding with the end token.
    let ids = [49406, 320, 1125, 49407, 49407];
    assert_eq!(pooling(2).position(&ids), 3);
    assert_eq!(pooling(49407).position(&ids), 3);
    assert_eq!(pooling(7).position(&ids), 0, "as argmax finds it where there is none");
}

#[test]
fn no_weight_is_listed_twice() {
    for specs in weights() {
        let names: std::collections::HashSet<_> = specs.iter().map(|spec| &spec.name).collect();
        assert_eq!(names.len(), specs.len());
    }
}

#[test]
fn values_that_cannot_be_run_are_named() {
    let cases = [
        ("act_fn", json!("mish"), "silu or swish"),
        ("addition_embed_type", json!("text"), "text_time"),
        ("class_embed_type", json!("timestep"), "is unknown"),
        ("resnet_time_scale_shift", json!("scale_shift"), "\"default\""),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), "UNetMidBlock2DCrossAttn"),
        ("transformer_layers_per_block", json!([1, 2]), "4 values"),
        ("transformer_layers_per_block", json!(129), "0 to 128"),
        ("reverse_transformer_layers_per_block", json!([1, [1, 1], 1, 1]), "each of 3 layers"),
        ("time_cond_proj_dim", json!(3), "at least 4"),
        ("down_block_types", json!(["DownBlock2D"]), "4 blocks"),
        (
            "down_block_types",
            json!(["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
            "CrossAttn",
        ),
        ("attention_head_dim", json!([5, 10, 20]), "4 values"),
        ("attention_head_dim", json!(7), "divisor"),
        ("num_attention_heads", json!(8), "is unknown"),
        ("norm_num_groups", json!(33), "divisor"),
        ("block_out_channels", json!([]), "a list of"),
        ("block_out_channels", json!([0, 1, 2, 3]), "from 1"),
        ("in_channels", json!(-1), "from 1"),
        ("in_channels", json!(1.5), "from 1"),
        ("layers_per_block", json!(1_000_000), "at most"),
        ("downsample_padding", json!(0), "expected 1"),
        ("freq_shift", json!(160), "less than half"),
        ("norm_eps", json!("small"), "a finite number"),
        ("conv_in_kernel", json!(5), "3"),
        ("only_cross_attention", json!(true), "is unknown"),
        ("brand_new_switch", json!("on"), "is unknown"),
    ];
    for (key, value, expected) in cases {
        let error = UNetConfig::from_json(&with(unet(), key, value.clone())).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(expected), "{key} = {value}: {error}");
    }
    let error = AutoencoderConfig::from_json(&with(vae(), "shift_factor", json!(0.1))).unwrap_err();
    assert!(error.to_string().contains("shift_factor"), "{error}");
    let error =
        TextEncoderConfig::from_json("text_encoder", &with(text_encoder(), "model_type", json!("t5")), false)
            .unwrap_err();
    assert!(error.to_string().contains("clip_text_model"), "{error}");
    assert!(UNetConfig::from_json(&json!([])).is_err());
}

#[test]
fn keys_that_are_off_or_private_change_nothing() {
    let plain = UNetConfig::from_json(&unet()).unwrap();
    for (key, value) in [
        ("addition_embed_type", Value::Null),
        ("only_cross_attention", json!(false)),
        ("dual_cross_attention", json!(false)),
        ("_name_or_path", json!("./somewhere")),
        ("mid_block_scale_factor", json!(1.0)),
        ("upcast_attention", json!(true)),
        ("use_linear_projection", json!(true)),
        ("brand_new_switch", Value::Null),
        ("decay", json!(0.9999)),
        ("inv_gamma", json!(1.0)),
        ("optimization_step", json!(3000)),
        ("power", json!(0.6667)),
        ("use_ema_warmup", json!(true)),
    ] {
        assert_eq!(UNetConfig::from_json(&with(unet(), key, value)).unwrap(), plain, "{key}");
    }
}

#[test]
fn heads_are_given_once_or_a_level() {
    let config = UNetConfig::from_json(&with(unet(), "attention_head_dim", json!([5, 10, 20, 20]))).unwrap();
    assert_eq!(config.num_attention_heads, [5, 10, 20, 20]);
    assert_eq!(UNetConfig::from_json(&unet()).unwrap().num_attention_heads, [8; 4]);
}

#[test]
fn heads_need_to_fit_only_where_something_attends() {
    let plain = json!(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]);
    let mirrored = json!(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]);
    let three_heads =
        with(with(unet(), "attention_head_dim", json!([3, 8, 8, 8])), "down_block_types", plain);
    assert!(UNetConfig::from_json(&three_heads).is_err(), "the way up still attends at the finest level");
    assert!(UNetConfig::from_json(&with(three_heads, "up_block_types", mirrored)).is_ok());
}

#[test]
fn the_default_size_is_a_number_or_a_pair() {
    assert_eq!(UNetConfig::from_json(&unet()).unwrap().sample_size, Some((64, 64)));
    let pair = UNetConfig::from_json(&with(unet(), "sample_size", json!([96, 64]))).unwrap();
    assert_eq!(pair.sample_size, Some((96, 64)));
    assert_eq!(UNetConfig::from_json(&with(unet(), "sample_size", Value::Null)).unwrap().sample_size, None);
}
