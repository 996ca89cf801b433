//! Commands and flags.

mod convert;
mod device;
mod serve;
mod values;

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use sdq::{
    PipelineOptions,
    add_ons::{EmbeddingFile, LoraFile},
    measure::Part,
    request::{Caching, MaskedContent},
};

pub(crate) use convert::ConvertArgs;
pub(crate) use device::DeviceArgs;
pub(crate) use serve::ServeArgs;
pub(crate) use values::SeedArg;

use values::{bytes, caching, clip_skip, key_value, seed, size};

/// Stable Diffusion, quantized, on the machine you have. Draws pictures from words, offline.
#[derive(Debug, Parser)]
#[command(name = "sdq", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a picture from a prompt, and from another picture if wanted.
    Generate(GenerateArgs),
    /// Print how much memory and time a `generate` with the same flags takes, without running it.
    Plan(GenerateArgs),
    /// Measure the speed of a model on this machine, and compare it with the machine's limits.
    Bench(BenchArgs),
    /// Finish a run that was interrupted, with the same pictures as without the interruption.
    Resume(ResumeArgs),
    /// Draw for other programs and for a page in the browser, as a server.
    Serve(ServeArgs),
    /// Convert published weights to one .sdq file.
    Convert(ConvertArgs),
    /// Measure the difference between two versions of a model.
    Eval(EvalArgs),
    /// Describe a .sdq file, a checkpoint or a picture, or, without a file, this machine.
    Info(InfoArgs),
    /// Compare the kernels of this machine's GPUs with the processor, and remember which to use.
    Doctor(DoctorArgs),
    /// List the schedulers and their options.
    Schedulers,
    /// Print a script that completes commands and flags in a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of sdq, or of one of its commands, for `man`.
    Man {
        /// The command.
        #[arg(value_name = "COMMAND")]
        name: Option<String>,
    },
}

/// Flags that determine how a picture is drawn. In `sdq eval`, "the model" is the reference.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArgs {
    /// Width in pixels, a multiple of 8. Default: the model's.
    #[arg(short = 'W', long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,

    /// Height in pixels, a multiple of 8. Default: the model's.
    #[arg(short = 'H', long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,

    /// Denoising steps. Default: the model's, or 20.
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) steps: Option<usize>,

    /// Sampling method, by its name in diffusers, ComfyUI or AUTOMATIC1111's web UI, and a sigma schedule if wanted,
    /// such as `DPM++ 2M Karras`; `sdq schedulers` lists them. Default: the model's.
    #[arg(long, visible_alias = "sampler", value_name = "NAME")]
    pub(crate) scheduler: Option<String>,

    /// How strongly the picture follows the prompt; values up to 1 switch guidance off. Default: the model's,
    /// or 7.5.
    #[arg(short, long, visible_alias = "cfg-scale", value_name = "SCALE", allow_negative_numbers = true)]
    pub(crate) guidance_scale: Option<f32>,
}

/// Flags for running; except for rounding, they do not affect the picture.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Maximum memory, such as 512M or 2G (K, M and G are powers of 1024); the run is cut to fit. Weights are
    /// in a mapped file and do not count. Default: the memory that the system has available.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_memory: Option<u64>,

    /// Show a preview of the picture after every K steps: in a terminal with colours, else in a file beside
    /// the output that ends in `.preview.png`.
    #[arg(long, value_name = "K")]
    pub(crate) preview_every: Option<NonZeroUsize>,

    /// Decode previews with this VAE, in full size: TAESD takes a part of a step's time. Default: one pixel
    /// per latent pixel, which takes almost no time.
    #[arg(long, value_name = "FILE", requires = "preview_every")]
    pub(crate) preview_vae: Vec<PathBuf>,

    /// Minimum number of seconds between savings of the run, to a file beside the output that ends in
    /// `.sdq-run`; `sdq resume` finishes it. 0 saves after every step.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) save_every: u64,

    /// Describe the result on standard output as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunArgs {
    /// The engine's options.
    pub(crate) fn options(&self) -> anyhow::Result<PipelineOptions> {
        Ok(PipelineOptions { max_memory: self.max_memory, ..self.device.options()? })
    }
}

/// Flags for runs that start from a picture.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// Start from this picture (PNG, JPEG or WebP); `-` reads it from standard input. Its size is used unless -W and -H are given: then it is
    /// scaled to cover that size and cropped.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) init_image: Option<PathBuf>,

    /// How much of the picture is redrawn, from 0 to 1. Default: 0.8, with a mask 1.
    #[arg(long, value_name = "SHARE", requires = "start", allow_negative_numbers = true)]
    pub(crate) strength: Option<f64>,

    /// Redraw only the white part of this picture, and keep the black part.
    #[arg(long, value_name = "FILE", requires = "start")]
    pub(crate) mask: Option<PathBuf>,

    /// Width of the soft edge inside the redrawn part, in pixels; the kept part stays unchanged. Default: 4.
    #[arg(long, value_name = "PIXELS", requires = "masked")]
    pub(crate) mask_blur: Option<u8>,

    /// Do not paste the kept part of the picture over the result: it passes through the VAE and changes a little, as
    /// in diffusers.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        requires = "masked"
    )]
    pub(crate) no_paste: Option<bool>,

    /// Draw only the masked part, with so many pixels of the picture around it, in the size of -W and -H or the model's, and
    /// put it back into the picture, which keeps its size. Without a number: 32.
    #[arg(
        long, value_name = "PIXELS", num_args = 0..=1, require_equals = true, default_missing_value = "32",
        requires = "masked"
    )]
    pub(crate) only_masked: Option<u16>,

    /// What the masked part starts from: original, surroundings (their colours, blurred), noise or nothing. It matters where
    /// --strength is below 1.
    #[arg(long, value_name = "KIND", requires = "masked")]
    pub(crate) masked_content: Option<MaskedContent>,

    /// How strongly the result follows the picture, with a model that edits by instruction. Default: the model's, or 1.5.
    #[arg(long, value_name = "SCALE", requires = "start", allow_negative_numbers = true)]
    pub(crate) image_guidance_scale: Option<f32>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(ArgGroup::new("start").args(["init_image", "from"]).multiple(true)))]
#[command(group(ArgGroup::new("masked").args(["mask", "from"]).multiple(true)))]
#[command(group(ArgGroup::new("varied").args(["variation_strength", "from"]).multiple(true)))]
pub(crate) struct GenerateArgs {
    /// What the picture should show; `-` reads it from standard input.
    #[arg(conflicts_with = "prompt_flag")]
    pub(crate) prompt: Option<String>,

    /// What the picture should show, as a flag.
    #[arg(short, long = "prompt", value_name = "PROMPT", allow_hyphen_values = true)]
    pub(crate) prompt_flag: Option<String>,

    /// Draw the prompts of this file, one after the other: one per line, or with settings as a .csv table or a JSON list;
    /// `-` reads standard input. Pictures have the prompt's number before the extension.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_flag", "from", "save_latents"])]
    pub(crate) prompts: Option<PathBuf>,

    /// Draw this picture again, from the recipe in it: a PNG, JPEG or WebP file drawn by sdq, or, as far as
    /// possible, by another program. Flags take precedence over the recipe. Its files are searched in the
    /// picture's folder, LoRAs first in --lora-dir.
    #[arg(long, value_name = "PICTURE")]
    pub(crate) from: Option<PathBuf>,

    /// The model, made by `sdq convert`: a file, or its name in the folder of models (see docs/files.md). Default: the small
    /// model built into sdq.
    #[arg(short, long, value_name = "FILE.sdq", env = "SDQ_MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// What the picture should not show.
    #[arg(short, long, value_name = "PROMPT")]
    pub(crate) negative_prompt: Option<String>,

    /// Output file: .png, .jpg or .webp; `-` writes a PNG to standard output. With --count, `-1`, `-2` and so on are inserted before the
    /// extension. Default: sdq.png, or the first of sdq-2.png, sdq-3.png and so on that replaces no file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Also write all pictures as one, side by side, to compare seeds or prompts.
    #[arg(long, value_name = "FILE")]
    pub(crate) sheet: Option<PathBuf>,

    /// Replace the output file even if it is not a picture.
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// An option of the scheduler, such as `eta=0.5`; repeatable.
    #[arg(long = "scheduler-option", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) scheduler_options: Vec<(String, String)>,

    /// How much of the contrast added by guidance is removed again, from 0 to 1. Default: 0.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) guidance_rescale: Option<f32>,

    #[command(flatten)]
    pub(crate) job: JobArgs,

    /// Use the prompts as plain text: brackets do not weight words, LoRA tags are ordinary text, and prompts are
    /// truncated to the model's length.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) plain_prompt: Option<bool>,

    /// Take text states from this block of the text encoder, counted from its end: 1 is the last, 2 the one
    /// before. Default: the one that the model was trained with.
    #[arg(long, value_name = "N", value_parser = clip_skip, allow_negative_numbers = true)]
    pub(crate) clip_skip: Option<usize>,

    #[command(flatten)]
    pub(crate) add_ons: AddOnArgs,

    /// Seed of the random numbers: the same seed draws the same picture. -1 chooses a random seed and prints it.
    /// Default: the recipe's, or -1.
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<SeedArg>,

    /// Move the noise of --seed towards that of this seed, for similar but different pictures. -1 chooses a random
    /// seed and prints it.
    #[arg(long, value_name = "N", requires = "varied", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) variation_seed: Option<SeedArg>,

    /// How far the noise is moved, from 0 to 1. Without --variation-seed, the seeds of the variations are 1, 2 and so
    /// on.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) variation_strength: Option<f64>,

    /// Number of pictures, with seeds counting up from --seed, or --variation-seed.
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) count: usize,

    /// Draw faster by reusing work of earlier steps, with a small difference in the picture: `deepcache:N`
    /// runs the inner layers of the network only every N-th step, `guidance:N` evaluates the negative prompt
    /// only every N-th step. `none` reuses nothing.
    #[arg(long, value_name = "KIND:N", value_parser = caching)]
    pub(crate) cache: Option<Caching>,

    /// Also write the finished latents, [count, channels, h, w] in f32, before decoding starts.
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) save_latents: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Changes to a model while it runs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AddOnArgs {
    /// Run this LoRA beside the model, with this strength (1 if not given); repeatable.
    #[arg(long = "lora", value_name = "FILE[:STRENGTH]")]
    pub(crate) loras: Vec<LoraFile>,

    /// Let this word (the file's name if not given) stand for the vectors of a textual inversion; repeatable.
    #[arg(long = "embedding", value_name = "FILE[:WORD]")]
    pub(crate) embeddings: Vec<EmbeddingFile>,

    /// Decode, and encode, with this VAE instead of the model's: a file or folder with a VAE or TAESD, or a
    /// .sdq file. For TAESD's two files, give --vae twice.
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Vec<PathBuf>,

    /// Folder with the LoRAs that a prompt requests with <lora:NAME:STRENGTH>. Its sub-folders are searched too.
    #[arg(long, value_name = "DIR")]
    pub(crate) lora_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// The model, made by `sdq convert`: a file, or its name in the folder of models (see docs/files.md). Default: the small
    /// model built into sdq.
    #[arg(env = "SDQ_MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// Size of the picture in pixels, multiples of 8. Default: the model's.
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,

    /// The part to measure.
    #[arg(long, value_enum, default_value_t = PartArg::All)]
    pub(crate) part: PartArg,

    /// Number of runs, after a first one that does not count.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) rounds: NonZeroUsize,

    /// Also print the time of each kind of op.
    #[arg(long)]
    pub(crate) profile: bool,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print JSON, times in seconds.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of a run, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PartArg {
    /// All parts, and an estimate for a whole picture.
    All,
    /// One prompt through the text encoders.
    Text,
    /// One step with guidance.
    Unet,
    /// One picture from latents to pixels.
    Vae,
}

impl PartArg {
    /// The part, if it is a single one.
    pub(crate) fn part(self) -> Option<Part> {
        match self {
            PartArg::All => None,
            PartArg::Text => Some(Part::TextEncoder),
            PartArg::Unet => Some(Part::UNet),
            PartArg::Vae => Some(Part::VaeDecoder),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The saved run beside the output of the interrupted run.
    #[arg(value_name = "FILE.sdq-run")]
    pub(crate) file: PathBuf,

    /// The model, if it has been moved.
    #[arg(short, long, value_name = "FILE.sdq")]
    pub(crate) model: Option<PathBuf>,

    /// Output file. Default: the one of the interrupted run, beside the saved run.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Replace the output file even if it is not a picture.
    #[arg(long)]
    pub(crate) force: bool,

    /// Also write the latents, as safetensors. The path that the interrupted run was given is not used.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_latents: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// The model to compare with: a .sdq file, or a published model, which is read in f32.
    pub(crate) reference: PathBuf,

    /// The .sdq file to measure.
    pub(crate) other: PathBuf,

    /// Draw the prompts of this file: one per line, or a JSON list of objects with `prompt` and optionally
    /// `seed`.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,

    /// Draw this prompt; repeatable. Default, if there is no --prompts either: eight everyday prompts.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,

    /// Maximum number of prompts, evenly spread over all.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,

    /// Seed for prompts without a seed of their own.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Also write the pictures, one row per prompt: the reference's, the other's, their difference amplified
    /// eight times.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) sheet: Option<PathBuf>,

    /// Print JSON, with every prompt.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// A .sdq file, a published checkpoint or model directory, a LoRA, an embedding, a saved run, or a picture with a
    /// recipe.
    pub(crate) file: Option<PathBuf>,

    /// Read every weight and compare it with its checksum.
    #[arg(long, requires = "file")]
    pub(crate) verify: bool,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Only this GPU, by its number or a part of its name.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests;
