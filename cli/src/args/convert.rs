//! The flags of `sdq convert`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::ValueEnum;
use sdq::convert::{ModelFiles, Precision, Prediction, Rule};

/// A published model, in one file or in several.
#[derive(Debug, clap::Args)]
#[group(id = "source", required = true, multiple = true, args = ["model", "unet"])]
pub(crate) struct ModelFilesArgs {
    /// A diffusers directory (with a model_index.json), or a checkpoint in one file: safetensors, .ckpt or
    /// GGUF.
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// Take the U-Net from this file or folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) unet: Option<PathBuf>,

    /// Take the VAE from this file or folder. For TAESD's two files, give --vae twice.
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Vec<PathBuf>,

    /// Take the text encoder from this file or folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) text_encoder: Option<PathBuf>,

    /// Take the second text encoder, of SDXL, from this file or folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) text_encoder_2: Option<PathBuf>,

    /// Take the tokenizer from this folder. Default: the model's, or CLIP's.
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Use the configs in this folder (unet/config.json and so on, as in a diffusers directory) where a
    /// single file is ambiguous.
    #[arg(long, value_name = "DIR")]
    pub(crate) configs: Option<PathBuf>,

    /// What the U-Net predicts. Default: derived from the files, or from the family.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) prediction: Option<PredictionArg>,
}

impl ModelFilesArgs {
    pub(crate) fn files(&self) -> ModelFiles {
        ModelFiles {
            model: self.model.clone(),
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            text_encoder: self.text_encoder.clone(),
            text_encoder_2: self.text_encoder_2.clone(),
            tokenizer: self.tokenizer.clone(),
            configs: self.configs.clone(),
            prediction: self.prediction.map(|prediction| match prediction {
                PredictionArg::Epsilon => Prediction::Epsilon,
                PredictionArg::V => Prediction::V,
                PredictionArg::Sample => Prediction::Sample,
            }),
        }
    }
}

/// The quantity that a U-Net predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictionArg {
    /// The noise.
    Epsilon,
    /// Velocity, between noise and picture.
    V,
    /// The picture.
    Sample,
}

/// Flags that set types directly.
const CHOSEN: [&str; 5] = ["precision", "unet_type", "vae_type", "text_type", "rules"];

#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) files: ModelFilesArgs,

    /// The file to write.
    #[arg(short, long, value_name = "FILE.sdq", required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,

    /// Replace the output file even if it is not an .sdq file.
    #[arg(long)]
    pub(crate) force: bool,

    /// Print what would be converted, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Number format of the weights. `mixed` is q4 with q8 where the difference is most visible.
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t = PrecisionArg(Precision::F16))]
    pub(crate) precision: PrecisionArg,

    /// Number format of the U-Net alone.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) unet_type: Option<PrecisionArg>,

    /// Number format of the VAE alone.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) vae_type: Option<PrecisionArg>,

    /// Number format of the text encoder alone.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) text_type: Option<PrecisionArg>,

    /// Number format (not `mixed`) of weights whose name, such as unet.conv_in.weight, matches; repeatable,
    /// the first match counts.
    #[arg(long = "rule", value_name = "REGEX=TYPE")]
    pub(crate) rules: Vec<Rule>,

    /// Choose types by measurement so that the file takes at most this many megabytes.
    #[arg(long, value_name = "MB", conflicts_with_all = CHOSEN)]
    pub(crate) max_size: Option<f64>,

    /// Choose types by measurement so that at least half of the pictures have this similarity to those of
    /// f16, in decibels.
    #[arg(long, value_name = "DB", conflicts_with_all = CHOSEN, conflicts_with = "max_size")]
    pub(crate) target_psnr: Option<f64>,

    /// Draw this many pictures with the model first, and round weights with large inputs more carefully.
    #[arg(long, value_name = "N")]
    pub(crate) calibrate: Option<NonZeroUsize>,

    /// Prompts for measurements or calibration: one per line, or a JSON list of objects with `prompt` and
    /// optionally `seed`. Default: everyday prompts.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration_prompts: Option<PathBuf>,

    /// Worker threads. Default: one per core. The file does not depend on it.
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// [`Precision`], in the form that clap needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrecisionArg(pub(crate) Precision);

impl ValueEnum for PrecisionArg {
    fn value_variants<'a>() -> &'a [PrecisionArg] {
        const ALL: [PrecisionArg; Precision::ALL.len()] = {
            let mut all = [PrecisionArg(Precision::F32); Precision::ALL.len()];
            let mut index = 0;
            while index < all.len() {
                all[index] = PrecisionArg(Precision::ALL[index]);
                index += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}
