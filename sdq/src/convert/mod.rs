//! Conversion: published weights → one `.sdq` file.

mod calibrate;
pub mod checkpoint;
mod choose;
pub mod describe;
mod fit;
mod prediction;
pub mod reference;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use sdq_engine::published::PublishedModel;
use sdq_formats::sniff::FileKind;
use sdq_quantize::Plan;

pub use fit::Goal;
pub use sdq_engine::{families::Prediction, published::ModelFiles};
pub use sdq_quantize::{Precision, Report, Rule};

use crate::{Error, Watch, paths, run::check_kind};

/// Options of a conversion.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Type of the weights.
    pub precision: Precision,
    /// Type of the denoiser's weights, if different.
    pub unet: Option<Precision>,
    /// Type of the autoencoder's weights, if different.
    pub vae: Option<Precision>,
    /// Type of the text encoders' weights, if different.
    pub text: Option<Precision>,
    /// Exceptions by name; the first that matches counts.
    pub rules: Vec<Rule>,
    /// Target for which types are chosen by measurement. The types above must not be set then.
    pub goal: Option<Goal>,
    /// Number of pictures to draw first, so that weights with large inputs are rounded more carefully.
    pub calibrate: Option<NonZeroUsize>,
    /// A file of prompts for measurements or calibration. By default everyday prompts.
    pub calibration_prompts: Option<PathBuf>,
    /// Worker threads, by default one per core. The file does not depend on it.
    pub threads: Option<NonZeroUsize>,
}

impl Default for ConvertOptions {
    /// Everything in f16.
    fn default() -> ConvertOptions {
        ConvertOptions {
            precision: Precision::F16,
            unet: None,
            vae: None,
            text: None,
            rules: Vec::new(),
            goal: None,
            calibrate: None,
            calibration_prompts: None,
            threads: None,
        }
    }
}

/// Opens the published model in `files`, reports its properties, and refuses models that are not supported.
///
/// # Errors
/// When it cannot be read or is not supported.
pub fn open(files: &ModelFiles, watch: &mut Watch<'_>) -> Result<PublishedModel, Error> {
    let model = PublishedModel::open(files)?;
    // Checked before any long operation.
    checkpoint::describe(&model)?;
    describe::note_choices(&model, watch);
    Ok(model)
}

/// The plan with the type of every weight that the model's configs require. Nothing is written; tensors and
/// shapes are checked.
///
/// # Errors
/// When tensors are missing, surplus or of other shapes, or a rule matches nothing.
pub fn dry_run(model: &PublishedModel, options: &ConvertOptions) -> Result<Plan, Error> {
    let plan = plan(model, options)?;
    let checked = sdq_quantize::check(&checkpoint::source(model)?, &plan);
    checked.map_err(|error| checkpoint::with_own_names(model, error))?;
    Ok(plan)
}

/// Converts `model` to `output`, which appears only when it is complete.
///
/// # Errors
/// As [`dry_run`], when no types meet the goal, when `output` cannot be written, or when the watch was
/// cancelled.
pub fn convert(
    mut model: PublishedModel,
    output: &Path,
    options: &ConvertOptions,
    watch: &mut Watch<'_>,
) -> Result<Report, Error> {
    check_output(&model, output, options)?;
    prediction::settle(&mut model, options.threads, watch)?;
    let mut plan = plan(&model, options)?;
    let prompts = options.calibration_prompts.as_deref();
    if let Some(goal) = options.goal {
        fit::fit(&mut plan, &model, goal, prompts, options.threads, watch)?;
    }
    if let Some(count) = options.calibrate {
        if plan.quantization.is_none() {
            let problem = "no weight is quantized with these types; use q8, q4 or mixed".to_owned();
            return Err(Error::Option { option: "calibrate", problem });
        }
        let (moments, drawn) = calibrate::moments(&model, count, prompts, options.threads, watch)?;
        calibrate::weigh(&mut plan, &moments, drawn);
    }
    checkpoint::write(&model, &plan, options.threads, output, watch)
}

/// Checks that `output` may be replaced: that there is no file, an empty file, or an `.sdq` file.
///
/// # Errors
/// [`Error::Option`] when a file with other contents is there.
pub fn check_replaced(output: &Path) -> Result<(), Error> {
    check_kind("output", output, &[FileKind::Sdq], "an .sdq file")
}

/// Checks that `output` is not a file that the conversion reads.
///
/// # Errors
/// [`Error::Option`] when it is.
pub fn check_output(model: &PublishedModel, output: &Path, options: &ConvertOptions) -> Result<(), Error> {
    let inputs = model.files().values().chain(&options.calibration_prompts);
    for input in inputs {
        if paths::same_file(input, output) {
            let (input, output) = (input.display(), output.display());
            let problem = format!("`{output}` is the input `{input}`; choose another name");
            return Err(Error::Option { option: "output", problem });
        }
    }
    Ok(())
}

fn plan(model: &PublishedModel, options: &ConvertOptions) -> Result<Plan, Error> {
    let precision = |component: &str| -> Precision {
        let own = match component {
            "unet" => options.unet,
            "vae" => options.vae,
            _ => options.text,
        };
        own.unwrap_or(options.precision)
    };
    let components = checkpoint::describe(model)?
        .rated_weights()
        .into_iter()
        .map(|(component, weights)| (component, weights, precision(component)));
    Ok(sdq_quantize::plan(components, &options.rules)?)
}
