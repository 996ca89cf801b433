//! `sdq serve`: the server.

use sdq::PipelineOptions;
use sdq_serve::{Limits, Options, ServeError, Server};

use crate::{Stopped, UsageError, args::ServeArgs, config, interrupt};

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    interrupt::listen();
    let named = args.models.iter().map(|model| config::model(Some(model)));
    let mut models = named.filter_map(Result::transpose).collect::<anyhow::Result<Vec<_>>>()?;
    if models.is_empty() {
        models.extend(config::model(None)?);
    }
    let options = Options {
        listen: args.listen,
        token: args.token.clone(),
        allow_origin: args.allow_origin.clone(),
        models,
        model_dir: config::model_dir(args.model_dir.clone())?,
        lora_dir: config::lora_dir(args.lora_dir.clone())?,
        embedding_dir: args.embedding_dir.clone(),
        output_dir: args.output_dir.clone(),
        pipeline: PipelineOptions { max_memory: args.max_memory, ..args.device.options()? },
        parallel: args.parallel,
        limits: Limits { queue: args.queue.get(), ..Limits::default() },
    };
    let server = Server::open(options).map_err(|error| match error {
        ServeError::TokenRequired { .. } | ServeError::Token | ServeError::Origin { .. } => {
            anyhow::Error::from(UsageError(error.to_string()))
        }
        // With its own exit code.
        ServeError::Model(error) => error.into(),
        error => error.into(),
    })?;
    say!("http://{}", server.address());
    note!("serving at http://{}; pictures go to `{}`", server.address(), args.output_dir.display());
    server.run(interrupt::cancel())?;
    Err(Stopped.into())
}
