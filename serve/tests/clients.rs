//! Other programs, each with the fields that it sends and in its order of calls, and what it reads of the answers.

mod support;

use serde_json::{Value, json};
use support::{Running, base64, from_base64, png, start};

const SMALL: (u64, u64) = (32, 32);

#[track_caller]
fn is_png(image: &Value, (width, height): (u64, u64)) {
    let text = image.as_str().unwrap();
    let bytes = from_base64(text.strip_prefix("data:image/png;base64,").unwrap_or(text));
    assert!(bytes.starts_with(b"\x89PNG"), "no PNG");
    let side = |at: usize| u64::from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()));
    assert_eq!((side(16), side(20)), (width, height));
}

fn basic() -> (&'static str, &'static str) {
    // `user:s3cret`
    ("authorization", "Basic dXNlcjpzM2NyZXQ=")
}

/// Open WebUI, engine automatic1111: `routers/images.py`.
#[test]
fn open_webui_as_automatic1111() {
    let server = start(|options| options.token = Some("s3cret".to_owned()));
    let call = |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [basic(), ("content-type", "application/json")];
        server.request(method, path, &headers, body.as_bytes()).expect(200)
    };
    assert_eq!(server.get("/sdapi/v1/options").status, 401);
    let options = call("GET", "/sdapi/v1/options", Value::Null);
    let models = call("GET", "/sdapi/v1/sd-models", Value::Null);
    let model = models.as_array().unwrap().last().unwrap();
    assert_eq!(model["model_name"], "built-in");
    assert_eq!(options["sd_model_checkpoint"], model["title"]);
    // It sends the whole object back with another model.
    let mut options = options;
    options["sd_model_checkpoint"] = model["title"].clone();
    call("POST", "/sdapi/v1/options", options);
    let body = json!({
        "prompt": "a red apple", "batch_size": 2, "width": 32, "height": 32, "steps": 2, "negative_prompt": "green",
        "alwayson_scripts": {}, "some_key_of_the_user": [1, 2],
    });
    let answer = call("POST", "/sdapi/v1/txt2img", body);
    assert_eq!(answer["images"].as_array().unwrap().len(), 2);
    is_png(&answer["images"][0], SMALL);
    assert!(answer["info"].is_string());
}

/// Open WebUI, engine openai.
#[test]
fn open_webui_as_openai() {
    let server = start(|_| {});
    let body = json!({
        "model": "dall-e-3", "prompt": "a red apple", "n": 1, "size": "32x32", "response_format": "b64_json", "steps": 2,
    });
    let answer = server.post("/v1/images/generations", &body).expect(200);
    is_png(&answer["data"][0]["b64_json"], SMALL);
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let picture = png(48, 32, 120);
    for name in ["image", "image[]"] {
        let fields = [
            ("model", "built-in"),
            ("prompt", "a blue cup"),
            ("n", "1"),
            ("background", "auto"),
            ("steps", "3"),
        ];
        let files: &[(&str, &[u8])] = &[(name, &picture), (name, &picture)];
        let answer =
            form(&server, "/v1/images/edits", &fields, if name == "image" { &files[..1] } else { files });
        is_png(&answer["data"][0]["b64_json"], (48, 32));
    }
}

/// A form as browsers and HTTP libraries send it.
fn form(server: &Running, path: &str, fields: &[(&str, &str)], files: &[(&str, &[u8])]) -> Value {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes(),
        );
    }
    for (name, bytes) in files {
        let head = format!(
            "--XX\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
        );
        body.extend(head.bytes().chain(bytes.iter().copied()).chain(*b"\r\n"));
    }
    body.extend(b"--XX--\r\n");
    server.request("POST", path, &[("content-type", "multipart/form-data; boundary=XX")], &body).expect(200)
}

/// A mask of OpenAI: the transparent part is drawn, the rest stays as it is.
#[test]
fn a_mask_of_openai_keeps_what_is_opaque() {
    let server = start(|_| {});
    let rgba: Vec<u8> =
        (0..64 * 64).flat_map(|index| [0, 0, 0, if index % 64 < 32 { 255 } else { 0 }]).collect();
    let mask = rgba_png(64, 64, &rgba);
    let start_picture = png(64, 64, 77);
    let fields = [("prompt", "a red apple"), ("size", "64x64"), ("steps", "3")];
    let answer = form(&server, "/v1/images/edits", &fields, &[("image", &start_picture), ("mask", &mask)]);
    let bytes = from_base64(answer["data"][0]["b64_json"].as_str().unwrap());
    let path = server.folder.path().join("answer.png");
    std::fs::write(&path, bytes).unwrap();
    let picture = sdq::picture::read(&path).unwrap();
    let row = &picture.rgb[..3 * 64];
    assert!(row[..3 * 32].iter().all(|value| *value == 77), "the opaque part is kept");
    assert!(row[3 * 40..].iter().any(|value| *value != 77), "the transparent part is drawn");
}

/// A PNG file with transparency, whose pixels are not compressed.
fn rgba_png(width: u32, height: u32, rgba: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    for row in rgba.chunks_exact(4 * width as usize) {
        raw.push(0);
        raw.extend(row);
    }
    let mut data = vec![0x78, 0x01];
    let blocks = raw.chunks(0xffff).count();
    for (index, block) in raw.chunks(0xffff).enumerate() {
        let len = block.len() as u16;
        data.push(u8::from(index + 1 == blocks));
        data.extend(len.to_le_bytes().into_iter().chain((!len).to_le_bytes()).chain(block.iter().copied()));
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in &raw {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    data.extend(((b << 16) | a).to_be_bytes());
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        let body: Vec<u8> = kind.iter().chain(data).copied().collect();
        png.extend(&body);
        png.extend(crc32(&body).to_be_bytes());
    };
    let header: Vec<u8> =
        width.to_be_bytes().into_iter().chain(height.to_be_bytes()).chain([8, 6, 0, 0, 0]).collect();
    chunk(b"IHDR", &header);
    chunk(b"IDAT", &data);
    chunk(b"IEND", &[]);
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// SillyTavern, source "auto": `src/endpoints/stable-diffusion.js`.
#[test]
fn sillytavern_auto() {
    let server = start(|_| {});
    let get = |path: &str| server.get(&format!("/sdapi/v1/{path}")).expect(200);
    assert!(get("options")["sd_model_checkpoint"].is_string());
    let names = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(&get("upscalers"), "name").len() >= 2);
    assert_eq!(names(&get("latent-upscale-modes"), "name"), ["Latent"]);
    assert!(names(&get("sd-vae"), "model_name").is_empty());
    assert!(get("sd-modules").as_array().unwrap().is_empty());
    assert!(names(&get("samplers"), "name").contains(&"DPM++ 2M".to_owned()));
    assert!(names(&get("schedulers"), "label").contains(&"Karras".to_owned()));
    let title = names(&get("sd-models"), "title").pop().unwrap();
    let idle = get("progress");
    assert_eq!((idle["progress"].as_f64(), &idle["state"]["job_count"]), (Some(0.0), &json!(0)));
    server.post("/sdapi/v1/options", &json!({ "sd_model_checkpoint": title })).expect(200);
    let body = json!({
        "url": "http://localhost:7860", "auth": "", "prompt": "a red apple", "negative_prompt": "", "sampler_name": "DPM++ 2M",
        "scheduler": "Karras", "steps": 3, "cfg_scale": 7, "width": 32, "height": 32, "restore_faces": false, "enable_hr": false,
        "hr_upscaler": "Latent", "hr_scale": 1.5, "hr_additional_modules": [], "denoising_strength": 0.7,
        "hr_second_pass_steps": 0, "override_settings": { "CLIP_stop_at_last_layers": 1, "sd_vae": null },
        "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true,
        "do_not_save_grid": false, "do_not_save_samples": false, "seed": null,
    });
    let answer = server.post("/sdapi/v1/txt2img", &body).expect(200);
    is_png(&answer["images"][0], SMALL);
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["sampler_name"], "dpmpp-2m-karras");
    // Interrupting when nothing runs is no error.
    server.post("/sdapi/v1/interrupt", &json!({})).expect(200);
}

/// SillyTavern, source "auto", when its user closes the dialog.
#[test]
fn sillytavern_interrupts() {
    let server = start(|_| {});
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let body = json!({ "prompt": "x", "steps": 400, "width": 64, "height": 64 });
            server.post("/sdapi/v1/txt2img", &body)
        });
        let running = server.until("/sdapi/v1/progress", |progress| progress["current_image"].is_string());
        assert_eq!(running["state"]["job_count"], 1);
        assert!(running["progress"].as_f64().unwrap() > 0.0);
        assert_eq!(running["state"]["sampling_steps"], 400);
        server.post("/sdapi/v1/interrupt", &json!({})).expect(200);
        let answer = call.join().unwrap().expect(200);
        is_png(&answer["images"][0], (64, 64));
    });
    let idle = server.until("/sdapi/v1/progress", |progress| progress["state"]["job_count"] == 0);
    assert_eq!(idle["progress"].as_f64(), Some(0.0));
}

/// SillyTavern, source "sdcpp".
#[test]
fn sillytavern_sdcpp() {
    let server = start(|_| {});
    assert_eq!(server.request("OPTIONS", "/v1/images/generations", &[], &[]).status / 100, 2);
    let models = server.get("/v1/models").expect(200);
    assert_eq!(models["data"][0]["id"], "built-in");
    let body = json!({
        "prompt": "a red apple", "negative_prompt": "green", "width": 32, "height": 32, "steps": 2, "cfg_scale": 5, "seed": 5,
        "batch_size": 1, "sampler_name": "euler_a", "scheduler": "discrete", "clip_skip": 1,
    });
    is_png(&server.post("/sdapi/v1/txt2img", &body).expect(200)["images"][0], SMALL);
    // Later versions name the model, and leave `clip_skip` out where it is 1.
    let body = json!({ "model": "built-in", "prompt": "a red apple", "width": 32, "height": 32, "steps": 2 });
    is_png(&server.post("/sdapi/v1/txt2img", &body).expect(200)["images"][0], SMALL);
}

/// LibreChat's tool stable-diffusion.
#[test]
fn librechat() {
    let server = start(|_| {});
    let body = json!({
        "prompt": "a red apple", "negative_prompt": "green", "cfg_scale": 4.5, "steps": 2, "width": 32, "height": 32,
    });
    let answer = server.post("/sdapi/v1/txt2img", &body).expect(200);
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!((&info["width"], &info["height"]), (&json!(32), &json!(32)));
    assert!(info["seed"].is_u64() && info["infotexts"][0].as_str().unwrap().contains("Steps: 2"), "{info}");
    is_png(&answer["images"][0], SMALL);
}

/// LibreChat's tools for OpenAI's pictures: `api/app/clients/tools/structured/OpenAIImageTools.js`.
#[test]
fn librechat_as_openai() {
    let server = start(|_| {});
    let body = json!({
        "model": "gpt-image-1", "prompt": "a red apple", "n": 1, "background": "auto", "output_format": "png",
        "quality": "auto", "size": "auto",
    });
    let answer = server.post("/v1/images/generations", &body).expect(200);
    is_png(&answer["data"][0]["b64_json"], (64, 64));
    let fields = [("model", "gpt-image-1"), ("prompt", "a blue cup"), ("quality", "auto"), ("size", "auto")];
    let picture = png(32, 32, 120);
    let answer = form(&server, "/v1/images/edits", &fields, &[("image[]", &picture)]);
    is_png(&answer["data"][0]["b64_json"], SMALL);
}

/// llama-swap: its proxy and its playground.
#[test]
fn llama_swap() {
    let server = start(|_| {});
    assert_eq!(server.get("/health").status, 200);
    let body = json!({ "model": "built-in", "prompt": "a red apple", "size": "32x32", "n": 1, "steps": 2 });
    is_png(&server.post("/v1/images/generations", &body).expect(200)["data"][0]["b64_json"], SMALL);
    assert!(server.get("/sdapi/v1/loras?model=built-in").expect(200).as_array().unwrap().is_empty());
    let body = json!({
        "model": "built-in", "prompt": "a red apple", "width": 32, "height": 32, "steps": 2, "lora": [], "seed": -1,
        "batch_size": 1, "init_images": [base64(&png(32, 32, 50))], "denoising_strength": 0.6,
    });
    is_png(&server.post("/sdapi/v1/txt2img", &body).expect(200)["images"][0], SMALL);
    is_png(&server.post("/sdapi/v1/img2img", &body).expect(200)["images"][0], SMALL);
    let unknown = json!({ "model": "none", "prompt": "x" });
    assert_eq!(server.post("/v1/images/generations", &unknown).expect(404)["error"]["param"], "model");
}

/// Lemonade starts a server and waits for its root.
#[test]
fn lemonade() {
    let server = start(|_| {});
    assert_eq!(server.get("/").status, 200);
    let body = json!({
        "prompt": "a red apple <sd_cpp_extra_args>{\"steps\": 2, \"cfg_scale\": 5.0, \"seed\": 9}</sd_cpp_extra_args>",
        "size": "32x32", "n": 1,
    });
    is_png(&server.post("/v1/images/generations", &body).expect(200)["data"][0]["b64_json"], SMALL);
    let drawn = server.get("/api/v1/pictures").expect(200);
    assert_eq!(
        (&drawn["pictures"][0]["prompt"], &drawn["pictures"][0]["seed"]),
        (&json!("a red apple"), &json!(9))
    );
}

#[test]
fn an_openai_stream_has_partial_pictures_and_all_finished_ones() {
    let server = start(|_| {});
    let body = json!({
        "prompt": "a red apple", "n": 2, "size": "64x64", "stream": true, "partial_images": 2, "steps": 9,
    });
    let events = server.stream("POST", "/v1/images/generations", &body, |_, _| false);
    let of = |name: &str| -> Vec<&Value> {
        events.iter().filter(|(other, _)| other == name).map(|(_, data)| data).collect()
    };
    let (partial, completed) = (of("image_generation.partial_image"), of("image_generation.completed"));
    assert_eq!(
        (partial.len(), completed.len(), events.len()),
        (4, 2, 6),
        "{:?}",
        events.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    for data in partial.iter().chain(&completed) {
        is_png(&data["b64_json"], (64, 64));
        assert!(data["type"].as_str().unwrap().starts_with("image_generation."));
    }
    assert!(completed[0]["usage"]["total_tokens"].is_u64());
}

#[test]
fn errors_have_the_form_of_their_interface() {
    let server = start(|_| {});
    let openai =
        server.post("/v1/images/generations", &json!({ "prompt": "x", "size": "33x32" })).expect(422);
    assert_eq!(
        (&openai["error"]["type"], &openai["error"]["param"]),
        (&json!("invalid_request_error"), &json!("width"))
    );
    assert_eq!(server.post("/v1/images/generations", &json!({})).expect(422)["error"]["param"], "prompt");
    assert_eq!(server.get("/v1/models/none").expect(404)["error"]["code"], "model.not_found");
    let webui =
        server.post("/sdapi/v1/txt2img", &json!({ "prompt": "x", "sampler_name": "none" })).expect(422);
    assert!(webui["detail"].as_str().unwrap().contains("none"), "{webui}");
    assert_eq!(server.get("/sdapi/v1/none").expect(404)["error"], "not_found");
}

#[test]
fn img2img_takes_masks_and_sizes_as_the_web_ui_does() {
    let server = start(|_| {});
    let mask = base64(&png(64, 64, 255));
    for mode in 0..4 {
        let body = json!({
            "prompt": "a red apple", "init_images": [format!("data:image/png;base64,{}", base64(&png(96, 48, 70)))],
            "width": 64, "height": 64, "steps": 3, "denoising_strength": 0.8, "resize_mode": mode, "mask": mask,
            "inpainting_mask_invert": 1, "mask_blur": 4, "inpainting_fill": 1, "inpaint_full_res": false,
        });
        let answer = server.post("/sdapi/v1/img2img", &body).expect(200);
        is_png(&answer["images"][0], (64, 64));
        // Everything is kept, and the picture of one colour stays that.
        let bytes = from_base64(answer["images"][0].as_str().unwrap());
        let path = server.folder.path().join("answer.png");
        std::fs::write(&path, bytes).unwrap();
        let picture = sdq::picture::read(&path).unwrap();
        assert!(picture.rgb.iter().all(|value| *value == 70), "resize_mode {mode}");
    }
    assert_eq!(server.post("/sdapi/v1/img2img", &json!({ "prompt": "x" })).status, 422);
}

/// A flat picture with a mask over a part of it, whose result is read from an answer.
fn masked_call(server: &Running, keys: &Value) -> (sdq::Picture, Value) {
    let mask = sdq::Picture {
        width: 96,
        height: 48,
        rgb: (0..96 * 48)
            .flat_map(|index| [if is_masked(index % 96, index / 96) { 255 } else { 0 }; 3])
            .collect(),
    };
    let mask = sdq::picture::to_bytes(&mask, sdq::picture::PictureFormat::Png, &[]).unwrap();
    let mut body = json!({
        "prompt": "a red apple", "init_images": [base64(&png(96, 48, 70))], "mask": base64(&mask), "mask_blur": 0,
        "width": 64, "height": 64, "steps": 4, "denoising_strength": 0.75, "seed": 5,
    });
    for (key, value) in keys.as_object().unwrap() {
        body[key] = value.clone();
    }
    let answer = server.post("/sdapi/v1/img2img", &body).expect(200);
    let path = server.folder.path().join("answer.png");
    std::fs::write(&path, from_base64(answer["images"][0].as_str().unwrap())).unwrap();
    let (picture, info) = (sdq::picture::read(&path).unwrap(), answer["info"].as_str().unwrap());
    // It would be one of the gallery.
    std::fs::remove_file(path).unwrap();
    (picture, serde_json::from_str(info).unwrap())
}

fn is_masked(x: usize, y: usize) -> bool {
    (60..76).contains(&x) && (20..36).contains(&y)
}

#[test]
fn only_the_masked_part_is_drawn_at_full_size() {
    let server = start(|_| {});
    let mut drawn = Vec::new();
    for fill in 0..4 {
        let keys =
            json!({ "inpaint_full_res": true, "inpaint_full_res_padding": 8, "inpainting_fill": fill });
        let (picture, info) = masked_call(&server, &keys);
        assert_eq!((picture.width, picture.height), (96, 48));
        assert_eq!((&info["width"], &info["height"]), (&json!(96), &json!(48)));
        assert_eq!(info["extra_generation_params"]["Masked area padding"], 8);
        let pixels = picture.rgb.chunks(3).enumerate();
        let kept = pixels.clone().filter(|(index, _)| !is_masked(index % 96, index / 96));
        assert!(kept.into_iter().all(|(_, pixel)| pixel == [70; 3]), "inpainting_fill {fill}");
        let new = pixels.filter(|(index, _)| is_masked(index % 96, index / 96));
        drawn.push(new.flat_map(|(_, pixel)| pixel.to_vec()).collect::<Vec<u8>>());
    }
    // The surroundings of a hole in a flat picture are the picture.
    assert_eq!(drawn[0], drawn[1]);
    assert!(drawn[1] != drawn[2] && drawn[2] != drawn[3] && drawn[1] != drawn[3]);
    let whole = json!({ "inpaint_full_res": false, "inpainting_fill": 1 });
    let (picture, info) = masked_call(&server, &whole);
    assert_eq!((picture.width, &info["extra_generation_params"]), (64, &json!({})));
    let listed = server.get("/api/v1/pictures").expect(200);
    assert_eq!((&listed["pictures"][1]["width"], &listed["pictures"][1]["height"]), (&json!(96), &json!(48)));
}

#[test]
fn only_masked_and_its_surroundings_are_the_web_uis_defaults() {
    let server = start(|_| {});
    let (by_default, _) = masked_call(&server, &json!({}));
    let keys = json!({ "inpaint_full_res": "true", "inpaint_full_res_padding": "0", "inpainting_fill": 0 });
    assert_eq!(masked_call(&server, &keys).0, by_default);
    // A blank mask selects nothing; as in the web UI, the picture is drawn over.
    let (picture, info) = masked_call(&server, &json!({ "mask": base64(&png(96, 48, 0)) }));
    assert_eq!((picture.width, picture.height), (64, 64));
    assert!(info["notes"].to_string().contains("the mask is blank"), "{info}");
    assert!(picture.rgb.iter().any(|value| *value != 70));
}

#[test]
fn a_second_pass_draws_the_enlarged_picture() {
    let server = start(|_| {});
    let body = json!({
        "prompt": "a red apple", "width": 32, "height": 32, "steps": 4, "enable_hr": true, "hr_scale": 2, "hr_upscaler": "Latent",
        "denoising_strength": 0.5, "hr_second_pass_steps": 4, "batch_size": 2, "seed": 3,
    });
    let answer = server.post("/sdapi/v1/txt2img", &body).expect(200);
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    images.iter().for_each(|image| is_png(image, (64, 64)));
}

#[test]
fn a_picture_tells_its_texts() {
    let server = start(|_| {});
    let answer = server.post(
        "/sdapi/v1/txt2img",
        &json!({ "prompt": "a red apple", "width": 32, "height": 32, "steps": 2 }),
    );
    let image = &answer.expect(200)["images"][0];
    let info = server.post("/sdapi/v1/png-info", &json!({ "image": image })).expect(200);
    assert!(info["info"].as_str().unwrap().starts_with("a red apple\nSteps: 2"), "{info}");
    assert!(info["items"]["sdq"].is_string());
}
