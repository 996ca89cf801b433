//! The flags that choose a device.

use std::{num::NonZeroUsize, sync::Arc};

use clap::ValueEnum;
use sdq::{
    PipelineOptions,
    device::{self, Backend, Wanted},
};

use crate::UsageError;

/// The device that runs a model.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Run on the processor or on a GPU. Default: the value of `SDQ_BACKEND`, or a GPU that is likely to be
    /// faster, or the processor.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) backend: Option<BackendArg>,

    /// Run on this GPU, by its number or a part of its name; `sdq info` lists them.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Worker threads of the processor. Default: one per core.
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// A GPU that is likely to be faster than the processor, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, with Vulkan.
    Vulkan,
}

impl BackendArg {
    fn wanted(self) -> Wanted {
        match self {
            BackendArg::Auto => Wanted::Auto,
            BackendArg::Cpu => Wanted::Cpu,
            BackendArg::Vulkan => Wanted::Vulkan,
        }
    }
}

impl DeviceArgs {
    /// The engine's options.
    pub(crate) fn options(&self) -> anyhow::Result<PipelineOptions> {
        let backend = Some(self.open()?);
        Ok(PipelineOptions { threads: self.threads, backend, ..PipelineOptions::default() })
    }

    /// Opens the requested device.
    fn open(&self) -> anyhow::Result<Arc<dyn Backend>> {
        let of_variable =
            || {
                let value = std::env::var("SDQ_BACKEND").ok().filter(|value| !value.is_empty())?;
                let named = BackendArg::from_str(&value, true);
                Some(named.map_err(|_| {
                    UsageError(format!("SDQ_BACKEND is `{value}`, expected auto, cpu or vulkan"))
                }))
            };
        let backend = match self.backend {
            Some(backend) => backend,
            None => of_variable().transpose()?.unwrap_or(BackendArg::Auto),
        };
        if backend == BackendArg::Cpu && self.device.is_some() && self.backend.is_some() {
            return Err(
                UsageError("--device names a GPU, which `--backend cpu` does not use".to_owned()).into()
            );
        }
        let notice = Arc::new(|words: &str| note!("warning: {words}"));
        Ok(device::open(backend.wanted(), self.device.as_deref(), self.threads, notice)?)
    }
}
