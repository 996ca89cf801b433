//! The web UI's settings, of which the model is one, and its lists.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Json, body::Body, extract::State};
use sdq::schedulers;
use serde_json::{Value, json};

use crate::{
    api::lists::{named, named_schedulers, title},
    app::App,
    body,
    call::blocking,
    models::Listed,
    problem::Problem,
};

/// Letters of a fingerprint that a title has.
const HASH: usize = 10;

/// Settings that clients change for all later requests.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    model: Mutex<Option<String>>,
}

impl Settings {
    /// The model of requests that name none.
    pub(super) fn model(app: &App) -> Result<Listed, Problem> {
        let chosen = app.webui.model.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chosen = chosen.and_then(|id| app.models.find(Some(&id)));
        chosen.map_or_else(|| app.models.get(None), Ok)
    }
}

/// The name of a model in lists: its file, and a part of its hash.
fn title_of(app: &App, listed: &Listed) -> String {
    let name = listed.file_name().unwrap_or(&listed.id);
    match app.models.describe(listed) {
        Ok(found) => format!("{name} [{}]", short(&found.fingerprint)),
        Err(_) => name.to_owned(),
    }
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..HASH).unwrap_or(fingerprint)
}

/// The model called `name` in a list, with or without its hash.
pub(super) fn model_called(app: &App, name: &str) -> Result<Listed, Problem> {
    let plain = name.rsplit_once(" [").map_or(name, |(plain, _)| plain);
    let listed = app.models.list();
    let exact = listed.iter().find(|listed| title_of(app, listed) == name).cloned();
    exact.map_or_else(|| app.models.get(Some(plain)), Ok)
}

pub(super) async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let listed = Settings::model(&app)?;
        Ok(Json(json!({
            "sd_model_checkpoint": title_of(&app, &listed),
            "sd_checkpoint_hash": app.models.describe(&listed).map(|found| found.fingerprint).unwrap_or_default(),
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
            "samples_save": true,
            "show_progress_every_n_steps": 1,
        })))
    })
    .await
}

pub(super) async fn set(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Problem> {
    let options: Value = body::json(&app, body).await?;
    blocking(move || {
        if let Some(name) = options["sd_model_checkpoint"].as_str() {
            let listed = model_called(&app, name)?;
            *app.webui.model.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed.id);
        }
        Ok(Json(Value::Null))
    })
    .await
}

pub(super) async fn models(State(app): State<Arc<App>>) -> Result<Json<Vec<Value>>, Problem> {
    blocking(move || {
        let listed = app.models.list().into_iter();
        let usable = listed.filter_map(|listed| Some((app.models.describe(&listed).ok()?, listed)));
        let described = usable.map(|(found, listed)| {
            json!({
                "title": title_of(&app, &listed),
                "model_name": listed.id,
                "hash": short(&found.fingerprint),
                "sha256": null,
                "filename": listed.file_name().unwrap_or(&listed.id),
                "config": null,
            })
        });
        Ok(Json(described.collect()))
    })
    .await
}

pub(super) async fn samplers() -> Json<Vec<Value>> {
    let sampler = |(name, entry): (&str, schedulers::SchedulerEntry)| {
        let more = if name == entry.name { entry.aliases } else { &[] };
        let aliases: Vec<&str> = std::iter::once(name).chain(more.iter().copied()).collect();
        json!({ "name": title(name), "aliases": aliases, "options": {} })
    };
    Json(named_schedulers().map(sampler).collect())
}

pub(super) async fn schedules() -> Json<Vec<Value>> {
    let schedule = |name: &str, label: &str, aliases: &[&str]| json!({ "name": name, "label": label, "aliases": aliases, "default_rho": -1.0, "need_inner_model": false });
    let all = schedulers::schedules().iter();
    let all = all.map(|found| schedule(&found.name.replace('-', "_"), found.label, found.aliases));
    Json(std::iter::once(schedule("automatic", "Automatic", &[])).chain(all).collect())
}

pub(super) async fn upscalers() -> Json<Value> {
    let upscaler = |name: &str| json!({ "name": name, "model_name": null, "model_path": null, "model_url": null, "scale": 4.0 });
    Json(json!([upscaler("None"), upscaler("Lanczos")]))
}

pub(super) async fn latent_modes() -> Json<Value> {
    Json(json!([{ "name": "Latent" }]))
}

pub(super) async fn loras(State(app): State<Arc<App>>) -> Result<Json<Vec<Value>>, Problem> {
    blocking(move || {
        let lora = |(name, path): (String, std::path::PathBuf)| {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            json!({ "name": name, "alias": name, "path": file, "metadata": {} })
        };
        Ok(Json(named(app.lora_dir.as_deref()).into_iter().map(lora).collect()))
    })
    .await
}

pub(super) async fn embeddings(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let word = |(word, _)| {
            let described = json!({
                "step": null, "sd_checkpoint": null, "sd_checkpoint_name": null, "shape": 0, "vectors": 0,
            });
            (word, described)
        };
        let loaded: serde_json::Map<String, Value> =
            named(app.embedding_dir.as_deref()).into_iter().map(word).collect();
        Ok(Json(json!({ "loaded": loaded, "skipped": {} })))
    })
    .await
}

pub(super) async fn memory(State(app): State<Arc<App>>) -> Json<Value> {
    let budget = app.models.budget();
    let (free, used) = (budget.left().unwrap_or(0), budget.taken());
    Json(json!({
        "ram": { "free": free, "used": used, "total": free.saturating_add(used) },
        "cuda": { "error": "not used" },
    }))
}
