//! The files of a run: its inputs, its outputs, and its saved run.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use sdq_formats::{atomic::AtomicFile, picture::PictureFormat};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Pipeline, Request,
    add_ons::{AddOns, EmbeddingFile, LoraFile},
    paths,
    recipe::{Recipe, UsedEmbedding, UsedLora},
    run::{
        SAVED_RUN,
        naming::numbered,
        outputs::{Part, check_distinct},
    },
};

/// The files of a run. A saved run contains them as absolute paths, so that it can be resumed from another
/// folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunFiles {
    /// The model; `None` for the built-in one.
    #[serde(default, with = "paths::option")]
    pub model: Option<PathBuf>,
    /// The picture to write. Several pictures have numbers before the extension.
    #[serde(with = "paths")]
    pub output: PathBuf,
    /// The safetensors file for the latents.
    #[serde(default, with = "paths::option")]
    pub save_latents: Option<PathBuf>,
    /// The picture that the run starts from.
    #[serde(default, with = "paths::option")]
    pub init_image: Option<PathBuf>,
    /// The mask of the part to be redrawn.
    #[serde(default, with = "paths::option")]
    pub mask: Option<PathBuf>,
    /// Changes to the model.
    #[serde(default)]
    pub add_ons: AddOns,
    /// Whether the output is removed after the run, so that the run is not saved beside it.
    #[serde(skip)]
    pub is_temporary: bool,
}

impl RunFiles {
    /// The file of the saved run while the run is not finished.
    pub fn saved_run(&self) -> PathBuf {
        let mut name = self.output.file_name().map_or_else(OsString::new, ToOwned::to_owned);
        name.push(".");
        name.push(SAVED_RUN);
        self.output.with_file_name(name)
    }

    /// Fails before the work rather than after it. `also_read` are files that the run reads beside those that are named
    /// here, and their parts in it, such as `the picture with the recipe`.
    ///
    /// # Errors
    /// When a file that a run of `count` pictures writes cannot be written, or is one that it reads.
    pub fn check(&self, count: usize, also_read: &[(&str, &Path)]) -> Result<(), Error> {
        let (pictures, saved_run) = (self.pictures(count)?, self.saved_run());
        let mut written: Vec<Part<'_>> = pictures.iter().map(|path| ("the picture", &**path)).collect();
        written.extend(self.save_latents.iter().map(|path| ("the file of latents", &**path)));
        check_distinct(&written, &[self.read(), also_read.to_vec()].concat())?;
        // A file in the way of the saved run is no reason to refuse the run, unless it is an output. A run that goes on is
        // saved where it was.
        check_distinct(&[("the unfinished run", &*saved_run)], &written)?;
        written.iter().try_for_each(|(_, path)| check_writable(path))
    }

    /// Checks a file that the caller writes beside a run of `count` pictures; `part` is its part in it, such as `the contact
    /// sheet`.
    ///
    /// # Errors
    /// When it cannot be written, or is a file that the run writes or reads.
    pub fn check_beside(&self, count: usize, part: &str, path: &Path) -> Result<(), Error> {
        let pictures = self.pictures(count)?;
        let others = pictures.iter().map(|path| ("the picture", &**path));
        let latents = self.save_latents.iter().map(|path| ("the file of latents", &**path));
        check_distinct(&[(part, path)], &others.chain(latents).chain(self.read()).collect::<Vec<_>>())?;
        check_writable(path)
    }

    /// The files that the run reads, and their parts in it.
    fn read(&self) -> Vec<Part<'_>> {
        let AddOns { loras, embeddings, vae } = &self.add_ons;
        let single =
            [("the model", &self.model), ("the start picture", &self.init_image), ("the mask", &self.mask)];
        let mut read: Vec<Part<'_>> =
            single.into_iter().filter_map(|(part, path)| Some((part, path.as_deref()?))).collect();
        read.extend(loras.iter().map(|lora| ("a LoRA", &*lora.path)));
        read.extend(embeddings.iter().map(|embedding| ("an embedding", &*embedding.path)));
        read.extend(vae.iter().map(|path| ("the VAE", &**path)));
        read
    }

    /// A path for each of `count` pictures: the output, or numbered ones.
    ///
    /// # Errors
    /// [`Error::Option`] when the output's extension is not that of a format that sdq writes.
    pub fn pictures(&self, count: usize) -> Result<Vec<PathBuf>, Error> {
        let output = &self.output;
        if PictureFormat::of_path(output).is_none() {
            let formats = ".png, .jpg or .webp, the formats that sdq writes";
            let problem = format!("`{}` does not end in {formats}", output.display());
            return Err(Error::Option { option: "output", problem });
        }
        if count == 1 {
            return Ok(vec![output.clone()]);
        }
        Ok((1..=count).map(|number| numbered(output, number)).collect())
    }

    /// The recipe of the picture that `pipeline` draws for `request` with these files.
    pub fn recipe(&self, request: Request, pipeline: &Pipeline) -> Recipe {
        self.name_in(Recipe::new(request, pipeline))
    }

    /// `recipe` with the names of these files.
    pub(crate) fn name_in(&self, recipe: Recipe) -> Recipe {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let AddOns { loras, embeddings, vae } = &self.add_ons;
        let lora = |lora: &LoraFile| UsedLora {
            file: name(&lora.path),
            strength: lora.strength,
            text_strength: lora.text_strength,
        };
        let embedding =
            |word: &EmbeddingFile| UsedEmbedding { file: name(&word.path), word: word.word.clone() };
        Recipe {
            init_image: self.init_image.as_ref().map(name),
            mask: self.mask.as_ref().map(name),
            loras: loras.iter().map(lora).collect(),
            embeddings: embeddings.iter().map(embedding).collect(),
            vae: vae.iter().map(name).collect(),
            ..recipe
        }
    }
}

/// Checks a path, so that a failure occurs before the work and not after it.
///
/// # Errors
/// [`Error::Write`] when no file can be written at `path`.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let failed = |error| Error::Write { path: path.to_path_buf(), error };
    AtomicFile::create(path).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(output: &str) -> RunFiles {
        RunFiles { output: output.into(), ..RunFiles::default() }
    }

    #[test]
    fn several_pictures_are_numbered_before_the_extension() {
        let paths = files("out/a.b.jpg").pictures(2).unwrap();
        assert_eq!(paths, [Path::new("out/a.b-1.jpg"), Path::new("out/a.b-2.jpg")]);
        assert_eq!(files("x.PNG").pictures(1).unwrap(), [Path::new("x.PNG")]);
        assert!(files("x.gif").pictures(1).is_err());
        assert!(files("x").pictures(1).is_err());
    }

    #[test]
    fn a_run_is_saved_beside_its_output() {
        assert_eq!(files("out/a.png").saved_run(), Path::new("out/a.png.sdq-run"));
    }

    #[test]
    fn every_picture_has_a_path_of_its_own() {
        let output = files("out/a.webp");
        assert_eq!(output.pictures(1).unwrap(), [Path::new("out/a.webp")]);
        let paths = output.pictures(12).unwrap();
        assert_eq!(
            (paths.len(), &*paths[0], &*paths[11]),
            (12, Path::new("out/a-1.webp"), Path::new("out/a-12.webp"))
        );
        assert_eq!(output.pictures(0).unwrap(), [] as [PathBuf; 0]);
        for name in ["x.jpeg", "x.JPG", ".hidden.png"] {
            assert_eq!(files(name).pictures(1).unwrap(), [Path::new(name)]);
        }
    }

    #[test]
    fn an_output_of_another_format_is_named_with_those_that_are_written() {
        for name in ["x.gif", "x", "x.png.sdq-run", ".png", ""] {
            let error = files(name).pictures(1).unwrap_err();
            let expected =
                format!("output: `{name}` does not end in .png, .jpg or .webp, the formats that sdq writes");
            assert_eq!((error.code(), error.to_string()), ("option.invalid", expected));
        }
    }

    #[test]
    fn outputs_are_tried_before_the_work_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("taken-2.png")).unwrap();
        let run = |output: &str, save_latents: Option<&str>| RunFiles {
            output: path(output),
            save_latents: save_latents.map(path),
            ..RunFiles::default()
        };
        run("a.png", Some("a.safetensors")).check(2, &[]).unwrap();
        for (files, count, named) in [
            (run("taken.png", None), 2, "taken-2.png"),
            (run("none/a.png", None), 1, "none/a.png"),
            (run("a.png", Some("none/a.safetensors")), 1, "none/a.safetensors"),
            (run("a.png", Some("taken-2.png")), 1, "the path is a directory, expected a file"),
        ] {
            let error = files.check(count, &[]).unwrap_err();
            assert!(error.code() == "file.write" && error.to_string().contains(named), "{error}");
        }
        // A folder at the path of a picture that will not be drawn does no harm.
        run("taken.png", None).check(1, &[]).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["taken-2.png"]);
    }

    #[test]
    fn no_picture_and_no_latents_are_written_over_a_file_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["m.png", "i.png", "k.png", "l.png", "e.png", "v.png", "from.png", "v-2.png"] {
            std::fs::write(path(name), name).unwrap();
        }
        let run = |output: &str, save_latents: Option<&str>| RunFiles {
            model: Some(path("m.png")),
            output: path(output),
            save_latents: save_latents.map(path),
            init_image: Some(path("i.png")),
            mask: Some(path("k.png")),
            add_ons: AddOns {
                loras: vec![LoraFile { path: path("l.png"), strength: 1.0, text_strength: None }],
                embeddings: vec![EmbeddingFile { path: path("e.png"), word: None }],
                vae: vec![path("v-2.png")],
            },
            is_temporary: false,
        };
        let from = path("from.png");
        let also_read = [("the picture with the recipe", &*from)];
        for (files, count, part) in [
            (run("m.png", None), 1, "the model"),
            (run("i.png", None), 1, "the start picture"),
            (run("k.png", None), 1, "the mask"),
            (run("l.png", None), 1, "a LoRA"),
            (run("e.png", None), 1, "an embedding"),
            // Of several pictures, one that is numbered.
            (run("v.png", None), 2, "the VAE"),
            (run("from.png", None), 1, "the picture with the recipe"),
            (run("a.png", Some("m.png")), 1, "the model"),
            (run("a.png", Some("a.png")), 1, "the picture"),
            (run("a.png", Some("a.png.sdq-run")), 1, "the file of latents"),
        ] {
            let error = files.check(count, &also_read).unwrap_err();
            assert!(error.to_string().contains(&format!(" and {part};")), "{error}");
        }
        run("a.png", Some("a.safetensors")).check(3, &also_read).unwrap();
        run("v.png", None).check(1, &also_read).unwrap();
    }

    #[test]
    fn a_recipe_names_files_without_their_folders() {
        let pipeline = crate::model::open(None, &Default::default()).unwrap();
        let files = RunFiles {
            init_image: Some("in/start.png".into()),
            mask: Some("/m/mask.png".into()),
            add_ons: AddOns {
                loras: vec![LoraFile { path: "l/ink.pt".into(), strength: 0.5, text_strength: Some(0.25) }],
                embeddings: vec![EmbeddingFile { path: "e/cat.pt".into(), word: Some("<cat>".to_owned()) }],
                vae: vec!["v/encoder.pt".into(), "v/decoder.pt".into()],
            },
            ..files("out/a.png")
        };
        let recipe = files.recipe(Request::new("a fox"), &pipeline);
        assert_eq!(
            (recipe.init_image.as_deref(), recipe.mask.as_deref()),
            (Some("start.png"), Some("mask.png"))
        );
        assert_eq!(
            recipe.loras,
            [UsedLora { file: "ink.pt".to_owned(), strength: 0.5, text_strength: Some(0.25) }]
        );
        assert_eq!(
            recipe.embeddings,
            [UsedEmbedding { file: "cat.pt".to_owned(), word: Some("<cat>".to_owned()) }]
        );
        assert_eq!(recipe.vae, ["encoder.pt", "decoder.pt"]);
        assert_eq!((recipe.request.prompt.as_str(), &recipe.model), ("a fox", &pipeline.manifest().name));
        assert_eq!(recipe.fingerprint, Some(pipeline.fingerprint()));
    }
}
