//! The user's settings file, and the folder of models.
//!
//! Flags take precedence over variables of the environment, and these over the file.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use etcetera::{BaseStrategy as _, choose_base_strategy};
use serde::Deserialize;

/// The variable with another settings file; if it is empty, there is none.
const CONFIG: &str = "SDQ_CONFIG";
/// The variable with the folder of models.
const MODEL_DIR: &str = "SDQ_MODEL_DIR";
/// Longest settings file, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// The settings in the file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// The model if no flag names one.
    model: Option<PathBuf>,
    /// The folder with the models that are named without a path.
    model_dir: Option<PathBuf>,
    /// The folder with the LoRAs that prompts name.
    lora_dir: Option<PathBuf>,
}

/// The model called `given`, or that of the settings; `None` for the built-in one.
pub(crate) fn model(given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let settings = settings()?;
    let folder = env::var_os(MODEL_DIR).map(PathBuf::from).or(settings.model_dir);
    let named = given.map(Path::to_path_buf).or(settings.model);
    Ok(named.map(|path| in_folder(path, folder.as_deref())))
}

/// The folder of models, from a flag or from the settings.
#[cfg(feature = "serve")]
pub(crate) fn model_dir(given: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    match given.or_else(|| env::var_os(MODEL_DIR).map(PathBuf::from)) {
        Some(given) => Ok(Some(given)),
        None => Ok(settings()?.model_dir),
    }
}

/// The folder of LoRAs, from a flag or from the settings.
pub(crate) fn lora_dir(given: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    match given {
        Some(given) => Ok(Some(given)),
        None => Ok(settings()?.lora_dir),
    }
}

/// `path`, or the model of this name in `folder`, with or without its extension, if there is no file at `path`.
fn in_folder(path: PathBuf, folder: Option<&Path>) -> PathBuf {
    let (Some(folder), false) = (folder, path.exists()) else { return path };
    let mut with_extension = path.clone().into_os_string();
    with_extension.push(".sdq");
    let candidates = [folder.join(&path), folder.join(with_extension)];
    candidates.into_iter().find(|candidate| candidate.is_file()).unwrap_or(path)
}

/// Reads the settings file; without one, nothing is set.
fn settings() -> anyhow::Result<Settings> {
    let path = match env::var_os(CONFIG) {
        Some(path) if path.is_empty() => return Ok(Settings::default()),
        Some(path) => PathBuf::from(path),
        None => match choose_base_strategy() {
            Ok(folders) => folders.config_dir().join("sdq").join("config.toml"),
            // Without a home there are no settings.
            Err(_) => return Ok(Settings::default()),
        },
    };
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && env::var_os(CONFIG).is_none() => {
            return Ok(Settings::default());
        }
        Err(error) => return Err(error).with_context(|| format!("the settings file `{}`", path.display())),
    };
    let read = || -> anyhow::Result<Settings> {
        anyhow::ensure!(metadata.is_file(), "it is not a regular file");
        anyhow::ensure!(metadata.len() <= MAX_LEN, "it has more than {MAX_LEN} bytes");
        parse(&fs::read_to_string(&path)?, path.parent())
    };
    read().with_context(|| format!("the settings file `{}`", path.display()))
}

/// Parses settings. Paths in them are relative to `folder`, and may begin with `~`.
fn parse(text: &str, folder: Option<&Path>) -> anyhow::Result<Settings> {
    let mut settings: Settings = toml::from_str(text).map_err(|error| {
        // Its Display is several lines.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        anyhow::anyhow!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })?;
    let home = etcetera::home_dir().ok();
    for path in [&mut settings.model, &mut settings.model_dir, &mut settings.lora_dir].into_iter().flatten() {
        let in_home = home.as_ref().zip(path.strip_prefix("~").ok()).map(|(home, rest)| home.join(rest));
        // A model may be a name in the folder of models.
        let is_name = path.parent().is_none_or(|parent| parent.as_os_str().is_empty());
        *path = match (in_home, folder) {
            (Some(path), _) => path,
            (None, Some(folder)) if !is_name => folder.join(&*path),
            (None, _) => path.clone(),
        };
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_unknown_ones_refused() {
        let folder = Some(Path::new("/etc/sdq"));
        let text = "model = \"sd15\"\nmodel-dir = \"models/here\"\nlora-dir = \"/loras\"\n";
        let expected = Settings {
            model: Some("sd15".into()),
            model_dir: Some("/etc/sdq/models/here".into()),
            lora_dir: Some("/loras".into()),
        };
        assert_eq!(parse(text, folder).unwrap(), expected);
        assert_eq!(parse("", folder).unwrap(), Settings::default());
        let home = parse("model-dir = \"~/models\"", folder).unwrap().model_dir.unwrap();
        assert!(home.ends_with("models") && !home.starts_with("~"), "{home:?}");
        let error = parse("models = \"x\"", folder).unwrap_err().to_string();
        assert!(error.starts_with("line 1: ") && !error.contains('\n'), "{error}");
        assert!(error.contains("models") && error.contains("model-dir"), "{error}");
    }

    /// The example has every key.
    #[test]
    fn the_documented_settings_are_all_settings() {
        let documentation = include_str!("../../docs/files.md");
        let settings = documentation.lines().filter_map(|line| line.strip_prefix("    "));
        let example: Vec<&str> = settings.filter(|line| line.contains(" = \"")).collect();
        let read = parse(&example.join("\n"), None).unwrap();
        let given = [read.model, read.model_dir, read.lora_dir];
        assert!(given.iter().all(Option::is_some), "{given:?}");
        let refused = parse("unknown = 1", None).unwrap_err().to_string();
        let known = refused.split_once("expected").unwrap().1.matches('`').count() / 2;
        assert_eq!(example.len(), known, "{refused}");
    }

    #[test]
    fn a_model_is_found_in_its_folder_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sd15.sdq");
        fs::write(&file, "").unwrap();
        let find = |name: &str| in_folder(name.into(), Some(folder.path()));
        assert_eq!([find("sd15"), find("sd15.sdq")], [file.clone(), file.clone()]);
        assert_eq!(find("other"), Path::new("other"));
        assert_eq!(in_folder("sd15".into(), None), Path::new("sd15"));
        // A file at the path itself comes first.
        assert_eq!(in_folder(file.clone(), Some(Path::new("/"))), file);
    }
}
