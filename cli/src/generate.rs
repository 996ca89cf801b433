//! `sdq generate`: prompt → pictures on disk.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail};
use sdq_engine::{Event, Picture, Pipeline, PipelineOptions, Request, Tensor, pipeline::Settings};
use sdq_formats::{dtype::DType, png, safetensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::{UsageError, args::GenerateArgs, interrupt, model, progress::Progress, recipe::Recipe};

/// Name of the tensor in a `--save-latents` file.
const LATENTS: &str = "latents";

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let pipeline = open(args)?;
    let request = request(args);
    let settings = pipeline.settings(&request)?;
    let outputs = output_paths(&args.output, settings.count)?;
    for path in outputs.iter().chain(&args.save_latents) {
        check_writable(path)?;
    }
    for prompt in [&request.prompt, &request.negative_prompt] {
        let surplus = pipeline.surplus_tokens(prompt)?;
        if surplus > 0 {
            eprintln!(
                "note: the prompt is {surplus} tokens too long for the model, which reads only its start"
            );
        }
    }
    interrupt::listen();

    let model_name = pipeline.manifest().name.clone();
    let mut run = Run {
        args,
        settings: &settings,
        model_name: &model_name,
        outputs: &outputs,
        progress: Progress::new("step", (settings.evaluations * settings.count) as u64),
        steps_done: 0,
        latents: Vec::new(),
        written: Vec::new(),
        failure: None,
    };
    run.progress.set(0, "reading the prompt");
    let generated = pipeline.generate(&request, &mut |event| run.observe(event));
    run.progress.finish();
    if let Some(failure) = run.failure {
        return Err(failure);
    }
    generated?;
    report(args, &run.written, started);
    Ok(())
}

/// The model, under the bounds that the flags set.
pub(crate) fn open(args: &GenerateArgs) -> anyhow::Result<Pipeline> {
    let options = PipelineOptions { threads: args.threads, max_memory: args.max_memory };
    model::open_with(args.model.as_deref(), &options)
}

pub(crate) fn request(args: &GenerateArgs) -> Request {
    Request {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative_prompt.clone(),
        width: args.sampling.width,
        height: args.sampling.height,
        steps: args.sampling.steps,
        scheduler: args.sampling.scheduler.clone(),
        scheduler_options: args.scheduler_options.clone(),
        guidance_scale: args.sampling.guidance_scale,
        seed: args.seed,
        count: args.count,
        ..Request::default()
    }
}

/// A run under way: writes what is finished as soon as it is.
struct Run<'a> {
    args: &'a GenerateArgs,
    settings: &'a Settings,
    model_name: &'a str,
    outputs: &'a [PathBuf],
    progress: Progress,
    /// Of all pictures.
    steps_done: u64,
    latents: Vec<f32>,
    written: Vec<Value>,
    failure: Option<anyhow::Error>,
}

impl Run<'_> {
    fn observe(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let handled = match event {
            Event::Encoded => Ok(()),
            Event::Step { .. } => {
                self.steps_done += 1;
                self.progress.set(self.steps_done, "drawing");
                Ok(())
            }
            Event::Denoised { image, latents } => self.denoised(image, latents),
            Event::Decoded { image, picture } => self.decoded(image, picture),
            Event::Saveable(_) => Ok(()),
        };
        match handled {
            Ok(()) => interrupt::check(),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Finished latents are on disk before decoding starts.
    fn denoised(&mut self, image: usize, latents: &Tensor) -> anyhow::Result<()> {
        let Some(path) = &self.args.save_latents else { return Ok(()) };
        self.latents.extend_from_slice(latents.values());
        if image + 1 < self.settings.count {
            return Ok(());
        }
        let shape = [&[self.settings.count], &latents.shape()[1..]].concat();
        let bytes: Vec<u8> = self.latents.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView { name: LATENTS.to_owned(), dtype: DType::F32, shape, bytes: &bytes };
        interrupt::while_writing(|| safetensors::write(path, &[tensor], &[]))?;
        Ok(())
    }

    fn decoded(&mut self, image: usize, picture: &Picture) -> anyhow::Result<()> {
        let path = &self.outputs[image];
        let recipe = Recipe::new(&self.settings.of_image(image), self.model_name);
        let texts = recipe.texts();
        let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
        let Picture { width, height, rgb } = picture;
        interrupt::while_writing(|| png::write(path, *width, *height, rgb, &texts))?;
        self.written.push(json!({ "file": path.display().to_string(), "recipe": recipe.json() }));
        Ok(())
    }
}

fn report(args: &GenerateArgs, written: &[Value], started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let latents = args.save_latents.as_ref().map(|path| path.display().to_string());
        println!("{:#}", json!({ "pictures": written, "latents": latents, "seconds": seconds }));
    } else {
        for picture in written {
            println!("{}", picture["file"].as_str().unwrap_or_default());
        }
        eprintln!("drawn in {seconds:.1} s");
    }
}

/// One path for each picture: the given one, or numbered ones.
fn output_paths(output: &Path, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    let extension = output.extension().unwrap_or_default().to_ascii_lowercase();
    if extension != "png" {
        let message =
            format!("--output: `{}` does not end in .png, the format that sdq writes", output.display());
        return Err(UsageError(message).into());
    }
    if count == 1 {
        return Ok(vec![output.to_owned()]);
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    Ok((1..=count).map(|number| output.with_file_name(format!("{stem}-{number}.png"))).collect())
}

/// Fails before the work rather than after it.
pub(crate) fn check_writable(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("cannot write `{}`: it is a folder", path.display());
    }
    sdq_formats::atomic::AtomicFile::create(path)
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_are_numbered_before_the_extension() {
        let paths = output_paths(Path::new("out/a.b.png"), 2).unwrap();
        assert_eq!(paths, [Path::new("out/a.b-1.png"), Path::new("out/a.b-2.png")]);
        assert_eq!(output_paths(Path::new("x.PNG"), 1).unwrap(), [Path::new("x.PNG")]);
        assert!(output_paths(Path::new("x.jpg"), 1).is_err());
        assert!(output_paths(Path::new("x"), 1).is_err());
    }
}
