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
        /// Settings that may describe the model and are not used, as `key = value`.
        unused: Vec<String>,
    },
    /// A text encoder's config has keys that sdq does not know.
    UnknownKeys {
        /// The config.
        path: PathBuf,
        /// The keys.
        keys: Vec<String>,
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
            Remark::Settings { path, used, unused } => {
                let unused = match unused.is_empty() {
                    true => "the rest is derived from the weights".to_owned(),
                    false => format!("not used are {}", unused.join(", ")),
                };
                match used.is_empty() {
                    true => write!(f, "{}: none of the settings is used; {unused}", path.display()),
                    false => {
                        write!(f, "{}: the settings {} are used; {unused}", path.display(), used.join(", "))
                    }
                }
            }
            Remark::UnknownKeys { path, keys } => {
                let keys: Vec<String> = keys.iter().map(|key| format!("`{}`", quote(key))).collect();
                write!(f, "{}: the keys {} are not used", path.display(), keys.join(", "))
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
