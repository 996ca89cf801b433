//! The server of sdq: `sdq serve`.
//!
//! One process draws for any number of clients, one job after the other. It speaks three interfaces: its own under
//! `/api/v1`, OpenAI's pictures under `/v1`, and that of AUTOMATIC1111's web UI under `/sdapi/v1`; `/` is a page for
//! people. docs/server.md describes them.
#![forbid(unsafe_code)]

mod a1111;
mod api;
mod app;
mod body;
mod call;
mod connection;
mod draw;
mod extract;
mod guard;
mod limits;
mod models;
mod openai;
mod page;
mod patient;
mod problem;
mod queue;
mod store;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sdq::{Cancel, PipelineOptions};

pub use limits::Limits;

use app::App;

/// How long a run that is being stopped may take for its step.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the request to end is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Threads for requests; pictures are drawn on others.
const THREADS: usize = 2;
/// Most threads that read and write files for requests.
const FILE_THREADS: usize = 8;

/// What a server serves, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address and port to listen at; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret that clients have to know; required at other addresses than loopback.
    pub token: Option<String>,
    /// Origins of other pages that may use this server, such as `https://example.org`, and names under which this server
    /// may be called beside localhost.
    pub allow_origin: Vec<String>,
    /// `.sdq` files. The first is the model of requests that name none; without any it is the first of `model_dir`, or the
    /// built-in one.
    pub models: Vec<PathBuf>,
    /// A folder of further models.
    pub model_dir: Option<PathBuf>,
    /// A folder of LoRAs, for tags in prompts.
    pub lora_dir: Option<PathBuf>,
    /// A folder of textual inversions, whose words are the names of their files.
    pub embedding_dir: Option<PathBuf>,
    /// The folder for pictures and jobs. It is made if necessary.
    pub output_dir: PathBuf,
    /// Options of all models. `max_memory` is shared by all runs and kept graphs.
    pub pipeline: PipelineOptions,
    /// Jobs that run at the same time, where memory allows it.
    pub parallel: NonZeroUsize,
    /// Bounds of requests.
    pub limits: Limits,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anyone in the network could use the server.
    #[error(
        "at {address} other computers reach this server; set a token that they have to know (--token), or listen at 127.0.0.1"
    )]
    TokenRequired {
        /// The address.
        address: SocketAddr,
    },
    /// The token cannot be sent in a header.
    #[error("the token must consist of 1 to 256 visible ASCII characters")]
    Token,
    /// An allowed origin has another form.
    #[error("`{origin}` is no origin, such as https://example.org or http://127.0.0.1:8000")]
    Origin {
        /// The text.
        origin: String,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The folder for pictures cannot be used.
    #[error("cannot use the folder `{}`: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another server writes to the folder.
    #[error("another server uses the folder `{}`; choose another one for this server", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A model of the command line cannot be opened.
    #[error(transparent)]
    Model(#[from] sdq::Error),
    /// The system refuses threads.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A server that is ready to run: it listens, and its folder is open.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    parallel: NonZeroUsize,
}

impl Server {
    /// Opens the folder and listens. Connections wait until [`run`](Server::run).
    ///
    /// # Errors
    /// When the options are not safe, the folder or the address cannot be used, or a model cannot be opened.
    pub fn open(options: Options) -> Result<Server, ServeError> {
        guard::check(&options)?;
        let listen = |error| ServeError::Listen { address: options.listen, error };
        let listener = TcpListener::bind(options.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let parallel = options.parallel;
        let app = Arc::new(App::open(options, address)?);
        Ok(Server { app, listener, address, parallel })
    }

    /// The address and the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is used. Then the jobs that run are saved, and the next server offers to resume them.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn run(self, stop: &Cancel) -> Result<(), ServeError> {
        let Server { app, listener, parallel, .. } = self;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(FILE_THREADS)
            .thread_name("sdq serve")
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServeError::Thread)?;
        let workers = (0..parallel.get()).map(|_| {
            let app = app.clone();
            thread::Builder::new().name("sdq worker".to_owned()).spawn(move || queue::work(&app))
        });
        let workers = workers.collect::<io::Result<Vec<_>>>().map_err(|error| {
            app.queue.close();
            ServeError::Thread(error)
        })?;
        let served = runtime.block_on(connection::serve(app.clone(), listener, stop));
        app.queue.close();
        let started = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) && started.elapsed() < PATIENCE {
            thread::sleep(LOOK / 5);
        }
        app.queue.save_running();
        app.models.close();
        runtime.shutdown_timeout(PATIENCE);
        served.map_err(ServeError::Thread)
    }
}
