//! Finds the weight file in a component's folder. Libraries use different names, and a folder may hold several files.

use std::path::{Path, PathBuf};

use sdq_formats::names::quote;

use super::error::PublishedError;
use super::remark::Remark;

/// The first part of the names of weight files, which differs between diffusers and transformers.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// Variants in order of preference, after the plain file. Others come next, then `non_ema`, which is meant for further
/// training.
const VARIANTS: [&str; 3] = ["fp32", "fp16", "bf16"];
const LAST_VARIANT: &str = "non_ema";

/// Extensions of weight formats that are not supported.
const FOREIGN: [&str; 5] = ["msgpack", "onnx", "h5", "xml", "mlmodelc"];

/// Extensions of downloads that are not finished.
const UNFINISHED: [&str; 7] = ["incomplete", "part", "partial", "crdownload", "download", "aria2", "tmp"];

/// The parsed name of a weight file, or of the index of its shards.
#[derive(Debug, PartialEq, Eq)]
struct WeightFile<'n> {
    stem: usize,
    /// `fp16` in `model.fp16.safetensors`; `None` in the plain file.
    variant: Option<&'n str>,
    pickle: bool,
    index: bool,
}

impl<'n> WeightFile<'n> {
    /// `STEM.VARIANT.safetensors`, or `.bin`. The index of shards is `STEM.VARIANT.safetensors.index.json` or
    /// `STEM.safetensors.index.VARIANT.json`: diffusers and transformers have put the variant on either side over time.
    fn of(name: &'n str) -> Option<WeightFile<'n>> {
        let in_stem =
            |(stem, prefix): (usize, &&str)| Some((stem, name.strip_prefix(*prefix)?.strip_prefix('.')?));
        let (stem, rest) = STEMS.iter().enumerate().find_map(in_stem)?;
        let (rest, after, index) = match rest.strip_suffix(".json") {
            Some(rest) => {
                let (rest, after) = rest.split_once(".index")?;
                (rest, after, true)
            }
            None => (rest, "", false),
        };
        let (before, extension) =
            rest.rsplit_once('.').map_or((None, rest), |(start, end)| (Some(start), end));
        let pickle = match extension {
            "safetensors" => false,
            "bin" => true,
            _ => return None,
        };
        let variant = match (before, after.strip_prefix('.')) {
            (None, None) if after.is_empty() => None,
            (Some(variant), None) if after.is_empty() => Some(variant),
            (None, Some(variant)) => Some(variant),
            _ => return None,
        };
        // The others are shards.
        let is_variant = |variant: &str| {
            !variant.contains("-of-") && variant.split('.').all(|word| !word.is_empty() && word != "index")
        };
        variant.is_none_or(is_variant).then_some(WeightFile { stem, variant, pickle, index })
    }

    /// The file with the smallest rank is read: the plain file first as in diffusers, safetensors before pickles, one file before shards.
    fn rank(&self) -> (usize, Option<&'n str>, bool, bool, usize) {
        let variant = match self.variant {
            None => 0,
            Some(LAST_VARIANT) => VARIANTS.len() + 2,
            Some(variant) => {
                1 + VARIANTS.iter().position(|known| *known == variant).unwrap_or(VARIANTS.len())
            }
        };
        (variant, self.variant, self.pickle, self.index, self.stem)
    }
}

/// Whether a file of this name contains the weights of a component.
pub(super) fn is_weight_file(name: &str) -> bool {
    WeightFile::of(name).is_some()
}

/// The weight file, or the index of the shards, in a component's folder. Where there are several variants, `remarks` says
/// which one is read.
pub(super) fn find_weights(folder: &Path, remarks: &mut Vec<Remark>) -> Result<PathBuf, PublishedError> {
    let names = names_in(folder)?;
    let mut files: Vec<(WeightFile<'_>, &str)> =
        names.iter().filter_map(|name| Some((WeightFile::of(name)?, name.as_str()))).collect();
    files.sort_by_key(|(file, _)| file.rank());
    let Some((read, name)) = files.first() else {
        let expected = format!("{0}.safetensors or {1}.safetensors", STEMS[0], STEMS[1]);
        let expected = expected + &instead(&names);
        return Err(PublishedError::MissingFile { path: folder.to_path_buf(), expected });
    };
    let mut others: Vec<String> = Vec::new();
    for (file, _) in files.iter().filter(|(file, _)| file.variant != read.variant) {
        let variant = file.variant.unwrap_or_default();
        if others.last().is_none_or(|last| last != variant) {
            others.push(variant.to_owned());
        }
    }
    if !others.is_empty() {
        remarks.push(Remark::Variants { folder: folder.to_path_buf(), read: (*name).to_owned(), others });
    }
    Ok(folder.join(name))
}

/// The sorted file names in the folder.
fn names_in(folder: &Path) -> Result<Vec<String>, PublishedError> {
    let io_error = |source| PublishedError::Io { path: folder.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        names.extend(entry.map_err(io_error)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Describes weights in the folder that cannot be read.
fn instead(names: &[String]) -> String {
    let is = |name: &str, endings: &[&str]| {
        name.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
    };
    if let Some(shard) = names.iter().find(|name| name.contains("-of-") && is(name, &["safetensors", "bin"]))
    {
        return format!("; the folder contains the shard {shard} without an index");
    }
    if let Some(name) = names.iter().find(|name| is(name, &UNFINISHED)) {
        return format!("; the folder contains {}, an unfinished download", quote(name));
    }
    match names.iter().find(|name| is(name, &FOREIGN) || is(name, &["safetensors", "bin"])) {
        Some(name) => format!("; the folder contains {}, which sdq does not read", quote(name)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_shards_are_none() {
        for (name, variant, pickle, index) in [
            ("model.safetensors", None, false, false),
            ("diffusion_pytorch_model.bf16.safetensors", Some("bf16"), false, false),
            ("diffusion_pytorch_model.non_ema.bin", Some("non_ema"), true, false),
            ("pytorch_model.bin", None, true, false),
            ("model.safetensors.index.json", None, false, true),
            ("model.safetensors.index.fp16.json", Some("fp16"), false, true),
            ("model.fp16.safetensors.index.json", Some("fp16"), false, true),
            ("diffusion_pytorch_model.fp16.ema.safetensors", Some("fp16.ema"), false, false),
        ] {
            let file = WeightFile::of(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((file.variant, file.pickle, file.index), (variant, pickle, index), "{name}");
        }
        for name in [
            "config.json",
            "model.onnx",
            "model-00001-of-00002.safetensors",
            "model.fp16-00001-of-00002.safetensors",
            "model.safetensors.json",
            "model.index.safetensors",
            "other.safetensors",
            "model..safetensors",
            "model.safetensors.incomplete",
            "model.safetensors.sha256",
            "model.bin.part",
            "model.fp16.safetensors.index.fp16.json",
            "model.safetensors.indexes.json",
        ] {
            assert_eq!(WeightFile::of(name), None, "{name}");
        }
    }

    #[test]
    fn the_plain_file_is_read_first_and_any_variant_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.fp32.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.fp16.bin",
            "diffusion_pytorch_model.bf16.safetensors",
            "diffusion_pytorch_model.ours.safetensors",
            "diffusion_pytorch_model.non_ema.safetensors",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        for (index, name) in names.iter().enumerate() {
            let mut remarks = Vec::new();
            assert_eq!(find_weights(folder.path(), &mut remarks).unwrap(), folder.path().join(name));
            let said = remarks.iter().map(ToString::to_string).collect::<String>();
            let others = index + 1 < names.len();
            assert_eq!(said.contains(name) && said.contains("non_ema"), others, "{said}");
            assert!(!said.contains("fp16, fp16"), "{said}");
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        let error = |name: &str| {
            std::fs::write(folder.path().join(name), "").unwrap();
            find_weights(folder.path(), &mut Vec::new()).unwrap_err().to_string()
        };
        assert!(
            error("model.onnx")
                .ends_with("or model.safetensors; the folder contains model.onnx, which sdq does not read")
        );
        assert!(
            error("model.safetensors.part")
                .ends_with("contains model.safetensors.part, an unfinished download")
        );
        assert!(error("model-00001-of-00002.safetensors").ends_with("without an index"));
    }
}
