//! Golden pipelines as `.sdq` files, converted with the command line.

use std::{
    ffi::OsString,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sdq_engine::{Pipeline, PipelineOptions};
use sdq_formats::WeightType;
use tempfile::TempDir;

use crate::goldens;

/// The diffusers directory of the trained model.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

/// An `.sdq` file that is removed when dropped.
#[derive(Debug)]
pub struct Model {
    folder: TempDir,
}

impl Model {
    /// Converts the golden pipeline `name`.
    ///
    /// # Panics
    /// When the conversion fails; standard error has the reason.
    pub fn convert(name: &str, weight_type: WeightType) -> Model {
        Model::convert_folder(&goldens::folder(name).join("model"), weight_type)
    }

    /// Converts a diffusers directory.
    ///
    /// # Panics
    /// When the conversion fails; standard error has the reason.
    pub fn convert_folder(source: &Path, weight_type: WeightType) -> Model {
        Model::convert_with(source, &["--type", weight_type.name()])
    }

    /// Converts a diffusers directory with these flags.
    ///
    /// # Panics
    /// When the conversion fails; standard error has the reason.
    pub fn convert_with(source: &Path, flags: &[&str]) -> Model {
        let model = Model { folder: TempDir::new().expect("the temporary folder is writable") };
        let mut args: Vec<OsString> = ["sdq", "convert", "-o"].map(Into::into).to_vec();
        args.extend([model.path().into_os_string(), source.as_os_str().to_owned()]);
        args.extend(flags.iter().map(Into::into));
        assert_eq!(sdq_cli::run(args), ExitCode::SUCCESS, "converting `{}`", source.display());
        model
    }

    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("model.sdq")
    }

    /// Opens the model with this many threads.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn open(&self, threads: usize) -> Pipeline {
        self.open_with(&PipelineOptions { threads: NonZeroUsize::new(threads), ..PipelineOptions::default() })
    }

    /// Opens the model.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn open_with(&self, options: &PipelineOptions) -> Pipeline {
        Pipeline::open(&self.path(), options).unwrap_or_else(|error| panic!("{error}"))
    }
}
