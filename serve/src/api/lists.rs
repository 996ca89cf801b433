//! What requests can name: models, schedulers, LoRAs, embeddings.

use std::{path::PathBuf, sync::Arc};

use axum::{Json, extract::State};
use sdq::{add_ons::files_below, schedulers};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    call::blocking,
    models::{Described, Listed},
    problem::Problem,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct Models {
    models: Vec<Model>,
    /// Published models in the server's folder, for a job that converts one.
    convertible: Vec<ConvertibleModel>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    /// Its name in requests.
    id: String,
    title: String,
    built_in: bool,
    bytes: u64,
    /// Whether graphs of it are kept, so that it starts at once.
    open: bool,
    /// SD1, SD2, SDXL or SDXL refiner: the published models whose networks have the same structure.
    family: Option<&'static str>,
    class_name: Option<String>,
    fingerprint: Option<String>,
    weight_types: Vec<String>,
    defaults: Option<ModelDefaults>,
    accepts: Accepts,
    /// Why it cannot be used.
    problem: Option<String>,
}

/// The model's values for fields that a request leaves out.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelDefaults {
    width: usize,
    height: usize,
    steps: usize,
    guidance_scale: f64,
    scheduler: String,
}

/// The pictures that requests may have.
#[derive(Serialize, ToSchema)]
pub(crate) struct Accepts {
    picture: bool,
    mask: bool,
    needs_picture: bool,
    needs_mask: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ConvertibleModel {
    name: String,
    /// 0 for a folder.
    bytes: u64,
}

/// The models, the default first.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = Models)))]
pub(super) async fn models(State(app): State<Arc<App>>) -> Result<Json<Models>, Problem> {
    let list = move || {
        let models = app.models.list().into_iter().map(|listed| {
            let described = app.models.describe(&listed);
            model(&app, listed, described)
        });
        let models = models.collect();
        let convertible = app.models.convertible().into_iter();
        let convertible =
            convertible.map(|found| ConvertibleModel { name: found.name, bytes: found.bytes }).collect();
        Ok(Json(Models { models, convertible }))
    };
    blocking(list).await
}

fn model(app: &App, listed: Listed, described: Described) -> Model {
    let Listed { id, path } = listed;
    let bytes = path.as_ref().and_then(|path| path.metadata().ok()).map_or(0, |found| found.len());
    let (problem, described) = match described {
        Ok(described) => (None, Some(described)),
        Err((_, problem)) => (Some(app.shown(&problem)), None),
    };
    let accepts = described.as_ref().map(|described| described.accepts);
    Model {
        title: described.as_ref().map_or_else(|| id.clone(), |described| described.title.clone()),
        built_in: path.is_none(),
        bytes,
        open: app.models.is_open(&id),
        id,
        family: described.as_ref().map(|described| described.family),
        class_name: described.as_ref().map(|described| described.class_name.clone()),
        fingerprint: described.as_ref().map(|described| described.fingerprint.clone()),
        weight_types: described.as_ref().map(|described| described.weight_types.clone()).unwrap_or_default(),
        accepts: Accepts {
            picture: accepts.is_some(),
            mask: accepts.is_some_and(|accepts| accepts.mask),
            needs_picture: accepts.is_some_and(|accepts| accepts.needs_picture),
            needs_mask: accepts.is_some_and(|accepts| accepts.needs_mask),
        },
        defaults: described.map(|described| ModelDefaults {
            width: described.defaults.width,
            height: described.defaults.height,
            steps: described.defaults.steps,
            guidance_scale: f64::from(described.defaults.guidance_scale),
            scheduler: described.defaults.scheduler,
        }),
        problem,
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Schedulers {
    schedulers: Vec<Scheduler>,
    /// Each can follow a scheduler's name: `euler-karras`.
    sigma_schedules: Vec<SigmaSchedule>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Scheduler {
    name: String,
    /// Its name in AUTOMATIC1111's web UI.
    title: String,
    /// What it is, and when to use it.
    advice: String,
    aliases: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SigmaSchedule {
    name: String,
    title: String,
}

/// The schedulers and the sigma schedules.
#[utoipa::path(get, path = "/api/v1/schedulers", responses((status = 200, body = Schedulers)))]
pub(super) async fn schedulers() -> Json<Schedulers> {
    let scheduler = |(name, entry): (&str, schedulers::SchedulerEntry)| Scheduler {
        name: name.to_owned(),
        title: title(name),
        advice: entry.summary.to_owned(),
        aliases: match name == entry.name {
            true => entry.aliases.iter().map(|&alias| alias.to_owned()).collect(),
            false => Vec::new(),
        },
    };
    let sigma_schedules = schedulers::schedules().iter();
    Json(Schedulers {
        schedulers: named_schedulers().map(scheduler).collect(),
        sigma_schedules: sigma_schedules
            .map(|schedule| SigmaSchedule {
                name: schedule.name.to_owned(),
                title: schedule.label.to_owned(),
            })
            .collect(),
    })
}

/// All schedulers and their presets by name.
pub(crate) fn named_schedulers() -> impl Iterator<Item = (&'static str, schedulers::SchedulerEntry)> {
    schedulers::schedulers().into_iter().flat_map(|entry| {
        let presets = entry.presets.iter().map(|preset| preset.name);
        std::iter::once(entry.name).chain(presets).map(move |name| (name, entry))
    })
}

/// The name of a scheduler in AUTOMATIC1111's web UI.
pub(crate) fn title(name: &str) -> String {
    schedulers::find(name).map_or_else(|_| name.to_owned(), |named| named.labels(&[]).0)
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Loras {
    loras: Vec<Lora>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Lora {
    /// Its name in a tag: `<lora:NAME:0.8>`.
    name: String,
    bytes: u64,
}

/// The LoRAs that prompts can name.
#[utoipa::path(get, path = "/api/v1/loras", responses((status = 200, body = Loras)))]
pub(super) async fn loras(State(app): State<Arc<App>>) -> Result<Json<Loras>, Problem> {
    blocking(move || {
        let lora = |(name, path): (String, PathBuf)| Lora { name, bytes: bytes_of(&path) };
        Ok(Json(Loras { loras: named(app.lora_dir.as_deref()).into_iter().map(lora).collect() }))
    })
    .await
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Embeddings {
    embeddings: Vec<Embedding>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Embedding {
    /// The word in prompts.
    word: String,
    name: String,
}

/// The words that embeddings add.
#[utoipa::path(get, path = "/api/v1/embeddings", responses((status = 200, body = Embeddings)))]
pub(super) async fn embeddings(State(app): State<Arc<App>>) -> Result<Json<Embeddings>, Problem> {
    blocking(move || {
        let embedding = |(word, path): (String, PathBuf)| Embedding {
            word,
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let embeddings = named(app.embedding_dir.as_deref()).into_iter().map(embedding).collect();
        Ok(Json(Embeddings { embeddings }))
    })
    .await
}

/// The files of add-ons in a folder by their stems.
pub(crate) fn named(folder: Option<&std::path::Path>) -> Vec<(String, PathBuf)> {
    let files = folder.map(files_below).unwrap_or_default().into_iter();
    let stem = |path: PathBuf| Some((path.file_stem()?.to_str()?.to_owned(), path));
    files.filter_map(stem).collect()
}

fn bytes_of(path: &std::path::Path) -> u64 {
    path.metadata().map_or(0, |found| found.len())
}
