//! The state that all requests share, and the table of paths.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, extract::Request, http::StatusCode, middleware, response::Response, routing::get};
use sdq::{
    Error, MemoryBudget, PipelineOptions,
    device::{self, Wanted},
};
use tokio::sync::Semaphore;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Options, ServeError, a1111, api,
    guard::Guard,
    limits::{LARGE_BODIES, Limits},
    models::Models,
    openai, page,
    problem::{Dialect, Problem},
    queue::Queue,
    store::Store,
};

/// The state of a server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) limits: Limits,
    pub(crate) guard: Guard,
    pub(crate) store: Arc<Store>,
    pub(crate) queue: Queue,
    pub(crate) models: Arc<Models>,
    pub(crate) lora_dir: Option<PathBuf>,
    pub(crate) embedding_dir: Option<PathBuf>,
    pub(crate) address: SocketAddr,
    /// Settings that clients of the web UI's interface change.
    pub(crate) webui: a1111::Settings,
    /// The device that draws, in words.
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// Streams of events that may still be opened.
    pub(crate) watchers: Arc<Semaphore>,
    /// Large bodies that may still be read.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// The document of the own interface.
    pub(crate) openapi: String,
    /// Folders that are left out of texts for clients, the longest first.
    hidden: Vec<String>,
}

impl App {
    /// Opens the folder of `options`, and the models of its list once, so that a wrong one is reported at once.
    pub(crate) fn open(options: Options, address: SocketAddr) -> Result<App, ServeError> {
        let Options { limits, models: files, model_dir, lora_dir, embedding_dir, pipeline, .. } = options;
        let guard = Guard::new(options.token.as_deref(), &options.allow_origin, address);
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let files: Vec<PathBuf> = files.into_iter().map(absolute).collect();
        let [model_dir, lora_dir, embedding_dir] =
            [model_dir, lora_dir, embedding_dir].map(|folder| folder.map(absolute));
        let (store, entries) = Store::open(&options.output_dir)?;
        let store = Arc::new(store);
        let queue = Queue::new(store.clone(), entries, limits.queue, limits.history);
        queue.remove_unused_uploads();
        // One for all models: its threads, and what is measured of it.
        let backend = match pipeline.backend {
            Some(backend) => backend,
            None => device::open(Wanted::Cpu, None, pipeline.threads, Arc::new(|_| {}))?,
        };
        let device = backend.description();
        let pipeline = PipelineOptions { backend: Some(backend), ..pipeline };
        let threads = pipeline.threads.map_or_else(cores, |threads| threads.get());
        let budget = MemoryBudget::new(pipeline.max_memory);
        let folders =
            [Some(store.root()), model_dir.as_deref(), lora_dir.as_deref(), embedding_dir.as_deref()];
        let of_files = files.iter().filter_map(|file| file.parent());
        let temporary = std::env::temp_dir();
        let hidden = hidden(folders.into_iter().flatten().chain(of_files).chain([temporary.as_path()]));
        let models = Arc::new(Models::new(files.clone(), model_dir, pipeline, budget));
        for listed in models.list().into_iter().take(files.len()) {
            models.pipeline(&listed)?;
        }
        let (watchers, large_bodies) =
            (Arc::new(Semaphore::new(limits.watchers)), Arc::new(Semaphore::new(LARGE_BODIES)));
        Ok(App {
            limits,
            guard,
            store,
            queue,
            models,
            lora_dir,
            embedding_dir,
            address,
            webui: a1111::Settings::default(),
            device,
            threads,
            watchers,
            large_bodies,
            openapi: openapi().split_for_parts().1.to_json().unwrap_or_default(),
            hidden,
        })
    }

    /// `text` without the folders of this machine.
    pub(crate) fn shown(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, folder| text.replace(folder, ""))
    }

    /// An error of the library for a client.
    pub(crate) fn problem(&self, error: &Error) -> Problem {
        Problem::of_library(error, self.shown(&error.to_string()))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The spellings of `folders` in messages, with the slash behind them.
fn hidden<'a>(folders: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let spelled = |path: &Path| format!("{}{}", path.display(), std::path::MAIN_SEPARATOR);
    let both = |path: &Path| {
        let real = std::fs::canonicalize(path).ok().map(|real| spelled(&real));
        std::iter::once(spelled(path)).chain(real).collect::<Vec<_>>()
    };
    let mut hidden: Vec<String> = folders.flat_map(both).filter(|text| text.len() > 1).collect();
    hidden.sort_by_key(|text| std::cmp::Reverse(text.len()));
    hidden.dedup();
    hidden
}

/// The paths of the own interface with their description.
fn openapi() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(api::Document::openapi()).merge(api::routes())
}

/// All paths, behind the guard.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (own, _) = openapi().split_for_parts();
    Router::new()
        .merge(own)
        .merge(openai::routes())
        .merge(a1111::routes())
        .merge(page::routes())
        .route("/health", get(async || axum::Json(serde_json::json!({ "status": "ok" }))))
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not support the method",
            )
        })
        .layer(middleware::from_fn_with_state(app.clone(), crate::guard::check_request))
        .layer(middleware::from_fn(in_dialect))
        .with_state(app)
}

/// Writes problems in the form of their path's interface.
async fn in_dialect(request: Request, next: middleware::Next) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if dialect != Dialect::Own => {
            let mut written = problem.answer(dialect);
            // Those of the guard and of other layers.
            for (name, value) in response.headers() {
                if !written.headers().contains_key(name) {
                    written.headers_mut().insert(name.clone(), value.clone());
                }
            }
            written
        }
        _ => response,
    }
}
