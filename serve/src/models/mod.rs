//! The models that requests can name: listed, described and opened on demand.

mod catalog;
mod pool;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::SystemTime,
};

use sdq::{
    Error, MemoryBudget, Pipeline, PipelineOptions, add_ons::AddOns, model, plan, request::Accepts,
    request::Defaults,
};

pub(crate) use catalog::{Convertible, Listed};

use crate::problem::Problem;
use catalog::Folders;
use pool::{Key, Pool};

/// Models that are open for queries at the same time.
const OPEN_FOR_QUERIES: usize = 4;

/// The models of a server.
#[derive(Debug)]
pub(crate) struct Models {
    folders: Folders,
    options: PipelineOptions,
    budget: MemoryBudget,
    /// What is known of files, until they change.
    known: Mutex<HashMap<PathBuf, (Stamp, Described)>>,
    /// Models that are open for queries, the latest last.
    open: Mutex<Vec<(String, Stamp, Pipeline)>>,
    pool: Mutex<Pool>,
    measuring: Once,
    is_measured: AtomicBool,
}

/// Tells a file from one that replaced it: its length and its time.
type Stamp = (u64, Option<SystemTime>);

/// A model, or why it cannot be read.
pub(crate) type Described = Result<Description, (&'static str, String)>;

/// What a list says of a model.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) title: String,
    pub(crate) family: &'static str,
    pub(crate) class_name: String,
    pub(crate) fingerprint: String,
    pub(crate) weight_types: Vec<String>,
    pub(crate) defaults: Defaults,
    pub(crate) accepts: Accepts,
}

impl Models {
    pub(crate) fn new(
        files: Vec<PathBuf>,
        folder: Option<PathBuf>,
        options: PipelineOptions,
        budget: MemoryBudget,
    ) -> Models {
        Models {
            folders: Folders { files, folder },
            options,
            budget,
            known: Mutex::default(),
            open: Mutex::default(),
            pool: Mutex::default(),
            measuring: Once::new(),
            is_measured: AtomicBool::new(false),
        }
    }

    /// Measures the device on a thread of its own, unless that was begun before.
    pub(crate) fn measure(self: &Arc<Models>) {
        self.measuring.call_once(|| {
            let models = self.clone();
            // Without the measurement plans have no seconds, and nothing else is missing.
            let _ = thread::Builder::new().name("sdq measure".to_owned()).spawn(move || {
                models.is_measured.store(plan::measure(&models.options).is_ok(), Ordering::Release);
            });
        });
    }

    /// Whether the time of a run can be predicted without measuring the device first.
    pub(crate) fn is_measured(&self) -> bool {
        self.is_measured.load(Ordering::Acquire)
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(crate) fn options(&self) -> &PipelineOptions {
        &self.options
    }

    pub(crate) fn max_memory(&self) -> Option<u64> {
        self.options.max_memory
    }

    /// The folder that is searched for models, where conversions write.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folders.folder.as_deref()
    }

    /// All models that can be named now, those of the command line first.
    pub(crate) fn list(&self) -> Vec<Listed> {
        self.folders.list()
    }

    /// Published models that can be converted.
    pub(crate) fn convertible(&self) -> Vec<Convertible> {
        self.folders.convertible()
    }

    /// Whether graphs of the model are kept.
    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.pool().has(id)
    }

    /// The model that `name`, an id or a file name, names; the first one for none.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<Listed> {
        let listed = self.list();
        let Some(name) = name else { return listed.into_iter().next() };
        let is_named = |listed: &&Listed| listed.id == name || listed.file_name() == Some(name);
        listed.iter().find(is_named).cloned()
    }

    /// As [`find`](Models::find).
    ///
    /// # Errors
    /// When there is no such model.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Listed, Problem> {
        self.find(name).ok_or_else(|| {
            let problem = Problem::not_found("there is no model of this name; /api/v1/models lists them");
            Problem { code: "model.not_found", field: Some("model".to_owned()), ..problem }
        })
    }

    /// What a list says of the model.
    pub(crate) fn describe(&self, listed: &Listed) -> Described {
        let stamp = stamp(listed.path.as_deref());
        let key = listed.path.clone().unwrap_or_default();
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, described)) = lock().get(&key)
            && *known == stamp
        {
            return described.clone();
        }
        let described = self.pipeline(listed).and_then(|pipeline| describe(&pipeline));
        let described = described.map_err(|error| (error.code(), error.to_string()));
        lock().insert(key, (stamp, described.clone()));
        described
    }

    /// The model without add-ons.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn pipeline(&self, listed: &Listed) -> Result<Pipeline, Error> {
        let stamp = stamp(listed.path.as_deref());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.iter().position(|(id, known, _)| *id == listed.id && *known == stamp) {
            let found = open.remove(index);
            let pipeline = found.2.clone();
            open.push(found);
            return Ok(pipeline);
        }
        let pipeline = model::open(listed.path.as_deref(), &self.options)?;
        open.retain(|(id, ..)| *id != listed.id);
        if open.len() >= OPEN_FOR_QUERIES {
            open.remove(0);
        }
        open.push((listed.id.clone(), stamp, pipeline.clone()));
        Ok(pipeline)
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, listed: &Listed, add_ons: &AddOns) -> Key {
        Key { id: listed.id.clone(), stamp: stamp(listed.path.as_deref()), add_ons: add_ons.clone() }
    }
}

fn stamp(path: Option<&Path>) -> Stamp {
    let found = path.and_then(|path| fs::metadata(path).ok());
    found.map_or((0, None), |found| (found.len(), found.modified().ok()))
}

fn describe(pipeline: &Pipeline) -> Result<Description, Error> {
    let manifest = pipeline.manifest();
    Ok(Description {
        title: manifest.name.clone(),
        family: pipeline.family().name(),
        class_name: manifest.pipeline_class.clone(),
        fingerprint: pipeline.fingerprint(),
        weight_types: {
            let mut types: Vec<String> = pipeline.weight_types().into_values().collect();
            types.sort();
            types.dedup();
            types
        },
        defaults: pipeline.defaults()?,
        accepts: pipeline.accepts(),
    })
}
