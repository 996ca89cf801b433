//! The interface of AUTOMATIC1111's web UI, as far as its clients use it.

mod options;
mod pictures;
mod progress;
mod request;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{get, post},
};
use sdq::picture::{self, PictureFormat};
use serde_json::{Value, json};

use crate::{
    app::App,
    body,
    call::{Call, blocking, files},
    draw::{DrawRequest, to_base64},
    models::Listed,
    problem::Problem,
    queue::{Preview, Snapshot},
    store::Work,
};

pub(crate) use options::Settings;
pub(crate) use pictures::decoded;
use request::WebUiRequest;

pub(crate) fn routes() -> Router<Arc<App>> {
    let empty_list = || get(async || Json(json!([])));
    let nothing = || post(async || Json(Value::Null));
    let paths = Router::new()
        .route("/txt2img", post(txt2img))
        .route("/img2img", post(img2img))
        .route("/options", get(options::get).post(options::set))
        .route("/sd-models", get(options::models))
        .route("/samplers", get(options::samplers))
        .route("/schedulers", get(options::schedules))
        .route("/upscalers", get(options::upscalers))
        .route("/latent-upscale-modes", get(options::latent_modes))
        .route("/loras", get(options::loras))
        .route("/embeddings", get(options::embeddings))
        .route("/memory", get(options::memory))
        .route("/progress", get(progress::progress))
        .route("/interrupt", post(progress::interrupt))
        .route("/skip", post(progress::interrupt))
        .route("/png-info", post(png_info))
        .route("/cmd-flags", get(async || Json(json!({}))));
    let lists = [
        "/sd-vae",
        "/sd-modules",
        "/hypernetworks",
        "/face-restorers",
        "/prompt-styles",
        "/realesrgan-models",
    ];
    let paths = lists.into_iter().fold(paths, |paths, path| paths.route(path, empty_list()));
    let actions = [
        "/refresh-checkpoints",
        "/refresh-loras",
        "/refresh-vae",
        "/unload-checkpoint",
        "/reload-checkpoint",
    ];
    let paths = actions.into_iter().fold(paths, |paths, path| paths.route(path, nothing()));
    Router::new().nest("/sdapi/v1", paths)
}

async fn txt2img(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Problem> {
    draw(app, body, |_, _, _, _| Ok(())).await
}

async fn img2img(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Problem> {
    draw(app, body, |app, asked, model, request| {
        request.enlarge = None;
        request.check_limits(app)?;
        let stored = pictures::store(app, asked, request)?;
        let accepts = app.models.describe(model).ok().map(|found| found.accepts);
        let is_editing = accepts.is_some_and(|accepts| !accepts.mask);
        asked.start_from(request, stored, is_editing);
        Ok(())
    })
    .await
}

/// Draws, and answers when all pictures are there. `add_pictures` completes the request.
async fn draw(
    app: Arc<App>,
    body: Body,
    add_pictures: impl FnOnce(&App, &mut WebUiRequest, &Listed, &mut DrawRequest) -> Result<(), Problem>
    + Send
    + 'static,
) -> Result<Json<Value>, Problem> {
    let mut held = body::large_json::<WebUiRequest>(&app, body).await?;
    let own = app.clone();
    let (model, request, asked) = blocking(move || {
        let model = held.value.model(&own)?;
        let mut request = held.value.to_draw(&own, &model)?;
        add_pictures(&own, &mut held.value, &model, &mut request)?;
        // They are in the store, and the job may wait for long.
        held.value.forget_pictures();
        Ok((model, request, std::mem::take(&mut held.value)))
    })
    .await?;
    let call = Call::start(&app, Some(model.id), request).await?;
    let (job, preview) = call.end_or_preview().await?;
    blocking(move || answer(&app, &asked, &job, preview.as_deref()).map(Json)).await
}

fn answer(
    app: &App,
    asked: &WebUiRequest,
    job: &Snapshot,
    preview: Option<&Preview>,
) -> Result<Value, Problem> {
    let paths = files(app, &job.entry.pictures);
    let mut infotexts = Vec::new();
    let mut images = Vec::new();
    for path in &paths {
        let texts = picture::read_texts(path).unwrap_or_default();
        let text = texts.into_iter().find(|(keyword, _)| keyword == picture::PARAMETERS);
        infotexts.push(text.map(|(_, text)| text).unwrap_or_default());
        if asked.send_images != Some(false) {
            images.push(to_base64(&std::fs::read(path).map_err(|_| Problem::internal())?));
        }
    }
    let mut info = info(app, job, &infotexts);
    info["notes"] = asked.notes.iter().chain(&job.entry.notes).cloned().collect();
    if let (true, Some(preview)) = (paths.is_empty(), preview) {
        // An interrupted picture is returned as it is.
        let (width, height) = (info["width"].as_u64(), info["height"].as_u64());
        let side = |side: Option<u64>, own: usize| side.map_or(own, |side| side as usize);
        let own = &preview.picture;
        let large = own.fill(side(width, own.width), side(height, own.height));
        let bytes = large.and_then(|large| picture::to_bytes(&large, PictureFormat::Png, &[]));
        images.extend(bytes.ok().map(|bytes| to_base64(&bytes)));
    }
    let parameters = serde_json::to_value(asked).unwrap_or_default();
    Ok(json!({ "images": images, "parameters": parameters, "info": info.to_string() }))
}

/// What the web UI tells of its pictures.
fn info(app: &App, job: &Snapshot, infotexts: &[String]) -> Value {
    let Work::Generate { request } = &job.entry.work else { return Value::Null };
    let described: Vec<_> = job.entry.pictures.iter().filter_map(|id| app.store.describe(id)).collect();
    let model = app.models.find(Some(&job.entry.model)).and_then(|listed| app.models.describe(&listed).ok());
    let defaults = model.as_ref().map(|model| &model.defaults);
    let count = request.count.unwrap_or(1);
    let seed = request.seed.unwrap_or_default();
    let seeds: Vec<u64> = (0..count as u64).map(|index| seed.wrapping_add(index)).collect();
    let subseed = request.variation_seed.unwrap_or(seed);
    let first = described.first();
    let side = |own: Option<usize>, default: fn(&sdq::request::Defaults) -> usize| {
        own.or_else(|| defaults.map(default))
    };
    json!({
        "prompt": request.prompt,
        "all_prompts": vec![&request.prompt; count],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": vec![&request.negative_prompt; count],
        "seed": seed,
        "all_seeds": seeds,
        "subseed": subseed,
        "all_subseeds": (0..count as u64).map(|index| subseed.wrapping_add(index)).collect::<Vec<_>>(),
        "subseed_strength": request.variation_strength.unwrap_or(0.0),
        "width": first.map_or_else(|| side(request.width, |found| found.width), |found| Some(found.width)),
        "height": first.map_or_else(|| side(request.height, |found| found.height), |found| Some(found.height)),
        "sampler_name": request.scheduler.clone().or(defaults.map(|found| found.scheduler.clone())),
        "cfg_scale": request.guidance_scale.or(defaults.map(|found| f64::from(found.guidance_scale))),
        "steps": request.steps.or(defaults.map(|found| found.steps)),
        "batch_size": count,
        "restore_faces": false,
        "face_restoration_model": null,
        "sd_model_name": job.entry.model,
        "sd_model_hash": model.as_ref().map(|model| model.fingerprint.clone()),
        "sd_vae_name": null,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.strength,
        "extra_generation_params": match request.only_masked {
            Some(padding) => json!({ "Inpaint area": "Only masked", "Masked area padding": padding }),
            None => json!({}),
        },
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": job.entry.created,
        "clip_skip": request.clip_skip.unwrap_or(1),
        "is_using_inpainting_conditioning": false,
        "version": format!("sdq {}", env!("CARGO_PKG_VERSION")),
    })
}

/// The texts of an uploaded picture.
async fn png_info(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Problem> {
    #[derive(serde::Deserialize)]
    struct Asked {
        image: String,
    }
    let held = body::large_json::<Asked>(&app, body).await?;
    blocking(move || {
        let bytes = crate::draw::from_base64(&held.value.image, "image")?;
        let texts = app.store.with_temporary(&bytes, |path| picture::read_texts(path))?;
        let texts =
            texts.map_err(|error| Problem::invalid("image", app.shown(&error.problem.to_string())))?;
        let info = texts.iter().find(|(keyword, _)| keyword == picture::PARAMETERS);
        let info = info.map(|(_, text)| text.clone()).unwrap_or_default();
        let items: serde_json::Map<String, Value> =
            texts.into_iter().map(|(keyword, text)| (keyword, Value::String(text))).collect();
        Ok(Json(json!({ "info": info, "items": items, "parameters": {} })))
    })
    .await
}
