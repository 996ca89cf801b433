//! The own interface: jobs, pictures, events, and everything that the page asks for.

mod support;

use std::{fs, io::Write as _, sync::Arc};

use serde_json::{Value, json};
use support::{Running, base64, png, start, start_in};

#[test]
fn a_job_draws_what_the_library_draws() {
    let server = start(|_| {});
    let job = server.draw(json!({ "seed": 7, "count": 2, "steps": 3 }));
    assert!(matches!(job["state"].as_str(), Some("waiting" | "running" | "done")), "{job}");
    let job = server.ended(&job);
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(
        (&job["request"]["seed"], &job["model"], &job["error"]),
        (&json!(7), &json!("built-in"), &Value::Null)
    );
    let pipeline = sdq::model::open(None, &Default::default()).unwrap();
    let request = sdq::Request::new("a red apple").size(32, 32).steps(3).seed(7).count(2);
    let request = request.reading(sdq::request::PromptReading {
        syntax: sdq::request::PromptSyntax::Weighted,
        clip_skip: None,
    });
    let expected = pipeline.generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let pictures = job["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 2);
    for (index, picture) in pictures.iter().enumerate() {
        assert_eq!(picture["seed"], 7 + index);
        assert_eq!(
            (&picture["width"], &picture["prompt"], &picture["job"]),
            (&json!(32), &json!("a red apple"), &job["id"])
        );
        let answer = server.get(picture["url"].as_str().unwrap());
        assert_eq!(answer.header("content-type"), Some("image/png"));
        assert_eq!(answer.bytes.len(), picture["bytes"].as_u64().unwrap() as usize);
        let path = server.folder.path().join("answer.png");
        fs::write(&path, answer.bytes).unwrap();
        assert_eq!(sdq::picture::read(&path).unwrap(), expected.pictures[index]);
        fs::remove_file(path).unwrap();
        let recipe = server.get(&format!("{}/recipe", picture["url"].as_str().unwrap())).expect(200);
        assert_eq!(
            (&recipe["request"]["seed"], &recipe["model"]["id"]),
            (&picture["seed"], &json!("built-in"))
        );
    }
    let listed = server.get("/api/v1/pictures?limit=1").expect(200);
    assert_eq!((&listed["pictures"][0]["id"], &listed["more"]), (&pictures[1]["id"], &json!(true)));
    let before = format!("/api/v1/pictures?before={}", pictures[1]["id"].as_str().unwrap());
    let older = server.get(&before).expect(200);
    assert_eq!((&older["pictures"][0]["id"], &older["more"]), (&pictures[0]["id"], &json!(false)));
}

#[test]
fn events_tell_a_job_from_its_state_to_its_end() {
    let server = start(|_| {});
    let job = server.draw(json!({ "steps": 6, "width": 64, "height": 64 }));
    let id = job["id"].as_str().unwrap();
    let events = server.events(&format!("/api/v1/jobs/{id}/events"), |_, _| false);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("job", "end"));
    for name in ["progress", "preview", "picture"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let data = |name: &str| &events.iter().rfind(|(other, _)| other == name).unwrap().1;
    assert_eq!((&data("progress")["done"], &data("progress")["total"]), (&json!(6), &json!(6)));
    assert!(data("preview")["data"].as_str().unwrap().starts_with("data:image/png;base64,iVBOR"));
    assert_eq!(data("end")["state"], "done");
    assert_eq!(data("end")["pictures"][0]["id"], data("picture")["id"]);
    // After the end there is only the end.
    let again = server.events(&format!("/api/v1/jobs/{id}/events"), |_, _| false);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0, "end");
}

#[test]
fn jobs_wait_in_their_order_and_are_cancelled() {
    let server = start(|_| {});
    let first = server.draw(json!({ "steps": 400, "width": 64, "height": 64 }));
    let path = |job: &Value| format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    server.until(&path(&first), |job| job["progress"]["done"].as_u64().is_some_and(|done| done > 1));
    let (second, third) = (server.draw(json!({})), server.draw(json!({})));
    assert_eq!((&second["place"], &third["place"]), (&json!(0), &json!(1)));
    let cancelled = server.post(&format!("{}/cancel", path(&second)), &json!({})).expect(200);
    assert_eq!((&cancelled["state"], &cancelled["place"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(server.get(&path(&third)).expect(200)["place"], 0);
    assert_eq!(server.delete(&path(&first)).status, 409, "it runs");
    server.post(&format!("{}/cancel", path(&first)), &json!({})).expect(200);
    let first = server.ended(&first);
    assert_eq!((&first["state"], &first["resumable"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(server.ended(&third)["state"], "done");
    assert_eq!(server.ended(&second)["resumable"], false);
    assert_eq!(server.post(&format!("{}/resume", path(&second)), &json!({})).status, 409);
    let listed = server.get("/api/v1/jobs?state=cancelled").expect(200);
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
    server.delete(&path(&first)).expect(204);
    assert_eq!(server.get(&path(&first)).status, 404);
    let left: Vec<_> =
        fs::read_dir(server.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".sdq-run")), "{left:?}");
}

#[test]
fn a_job_that_a_server_left_is_finished_by_the_next() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let server = start_in(folder.clone(), |_| {});
    let job = server.draw(json!({ "steps": 60, "width": 64, "height": 64, "seed": 3 }));
    let waiting = server.draw(json!({ "seed": 4 }));
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    server.until(&path, |job| job["progress"]["done"].as_u64().is_some_and(|done| done > 2));
    drop(server);
    let server = start_in(folder, |_| {});
    let found = server.get(&path).expect(200);
    assert_eq!((&found["state"], &found["resumable"]), (&json!("interrupted"), &json!(true)), "{found}");
    assert_eq!(server.ended(&waiting)["state"], "done", "it was only waiting");
    server.post(&format!("{path}/resume"), &json!({})).expect(200);
    let done = server.ended(&job);
    assert_eq!((&done["state"], done["pictures"].as_array().unwrap().len()), (&json!("done"), 1), "{done}");
    // The same picture as without the interruption.
    let other = server.ended(&server.draw(json!({ "steps": 60, "width": 64, "height": 64, "seed": 3 })));
    let bytes = |job: &Value| server.get(job["pictures"][0]["url"].as_str().unwrap()).bytes;
    assert_eq!(bytes(&done), bytes(&other));
}

#[test]
fn a_picture_is_redrawn_from_the_gallery_and_from_an_upload() {
    let server = start(|_| {});
    let first = server.ended(&server.draw(json!({})));
    let id = &first["pictures"][0]["id"];
    let again = server
        .ended(&server.draw(json!({ "start_picture": { "picture": id }, "strength": 0.5, "steps": 4 })));
    assert_eq!(again["state"], "done", "{again}");
    let (start, mask) = (base64(&png(32, 32, 90)), base64(&png(32, 32, 255)));
    let uploaded = server.draw(json!({
        "start_picture": { "data": start }, "mask": { "data": format!("data:image/png;base64,{mask}") }, "format": "webp",
    }));
    let uploaded = server.ended(&uploaded);
    assert_eq!(uploaded["state"], "done", "{uploaded}");
    let source = uploaded["request"]["start_picture"]["picture"].as_str().unwrap();
    assert!(source.starts_with("u-"), "{source}");
    assert_eq!(server.get(&format!("/api/v1/pictures/{source}")).status, 200);
    // The gallery has only what was drawn.
    assert_eq!(server.get("/api/v1/pictures").expect(200)["pictures"].as_array().unwrap().len(), 3);
    let recipe = format!("{}/recipe", uploaded["pictures"][0]["url"].as_str().unwrap());
    let recipe = server.get(&recipe).expect(200);
    assert_eq!(recipe["request"]["start_picture"]["picture"], source);
}

#[test]
fn a_dropped_picture_gives_its_recipe() {
    let server = start(|_| {});
    let job = server.ended(&server.draw(json!({ "seed": 11, "negative_prompt": "green" })));
    let bytes = server.get(job["pictures"][0]["url"].as_str().unwrap()).bytes;
    let found =
        server.request("POST", "/api/v1/recipe", &[("content-type", "image/png")], &bytes).expect(200);
    assert_eq!((&found["request"]["seed"], &found["program"]), (&json!(11), &json!("sdq")));
    assert_eq!(found["request"]["negative_prompt"], "green");
    assert_eq!(server.request("POST", "/api/v1/recipe", &[], &png(8, 8, 0)).status, 422);
    assert_eq!(server.request("POST", "/api/v1/recipe", &[], b"text").status, 422);
    let small = format!("{}?thumbnail=16", job["pictures"][0]["url"].as_str().unwrap());
    assert_eq!(server.get(&small).header("content-type"), Some("image/jpeg"));
}

#[test]
fn the_page_learns_what_it_can_ask_for() {
    let server = start(|options| options.pipeline.backend = None);
    let status = server.get("/api/v1/status").expect(200);
    assert!(status["device"].as_str().unwrap().starts_with("cpu"), "{status}");
    assert_eq!(status["queue"]["limit"], 128);
    let models = server.get("/api/v1/models").expect(200);
    let model = &models["models"][0];
    assert_eq!(
        (&model["id"], &model["built_in"], &model["problem"]),
        (&json!("built-in"), &json!(true), &Value::Null)
    );
    assert_eq!(model["family"], "SD1");
    assert!(model["defaults"]["width"].as_u64().unwrap() > 0 && model["accepts"]["mask"] == json!(true));
    let schedulers = server.get("/api/v1/schedulers").expect(200);
    assert!(schedulers["schedulers"].as_array().unwrap().len() > 15);
    let tokens = server.post("/api/v1/tokens", &json!({ "prompt": "a red apple" })).expect(200);
    assert_eq!((&tokens["chunks"], &tokens["tokens"]), (&json!(1), &json!(3)));
    let plan = json!({ "request": { "prompt": "x", "width": 64, "height": 64, "steps": 5, "count": 2 } });
    // The seconds come as soon as the machine is measured.
    let plan = server.until_answer("/api/v1/plan", &plan, |plan| plan["seconds"].is_number());
    assert_eq!((&plan["fits"], &plan["steps"]), (&json!(true), &json!(10)), "{plan}");
    assert!(plan["memory_bytes"].as_u64().unwrap() > 0 && plan["seconds"].as_f64().unwrap() > 0.0);
    for path in ["/api/v1/loras", "/api/v1/embeddings", "/api/v1/openapi.json", "/health"] {
        server.get(path).expect(200);
    }
    let page = server.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
}

#[test]
fn the_built_in_model_says_what_it_does_not_know() {
    let server = start(|_| {});
    let notes = |found: &Value| found["notes"].to_string();
    let request = json!({ "prompt": "a castle", "width": 64, "height": 64, "steps": 1 });
    let plan = server.post("/api/v1/plan", &json!({ "request": request })).expect(200);
    let job = server.ended(&server.draw(request));
    for found in [&plan, &job] {
        assert!(notes(found).contains("castle") && !notes(found).contains("64x64"), "{found}");
    }
    let job = server.ended(&server.draw(json!({ "steps": 1 })));
    assert!(notes(&job).contains("64x64"), "{job}");
    let body =
        json!({ "prompt": "a castle", "width": 64, "height": 64, "steps": 1, "tiling": true, "styles": [] });
    let answer = server.post("/sdapi/v1/txt2img", &body).expect(200);
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert!(notes(&info).contains("castle") && notes(&info).contains("`tiling`"), "{info}");
    assert!(!notes(&info).contains("styles"), "{info}");
}

/// Names of the files of uploaded pictures.
fn uploads(server: &Running) -> Vec<String> {
    let files = fs::read_dir(server.folder.path().join("uploads")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_plan_keeps_no_pictures() {
    let server = start(|_| {});
    let picture = json!({ "data": base64(&png(64, 64, 9)) });
    let request = json!({ "prompt": "x", "start_picture": picture, "mask": picture, "steps": 2 });
    let plan = server.post("/api/v1/plan", &json!({ "request": request })).expect(200);
    assert_eq!((&plan["width"], &plan["fits"]), (&json!(64), &json!(true)), "{plan}");
    assert_eq!(uploads(&server), [""; 0]);
    let wrong = json!({ "prompt": "x", "start_picture": { "data": base64(b"text") } });
    let refused = server.post("/api/v1/plan", &json!({ "request": wrong })).expect(422);
    assert_eq!(refused["error"]["field"], "start_picture");
}

#[test]
fn uploaded_pictures_have_a_limit_together() {
    // Noise, so that each has about as many bytes as pixels.
    let picture = |seed: u32| {
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let picture = sdq::Picture { width: 32, height: 32, rgb: (0..32 * 32 * 3).map(|_| byte()).collect() };
        base64(&sdq::picture::to_bytes(&picture, sdq::picture::PictureFormat::Png, &[]).unwrap())
    };
    let server = start(|options| options.limits.uploads_bytes = 10_000);
    let body = |seed: u32, steps: usize| {
        let start = json!({ "data": picture(seed) });
        let request = json!({ "prompt": "x", "start_picture": start, "steps": steps, "strength": 1.0 });
        json!({ "kind": "generate", "request": request })
    };
    // Pictures of jobs that have ended make room, the oldest first.
    let mut sources = Vec::new();
    for seed in 0..4 {
        let job = server.post("/api/v1/jobs", &body(seed, 1)).expect(201);
        sources.push(server.ended(&job)["request"]["start_picture"]["picture"].as_str().unwrap().to_owned());
    }
    let kept = uploads(&server);
    assert!(kept.len() <= 3 && kept.contains(&format!("{}.png", sources[3])), "{kept:?}");
    assert!(!kept.contains(&format!("{}.png", sources[0])), "{kept:?}");
    // Those of jobs that wait do not.
    let mut refused = None;
    for seed in 10..14 {
        let answer = server.post("/api/v1/jobs", &body(seed, 500));
        if answer.status != 201 {
            refused = Some(answer);
        }
    }
    let refused = refused.unwrap();
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(refused.expect(503)["error"]["code"], "uploads.full");
}

#[test]
fn models_of_a_folder_are_listed_and_switched() {
    let models = tempfile::tempdir().unwrap();
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/model.sdq");
    fs::copy(built_in, models.path().join("small.sdq")).unwrap();
    fs::write(models.path().join("broken.sdq"), "no model").unwrap();
    let folder = models.path().to_owned();
    let server = start(|options| options.model_dir = Some(folder));
    let listed = server.get("/api/v1/models").expect(200);
    let ids: Vec<&str> =
        listed["models"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["broken", "small", "built-in"]);
    let problem = listed["models"][0]["problem"].as_str().unwrap();
    assert!(
        problem.contains("broken.sdq") && !problem.contains(models.path().to_str().unwrap()),
        "{problem}"
    );
    for model in ["small", "built-in", "small"] {
        let body = json!({ "kind": "generate", "model": model, "request": { "prompt": "x", "width": 32, "height": 32, "steps": 1 } });
        let job = server.ended(&server.post("/api/v1/jobs", &body).expect(201));
        assert_eq!((&job["state"], &job["model"]), (&json!("done"), &json!(model)), "{job}");
    }
    let open = server.get("/api/v1/models").expect(200);
    assert_eq!((&open["models"][1]["open"], &open["models"][2]["open"]), (&json!(true), &json!(true)));
    let body = json!({ "kind": "generate", "model": "broken", "request": { "prompt": "x" } });
    let refused = server.post("/api/v1/jobs", &body).expect(422);
    assert_eq!(refused["error"]["code"], "model.invalid");
}

#[test]
fn what_is_not_valid_is_refused_by_name() {
    let server = start(|_| {});
    let job = |request: Value| json!({ "kind": "generate", "request": request });
    for (body, status, field) in [
        (job(json!({ "prompt": "x", "width": 33 })), 422, json!("width")),
        (job(json!({ "prompt": "x", "width": 8192 })), 422, json!("width")),
        (job(json!({ "prompt": "x", "steps": 100_000 })), 422, json!("steps")),
        (job(json!({ "prompt": "x", "count": 1000 })), 422, json!("count")),
        (job(json!({ "prompt": "x", "count": 0 })), 422, json!("count")),
        (job(json!({ "prompt": "x", "scheduler": "no such" })), 422, json!("scheduler")),
        (job(json!({ "prompt": "x", "stepss": 3 })), 422, json!("stepss")),
        (job(json!({ "prompt": "<lora:none:1>" })), 422, json!("prompt")),
        (job(json!({ "prompt": "x", "start_picture": { "data": "AAAA" } })), 422, json!("start_picture")),
        (
            job(json!({ "prompt": "x", "start_picture": { "picture": "../../etc/passwd" } })),
            422,
            json!("start_picture"),
        ),
        (job(json!({ "prompt": "x", "mask": { "picture": "x" } })), 422, json!("mask")),
        (json!({ "kind": "generate", "model": "none", "request": {} }), 404, json!("model")),
        (json!({ "kind": "convert", "source": "../x", "type": "q8" }), 422, json!("source")),
        (json!({ "kind": "other" }), 422, json!("other")),
        (json!([]), 422, json!("kind")),
    ] {
        let answer = server.post("/api/v1/jobs", &body).expect(status);
        assert!(answer["error"]["message"].is_string(), "{answer}");
        assert_eq!(answer["error"]["field"], field, "{body}: {answer}");
    }
    assert_eq!(server.request("POST", "/api/v1/jobs", &[], b"{").status, 400);
    assert_eq!(server.get("/api/v1/jobs/none").expect(404)["error"]["code"], "not_found");
    assert_eq!(server.get("/nothing").expect(404)["error"]["code"], "not_found");
    assert_eq!(server.delete("/api/v1/status").expect(405)["error"]["code"], "method_not_allowed");
    assert_eq!(server.get("/api/v1/jobs?limit=x").expect(400)["error"]["code"], "request.invalid");
    assert!(server.get("/api/v1/jobs").expect(200)["jobs"].as_array().unwrap().is_empty());
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = start(|options| options.limits.queue = 1);
    let first = server.draw(json!({ "steps": 400, "width": 64, "height": 64 }));
    let path = format!("/api/v1/jobs/{}", first["id"].as_str().unwrap());
    server.until(&path, |job| job["state"] == "running");
    server.draw(json!({}));
    let body = json!({ "kind": "generate", "request": { "prompt": "x" } });
    let full = server.post("/api/v1/jobs", &body);
    assert!(full.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(full.expect(503)["error"]["code"], "queue.full");
    let watched = server.events(&format!("{path}/events"), |name, _| name == "progress");
    assert!(watched.len() >= 2);
}

#[test]
fn a_watcher_that_goes_away_leaves_the_job_alone() {
    let server = start(|_| {});
    let job = server.draw(json!({ "steps": 40, "width": 64, "height": 64 }));
    let mut stream = server.connect();
    let id = job["id"].as_str().unwrap();
    write!(stream, "GET /api/v1/jobs/{id}/events HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).unwrap();
    drop(stream);
    assert_eq!(server.ended(&job)["state"], "done");
}
