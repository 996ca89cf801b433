//! Decisions made while a model is read, to be shown to the user.

use std::fmt;
use std::path::PathBuf;

use sdq_formats::names::quote;

/// A choice between several files or values, or a part of a file that is left out. Displayed as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A component's weights are there in several variants.
    Variants {
        /// The component's folder.
        folder: PathBuf,
        /// The file that is read.
        read: String,
        /// The variants that are not.
        others: Vec<String>,
    },
    /// A file contains the U-Net only as a running mean of its weights.
    Ema {
        /// The file.
        path: PathBuf,
    },
    /// A settings file lies beside a single file.
    Settings {
        /// The settings file.
        path: PathBuf,
        /// What was taken from it, as `key = value`.
        used: Vec<String>,
    },
    /// The autoencoder can only decode.
    NoEncoder {
        /// Its file.
        path: PathBuf,
    },
    /// The token table of a text encoder is longer than the vocabulary.
    SurplusTokens {
        /// The encoder's file.
        path: PathBuf,
        /// Its component.
        component: String,
        /// Rows without a token in the vocabulary.
        rows: usize,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::Variants { folder, read, others } => {
                let others: Vec<String> = others.iter().map(|other| quote(other)).collect();
                let others = others.join(", ");
                write!(
                    f,
                    "{}: {read} is read, and the other variants are left out: {others}",
                    folder.display()
                )
            }
            Remark::Ema { path } => {
                write!(f, "{}: the U-Net is a running mean of the weights (EMA)", path.display())
            }
            Remark::Settings { path, used } if used.is_empty() => {
                write!(f, "{}: none of the settings is used", path.display())
            }
            Remark::Settings { path, used } => {
                let used = used.join(", ");
                write!(
                    f,
                    "{}: the settings {used} are used, and the rest is derived from the weights",
                    path.display()
                )
            }
            Remark::NoEncoder { path } => write!(
                f,
                "{}: the VAE has no encoder, so the model will not read pictures (image to image, inpainting)",
                path.display()
            ),
            Remark::SurplusTokens { path, component, rows } => write!(
                f,
                "{}: {rows} rows of the token table of `{component}` are left out, for which the vocabulary has no tokens",
                path.display()
            ),
        }
    }
}
