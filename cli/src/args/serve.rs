//! The flags of `sdq serve`.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    num::NonZeroUsize,
    path::PathBuf,
};

use super::{DeviceArgs, values::bytes};

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Models, made by `sdq convert`. The first is that of requests that name none. Default: the first of
    /// --model-dir, or the small model built into sdq.
    #[arg(value_name = "FILE.sdq", env = "SDQ_MODEL")]
    pub(crate) models: Vec<PathBuf>,

    /// Offer all models in this folder, and convert published ones in it.
    #[arg(long, value_name = "DIR")]
    pub(crate) model_dir: Option<PathBuf>,

    /// Listen at this address and port. Port 0 takes a free one. At other addresses than this computer's own --token is
    /// required.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7860", value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// A secret that clients have to send: as a bearer token, as the password of basic authentication, or on the page.
    #[arg(long, value_name = "TOKEN", env = "SDQ_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// Let pages of this origin use the server, and the server be called by its name; repeatable.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<String>,

    /// Folder with the LoRAs that a prompt requests with <lora:NAME:STRENGTH>. Its sub-folders are searched too.
    #[arg(long, value_name = "DIR")]
    pub(crate) lora_dir: Option<PathBuf>,

    /// Folder with textual inversions. The name of each file is its word in prompts.
    #[arg(long, value_name = "DIR")]
    pub(crate) embedding_dir: Option<PathBuf>,

    /// Folder for the pictures, and for the jobs, which survive the server.
    #[arg(long, value_name = "DIR", default_value = "sdq-pictures")]
    pub(crate) output_dir: PathBuf,

    /// Maximum memory of all runs and of the compiled graphs that are kept between them, such as 4G. Default: the
    /// memory that the system has available.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_memory: Option<u64>,

    /// Draw this many jobs at the same time, where memory allows it.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) parallel: NonZeroUsize,

    /// Maximum number of jobs that wait; further ones are refused until there is room.
    #[arg(long, value_name = "N", default_value = "128")]
    pub(crate) queue: NonZeroUsize,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| "expected an address and a port, such as 127.0.0.1:7860".to_owned())
}
