//! Saved runs: writes everything that an unfinished run needs to a small file, and reads it again.
//!
//! The file is a safetensors file. Its metadata contain the request and identify the model; its tensors are
//! finished latents and, for each picture in progress, its latents, generator, and the state of its
//! scheduler.

use std::path::{Path, PathBuf};

use sdq_formats::{
    dtype::DType,
    safetensors::{self, SafetensorsFile, SafetensorsProblem},
    tensor::TensorView,
};
use serde_json::{Value, json};

use super::{
    Job, Pipeline, Request, Settings,
    drawing::{Drawing, Kept},
};
use crate::{Error, Mask, Picture, Tensor, rng::TorchCpuGenerator};

/// Key of the metadata that describe the run; the caller's notes have keys of their own.
const RUN: &str = "sdq.run";
/// Version of the metadata's format. Version 2, which wrote the request in another form, can still be read.
const VERSION: u64 = 3;
/// Longest description of a run in bytes; prompts, the longest part, have 64 KB each. JSON of empty lists takes twenty times as
/// much in memory.
const MAX_RUN_LEN: usize = 1 << 20;
/// Maximum number of pictures in progress.
const MAX_BEGUN: usize = 1024;
/// Maximum number of tensors in the state of a scheduler.
const MAX_HISTORY: usize = 64;

/// The progress of a run.
#[derive(Default)]
pub(super) struct Progress {
    /// Final latents of the first pictures, each `[1, channels, h, w]`.
    pub(super) finished: Vec<Tensor>,
    /// The pictures in progress, all at the same step.
    pub(super) begun: Vec<Drawing>,
}

/// The state of a run at a moment at which it can be saved.
pub struct Checkpoint<'a> {
    pipeline: &'a Pipeline,
    settings: &'a Settings,
    finished: &'a [Tensor],
    /// Pictures that are drawn together, and those that wait.
    begun: [&'a [Drawing]; 2],
}

impl std::fmt::Debug for Checkpoint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint({} finished, {} begun)", self.finished.len(), self.begun().count())
    }
}

impl<'a> Checkpoint<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        settings: &'a Settings,
        finished: &'a [Tensor],
        begun: [&'a [Drawing]; 2],
    ) -> Checkpoint<'a> {
        Checkpoint { pipeline, settings, finished, begun }
    }

    fn begun(&self) -> impl Iterator<Item = &'a Drawing> {
        self.begun.into_iter().flatten()
    }

    /// Whether all latents are finished, so that only decoding is left.
    pub fn is_denoised(&self) -> bool {
        self.finished.len() == self.settings.request.count
    }

    /// Writes the run to a temporary file next to `path`, which is then renamed. `notes` are names and texts
    /// of the caller, to be read with [`SavedRun::note`].
    ///
    /// # Errors
    /// [`Error::SavedRun`] when the file cannot be written.
    pub fn save(&self, path: &Path, notes: &[(&str, &str)]) -> Result<(), Error> {
        self.written(notes, |tensors, metadata| safetensors::write(path, tensors, metadata))
            .map_err(|error| Error::SavedRun { path: path.to_owned(), problem: reason(&error) })
    }

    /// The bytes of the file that [`save`](Checkpoint::save) writes.
    ///
    /// # Errors
    /// When `notes` have a name twice.
    pub fn to_bytes(&self, notes: &[(&str, &str)]) -> Result<Vec<u8>, SafetensorsProblem> {
        self.written(notes, safetensors::to_bytes)
    }

    /// What `write` makes of the tensors and the metadata of the file.
    fn written<T>(
        &self,
        notes: &[(&str, &str)],
        write: impl FnOnce(&[TensorView<'_>], &[(&str, &str)]) -> T,
    ) -> T {
        let mut tensors = Tensors::default();
        for (index, latents) in self.finished.iter().enumerate() {
            tensors.floats(format!("finished.{index}"), latents);
        }
        for (index, drawing) in self.begun().enumerate() {
            tensors.drawing(index, drawing);
        }
        let request = self.settings.complete_request();
        if let Some(image) = &request.init_image {
            tensors.bytes("init_image".to_owned(), vec![image.height, image.width, 3], image.rgb.clone());
        }
        if let Some(mask) = &request.mask {
            tensors.bytes("mask".to_owned(), vec![mask.height, mask.width], mask.values.clone());
        }
        let run = json!({
            "version": VERSION,
            "model": { "name": self.pipeline.manifest().name, "fingerprint": self.pipeline.fingerprint() },
            "request": request,
            "finished": self.finished.len(),
            "begun": self.begun().count(),
            "step": self.begun().next().map(|drawing| drawing.step),
        })
        .to_string();
        let metadata = [&[(RUN, run.as_str())], notes].concat();
        write(&tensors.views(), &metadata)
    }
}

/// The message of a safetensors error without the path.
fn reason(error: &safetensors::SafetensorsError) -> String {
    error.problem.to_string()
}

fn metadata<'f>(file: &'f SafetensorsFile, name: &str) -> Option<&'f str> {
    file.metadata().iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str())
}

/// Tensors to be written to a file.
#[derive(Default)]
struct Tensors(Vec<(String, DType, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn bytes(&mut self, name: String, shape: Vec<usize>, bytes: Vec<u8>) {
        self.0.push((name, DType::U8, shape, bytes));
    }

    fn float_values(&mut self, name: String, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.push((name, DType::F32, shape, bytes));
    }

    fn floats(&mut self, name: String, tensor: &Tensor) {
        self.float_values(name, tensor.shape().to_vec(), tensor.values());
    }

    fn drawing(&mut self, index: usize, drawing: &Drawing) {
        let name = |part: &str| format!("begun.{index}.{part}");
        self.floats(name("latents"), &drawing.latents);
        let generator = drawing.generator.to_bytes();
        self.bytes(name("generator"), vec![generator.len()], generator);
        for (place, values) in drawing.scheduler.history().iter().enumerate() {
            self.float_values(name(&format!("history.{place}")), vec![values.len()], values);
        }
        if let Some(extra_channels) = &drawing.extra_channels {
            self.floats(name("extra_channels"), extra_channels);
        }
        if let Some(full_input) = &drawing.full_input {
            self.floats(name("full_input"), full_input);
        }
        if let Some(Kept { original, noise, mask, .. }) = &drawing.kept {
            self.floats(name("original"), original);
            self.floats(name("noise"), noise);
            self.float_values(name("mask"), vec![mask.len()], mask);
        }
    }

    fn views(&self) -> Vec<TensorView<'_>> {
        self.0
            .iter()
            .map(|(name, dtype, shape, bytes)| TensorView {
                name: name.clone(),
                dtype: *dtype,
                shape: shape.clone(),
                bytes,
            })
            .collect()
    }
}

/// A saved run that has been opened.
#[derive(Debug)]
pub struct SavedRun {
    path: PathBuf,
    file: SafetensorsFile,
    run: Value,
    request: Request,
}

impl SavedRun {
    /// Opens a file that [`Checkpoint::save`] wrote.
    ///
    /// # Errors
    /// [`Error::SavedRun`] when it is another kind of file, or damaged.
    pub fn open(path: &Path) -> Result<SavedRun, Error> {
        let failed = |problem: String| Error::SavedRun { path: path.to_owned(), problem };
        let file = SafetensorsFile::open(path).map_err(|error| failed(reason(&error)))?;
        let run = metadata(&file, RUN).ok_or_else(|| failed("the file contains no run of sdq".to_owned()))?;
        if run.len() > MAX_RUN_LEN {
            return Err(failed(format!(
                "the description of the run has {} bytes, expected at most {MAX_RUN_LEN}",
                run.len()
            )));
        }
        let run: Value = serde_json::from_str(run).map_err(|error| failed(error.to_string()))?;
        let version = run["version"].as_u64().filter(|version| (2..=VERSION).contains(version));
        let Some(version) = version else {
            let message = format!("the file has version {}, expected 2 to {VERSION}", run["version"]);
            return Err(failed(message));
        };
        let mut saved = SavedRun { path: path.to_owned(), file, run, request: Request::default() };
        saved.request = saved.read_request(version)?;
        Ok(saved)
    }

    /// Whether the file at `path` is a saved run, of whatever version and model.
    pub fn is_at(path: &Path) -> bool {
        SafetensorsFile::open(path).is_ok_and(|file| metadata(&file, RUN).is_some())
    }

    /// The request, with the model's defaults filled in.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Name and fingerprint of its model; empty where the file does not contain them.
    pub fn model(&self) -> (&str, &str) {
        let text = |key: &str| self.run["model"][key].as_str().unwrap_or_default();
        (text("name"), text("fingerprint"))
    }

    /// Number of pictures whose latents are finished, and of the pictures that are being drawn the number of
    /// finished evaluations of each.
    ///
    /// # Errors
    /// [`Error::SavedRun`] when the file does not contain them.
    pub fn progress(&self) -> Result<(usize, usize), Error> {
        Ok((self.count("finished")?, self.count("step")?))
    }

    /// The number of finished evaluations of the U-Net, over all pictures.
    ///
    /// # Errors
    /// [`Error::SavedRun`] when the file does not contain it.
    pub fn steps_done(&self, settings: &Settings) -> Result<usize, Error> {
        let (finished, begun) = (self.count("finished")?, self.count("begun")?);
        let step = if begun == 0 { 0 } else { self.count("step")?.saturating_sub(settings.first_step) };
        Ok(finished.saturating_mul(settings.evaluations).saturating_add(begun.saturating_mul(step)))
    }

    /// A note that was saved with the run.
    pub fn note(&self, name: &str) -> Option<&str> {
        metadata(&self.file, name)
    }

    /// Settings and progress of the run, for the pipeline that it was saved from.
    pub(super) fn restore(&self, pipeline: &Pipeline) -> Result<(Settings, Progress), Error> {
        let (found, expected) = (&self.run["model"]["fingerprint"], pipeline.fingerprint());
        if *found != expected {
            return Err(self.error(format!(
                "the run belongs to the model {} ({found}), expected {} ({expected})",
                self.run["model"]["name"],
                pipeline.manifest().name
            )));
        }
        let settings = pipeline.settings(&self.request)?;
        let shape = pipeline.latents_shape(settings.latent_size(pipeline.scale_factor()));
        let (finished, begun) = (self.count("finished")?, self.count("begun")?);
        if finished.saturating_add(begun) > settings.request.count || begun > MAX_BEGUN {
            return Err(self.error(format!(
                "the file has {finished} finished and {begun} unfinished pictures of a run of {}",
                settings.request.count
            )));
        }
        let finished = (0..finished)
            .map(|image| self.tensor(&format!("finished.{image}"), &shape))
            .collect::<Result<Vec<_>, _>>()?;
        let begun = (0..begun)
            .map(|index| self.drawing(pipeline, &settings, index, finished.len() + index, shape))
            .collect::<Result<_, _>>()?;
        Ok((settings, Progress { finished, begun }))
    }

    fn drawing(
        &self,
        pipeline: &Pipeline,
        settings: &Settings,
        index: usize,
        image: usize,
        shape: [usize; 4],
    ) -> Result<Drawing, Error> {
        let name = |part: &str| format!("begun.{index}.{part}");
        let step = self.count("step")?;
        let mut scheduler = settings.new_scheduler()?;
        if !(settings.first_step..=scheduler.timesteps().len()).contains(&step) {
            let (first, last) = (settings.first_step, scheduler.timesteps().len());
            return Err(self.error(format!("`step` is {step}, expected {first} to {last}")));
        }
        let latents = self.tensor(&name("latents"), &shape)?;
        let mut history = Vec::new();
        while let Some(values) = self.floats(&name(&format!("history.{}", history.len())))? {
            history.push(values);
            if history.len() > MAX_HISTORY || history.iter().any(|h| h.len() != latents.values().len()) {
                return Err(self.error("the history of the scheduler does not fit the latents".to_owned()));
            }
        }
        scheduler.restore(step, history)?;
        let generator = self.view(&name("generator"), DType::U8).map(|view| view.bytes);
        let generator = generator.and_then(TorchCpuGenerator::from_bytes);
        let generator = generator
            .ok_or_else(|| self.error(format!("`{}` is not the state of a generator", name("generator"))))?;

        let [_, _, height, width] = shape;
        let extra = pipeline.model.denoiser.in_channels() - pipeline.model.autoencoder.latent_channels();
        let extra_channels = match extra {
            0 => None,
            _ => Some(self.tensor(&name("extra_channels"), &[1, extra, height, width])?),
        };
        let kept = match (&settings.job, extra) {
            (Job::Inpainting { .. }, 0) => {
                let original = self.tensor(&name("original"), &shape)?;
                let noise = self.tensor(&name("noise"), &shape)?;
                let mask = self.tensor(&name("mask"), &[height * width])?.into_values();
                let noised = original.values().to_vec();
                Some(Kept { original, noise, mask, noised })
            }
            _ => None,
        };
        let predicted_original = latents.clone();
        let schedule = settings.cache_schedule();
        let full_input = schedule.caches().then(|| self.tensor(&name("full_input"), &shape)).transpose()?;
        Ok(Drawing {
            image,
            step,
            scheduler,
            generator,
            latents,
            predicted_original,
            extra_channels,
            kept,
            schedule,
            full_input,
        })
    }

    fn read_request(&self, version: u64) -> Result<Request, Error> {
        let request = upgraded(self.run["request"].clone(), version);
        let mut request: Request = serde_json::from_value(request)
            .map_err(|error| self.error(format!("the request cannot be read: {error}")))?;
        if let Some(view) = self.view("init_image", DType::U8) {
            let &[height, width, 3] = view.shape.as_slice() else {
                return Err(self.error(format!(
                    "the picture has the shape {:?}, expected [height, width, 3]",
                    view.shape
                )));
            };
            request.init_image = Some(Picture { width, height, rgb: view.bytes.to_vec() });
        }
        if let Some(view) = self.view("mask", DType::U8) {
            let &[height, width] = view.shape.as_slice() else {
                return Err(
                    self.error(format!("the mask has the shape {:?}, expected [height, width]", view.shape))
                );
            };
            request.mask = Some(Mask { width, height, values: view.bytes.to_vec() });
        }
        Ok(request)
    }

    fn view(&self, name: &str, dtype: DType) -> Option<TensorView<'_>> {
        self.file.tensor(name).filter(|view| view.dtype == dtype)
    }

    fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(view) = self.view(name, DType::F32) else { return Ok(None) };
        let values = view.to_f32().map_err(|error| self.error(error.to_string()))?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(Some(values)),
            false => Err(self.error(format!("tensor `{name}` contains values that are not finite"))),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let values = self.floats(name)?.filter(|values| values.len() == shape.iter().product::<usize>());
        let values = values
            .ok_or_else(|| self.error(format!("the file has no tensor `{name}` of shape {shape:?}")))?;
        Tensor::new(shape.to_vec(), values)
    }

    fn count(&self, key: &str) -> Result<usize, Error> {
        let count = self.run[key].as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.error(format!("`{key}` is {}, expected a whole number", self.run[key])))
    }

    fn error(&self, problem: String) -> Error {
        Error::SavedRun { path: self.path.clone(), problem }
    }
}

/// The request of a saved run in the current form of [`Request`]. Version 2 wrote all fields, wrote a
/// variation as a list, and read prompts as plain text by default.
fn upgraded(mut request: Value, version: u64) -> Value {
    if version == 2
        && let Some(fields) = request.as_object_mut()
    {
        fields.entry("plain_prompt").or_insert(true.into());
        if let Some(Value::Array(variation)) = fields.remove("variation") {
            let mut parts = variation.into_iter();
            for key in ["variation_seed", "variation_strength"] {
                fields.insert(key.to_owned(), parts.next().unwrap_or(Value::Null));
            }
        }
    }
    request
}

#[cfg(test)]
mod tests;
