//! What changes a model, several models in one memory, two jobs at once, and conversions.

mod support;

use std::{fs, num::NonZeroUsize, path::Path};

use sdq::{Cancel, Pipeline, PipelineOptions, Request, Watch, add_ons::AddOns};
use serde_json::{Value, json};
use support::{Running, copy_folder, start};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/model");

fn built_in() -> Pipeline {
    sdq::model::open(None, &PipelineOptions::default()).unwrap()
}

/// Writes a safetensors file with tensors of f32.
fn write_f32(path: &Path, tensors: &[(String, [usize; 2])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        let values = (0..shape[0] * shape[1]).map(|index| ((index * 7) % 13) as f32 / 6.0 - 1.0);
        data.extend(values.flat_map(f32::to_le_bytes));
        header.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = Value::Object(header).to_string();
    let len = (header.len() as u64).to_le_bytes();
    fs::write(path, [&len[..], header.as_bytes(), &data].concat()).unwrap();
}

/// The shape of the first weight of `component` whose name ends in `ending`, and its name.
fn weight(component: &str, ending: &str) -> (String, Vec<usize>) {
    let components = built_in().weights();
    let (_, weights) = components.into_iter().find(|(name, _)| *name == component).unwrap();
    let found = weights.into_iter().find(|weight| weight.name.ends_with(ending)).unwrap();
    (found.name, found.shape)
}

fn write_lora(path: &Path) {
    let (name, shape) = weight("unet", "attn2.to_q.weight");
    let key = format!("lora_unet_{}", name.trim_end_matches(".weight").replace('.', "_"));
    write_f32(
        path,
        &[
            (format!("{key}.lora_down.weight"), [1, shape[1]]),
            (format!("{key}.lora_up.weight"), [shape[0], 1]),
        ],
    );
}

/// What the library draws with the same settings as [`Running::draw`].
fn drawn_by_the_library(prompt: &str, add_ons: &AddOns) -> sdq::Picture {
    let mut observer = |_| {};
    let watch = &mut Watch::new(&mut observer, &Cancel::new());
    let pipeline = add_ons.apply(built_in(), None, watch).unwrap();
    let reading =
        sdq::request::PromptReading { syntax: sdq::request::PromptSyntax::Weighted, clip_skip: None };
    let request = Request::new(prompt).size(32, 32).steps(2).seed(7).reading(reading);
    let drawn = pipeline.generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    drawn.pictures.into_iter().next().unwrap()
}

#[test]
fn a_lora_of_the_folder_changes_what_its_tag_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("styles")).unwrap();
    let path = folder.path().join("styles/ink.safetensors");
    write_lora(&path);
    let lora_dir = folder.path().to_owned();
    let server = start(|options| options.lora_dir = Some(lora_dir));
    let listed = server.get("/api/v1/loras").expect(200);
    assert_eq!(listed["loras"], json!([{ "name": "ink", "bytes": path.metadata().unwrap().len() }]));
    assert_eq!(server.get("/sdapi/v1/loras").expect(200)[0]["name"], "ink");

    let draw = |prompt: &str| server.ended(&server.draw(json!({ "prompt": prompt, "seed": 7 })));
    let job = draw("a red apple <lora:ink:0.8>");
    let found = server.pixels(&job["pictures"][0]);
    let lora = format!("{}:0.8", path.display()).parse().unwrap();
    let add_ons = AddOns { loras: vec![lora], ..AddOns::default() };
    assert_eq!(found, drawn_by_the_library("a red apple", &add_ons));
    assert_ne!(found, server.pixels(&draw("a red apple")["pictures"][0]));
    assert!(job["notes"].to_string().contains("with strength 0.8"), "{job}");
    // As stable-diffusion.cpp's clients name it.
    let body = json!({
        "prompt": "a red apple", "lora": [{ "path": "styles/ink.safetensors", "multiplier": 0.8 }], "width": 32, "height": 32,
        "steps": 2, "seed": 7,
    });
    server.post("/sdapi/v1/txt2img", &body).expect(200);
    let latest = server.get("/api/v1/pictures?limit=1").expect(200);
    assert_eq!(server.pixels(&latest["pictures"][0]), found);
    // The recipe has the tag again, and draws the same picture.
    let recipe = server.get(&format!("{}/recipe", job["pictures"][0]["url"].as_str().unwrap())).expect(200);
    let again = server.ended(&server.draw(recipe["request"].clone()));
    assert_eq!(server.pixels(&again["pictures"][0]), found, "{recipe}");
}

#[test]
fn a_word_of_the_folder_is_read_where_a_prompt_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_, shape) = weight("text_encoder", "token_embedding.weight");
    let path = folder.path().join("ripeness.safetensors");
    write_f32(&path, &[("emb_params".to_owned(), [2, shape[1]])]);
    let embedding_dir = folder.path().to_owned();
    let server = start(|options| options.embedding_dir = Some(embedding_dir));
    let listed = server.get("/api/v1/embeddings").expect(200);
    assert_eq!(listed["embeddings"], json!([{ "word": "ripeness", "name": "ripeness.safetensors" }]));
    assert!(server.get("/sdapi/v1/embeddings").expect(200)["loaded"]["ripeness"].is_object());

    let prompt = "a ripeness apple";
    let job = server.ended(&server.draw(json!({ "prompt": prompt, "seed": 7 })));
    let found = server.pixels(&job["pictures"][0]);
    let word = format!("{}:ripeness", path.display()).parse().unwrap();
    let add_ons = AddOns { embeddings: vec![word], ..AddOns::default() };
    assert_eq!(found, drawn_by_the_library(prompt, &add_ons));
    assert_ne!(found, drawn_by_the_library(prompt, &AddOns::default()));
}

#[test]
fn two_jobs_at_once_draw_what_one_after_the_other_does() {
    let draw = |server: &Running, seed: usize, steps: usize| {
        server
            .draw(json!({ "prompt": "a red apple", "width": 64, "height": 64, "steps": steps, "seed": seed }))
    };
    let limit = 4 << 30;
    let server = start(|options| {
        options.parallel = NonZeroUsize::new(2).unwrap();
        options.pipeline.max_memory = Some(limit);
    });
    let jobs = [draw(&server, 1, 300), draw(&server, 2, 300), draw(&server, 3, 5)];
    let status = server.until("/api/v1/status", |status| {
        assert!(status["memory"]["taken"].as_u64().unwrap() <= limit, "{status}");
        status["queue"]["running"].as_array().unwrap().len() == 2
    });
    assert_eq!(status["queue"]["waiting"], 1);
    let both = jobs.map(|job| server.pixels(&server.ended(&job)["pictures"][0]));
    drop(server);
    let server = start(|_| {});
    let alone = [(1, 300), (2, 300), (3, 5)]
        .map(|(seed, steps)| server.pixels(&server.ended(&draw(&server, seed, steps))["pictures"][0]));
    assert_eq!(both, alone);
}

/// Memory for the graphs of one model: those of the model that was used least recently are dropped for the next.
#[test]
fn a_model_makes_room_for_the_next() {
    let side = 384;
    let models = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"];
    for name in names {
        fs::copy(format!("{DEMO}.sdq"), models.path().join(format!("{name}.sdq"))).unwrap();
    }
    let plan = built_in().plan(&Request::new("x").size(side, side).steps(1)).unwrap();
    // What the process holds beside its runs changes while other tests run.
    let limit = plan.peak() + plan.executables() + plan.executables() / 3;
    assert!(limit < plan.taken() + plan.executables(), "there is room for two: {plan:?}");
    let folder = models.path().to_owned();
    let server = start(|options| {
        options.model_dir = Some(folder);
        options.pipeline.max_memory = Some(limit);
    });
    let open = || {
        let listed = server.get("/api/v1/models").expect(200);
        let open = listed["models"].as_array().unwrap().iter().filter(|model| model["open"] == true);
        open.map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(open(), [""; 0]);
    for name in names.iter().chain(&names[..1]) {
        let request = json!({ "prompt": "x", "width": side, "height": side, "steps": 1 });
        let body = json!({ "kind": "generate", "model": name, "request": request });
        let job = server.ended(&server.post("/api/v1/jobs", &body).expect(201));
        assert_eq!(job["state"], "done", "{job}");
        assert_eq!(open(), [*name]);
        let taken = server.get("/api/v1/status").expect(200)["memory"]["taken"].as_u64().unwrap();
        assert!(taken > 0 && taken <= limit, "{taken} of {limit}");
    }
}

#[test]
fn a_published_model_of_the_folder_is_converted() {
    let models = tempfile::tempdir().unwrap();
    copy_folder(Path::new(DEMO), &models.path().join("published"));
    let folder = models.path().to_owned();
    let server = start(|options| options.model_dir = Some(folder));
    let listed = server.get("/api/v1/models").expect(200);
    assert_eq!(listed["convertible"], json!([{ "name": "published", "bytes": 0 }]));
    let convert = |kind: &str, name: &str| {
        let body = json!({ "kind": "convert", "source": "published", "type": kind, "name": name });
        server.post("/api/v1/jobs", &body)
    };
    let job = server.ended(&convert("q8", "small").expect(201));
    assert_eq!(
        (&job["kind"], &job["state"], &job["request"]),
        (&json!("convert"), &json!("done"), &Value::Null)
    );
    assert!(job["progress"].is_null() && job["pictures"] == json!([]), "{job}");
    let listed = server.get("/api/v1/models").expect(200);
    assert_eq!(
        (&listed["models"][0]["id"], &listed["models"][0]["family"]),
        (&json!("small"), &json!("SD1"))
    );
    let request = json!({ "prompt": "a red apple", "width": 32, "height": 32, "steps": 1 });
    let body = json!({ "kind": "generate", "model": "small", "request": request });
    assert_eq!(server.ended(&server.post("/api/v1/jobs", &body).expect(201))["state"], "done");

    // The name is taken, the type is none, and the name is no name.
    assert_eq!(convert("q8", "small").expect(422)["error"]["field"], "name");
    assert_eq!(convert("q3", "other").expect(422)["error"]["field"], "type");
    assert_eq!(convert("q8", "../other").expect(422)["error"]["field"], "name");

    // One that is cancelled, before it begins or while it runs, leaves nothing.
    let job = convert("mixed", "never").expect(201);
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    server.post(&format!("{path}/cancel"), &json!({})).expect(200);
    let job = server.ended(&job);
    let files = fs::read_dir(models.path()).unwrap();
    let mut files: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!((&job["state"], &job["resumable"]), (&json!("cancelled"), &json!(false)), "{job}");
    assert_eq!(files, ["published", "small.sdq"]);
}
