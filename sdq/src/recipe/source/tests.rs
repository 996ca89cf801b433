use sdq_formats::picture::Picture;

use super::*;
use crate::{Cancel, Event, recipe::Recipe};

/// A picture with `recipe` in a folder of its own.
fn source(recipe: &Recipe) -> (tempfile::TempDir, Source) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drawn.png");
    let texts = recipe.texts();
    let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
    picture::write(&path, &Picture { width: 1, height: 1, rgb: vec![0; 3] }, &texts).unwrap();
    let source = Source::read(&path).unwrap();
    (folder, source)
}

fn noted<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> (T, Vec<Note>) {
    let mut notes = Vec::new();
    let mut observer = |event| match event {
        Event::Note(note) => notes.push(note),
        other => panic!("{other:?}"),
    };
    let result = work(&mut Watch::new(&mut observer, &Cancel::new()));
    (result, notes)
}

#[test]
fn start_picture_and_mask_are_beside_the_picture() {
    let recipe = Recipe {
        init_image: Some("in.png".to_owned()),
        mask: Some("mask.png".to_owned()),
        request: crate::Request::new("x").strength(0.5),
        ..Recipe::default()
    };
    let (folder, source) = source(&recipe);
    let path = |name: &str| folder.path().join(name);
    for (missing, option) in [("in.png", "init-image"), ("mask.png", "mask")] {
        let error = source.start().unwrap_err();
        let message = format!(
            "{option}: the recipe in `{}` needs `{missing}`, which is not in the same folder; give the file",
            path("drawn.png").display()
        );
        assert_eq!((error.code(), error.to_string()), ("option.invalid", message));
        std::fs::write(path(missing), "").unwrap();
    }
    assert_eq!(source.start().unwrap(), (Some(path("in.png")), Some(path("mask.png"))));
}

#[test]
fn a_recipe_that_starts_from_a_nameless_picture_asks_for_it() {
    let start = |recipe: Recipe| source(&recipe).1.start();
    assert_eq!(start(Recipe::default()).unwrap(), (None, None));
    let strength = Recipe { request: crate::Request::new("x").strength(0.5), ..Recipe::default() };
    let error = start(strength).unwrap_err().to_string();
    assert!(error.contains("starts from a picture without a name; give the file"), "{error}");
    // A name in a picture of a stranger cannot lead to another folder or control the terminal.
    for name in ["../drawn.png", "/etc/hostname", "\u{1b}[2J.png"] {
        let recipe = Recipe { init_image: Some(name.to_owned()), ..Recipe::default() };
        let error = start(recipe).unwrap_err().to_string();
        assert!(error.contains("is not in the same folder") && !error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn add_ons_are_found_in_the_folder_of_loras_first() {
    let names = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>();
    let recipe = Recipe {
        loras: vec![
            UsedLora { file: "ink".to_owned(), strength: 0.5, text_strength: None },
            UsedLora { file: "lost.pt".to_owned(), strength: 1.0, text_strength: None },
        ],
        embeddings: vec![UsedEmbedding { file: "cat.pt".to_owned(), word: Some("<cat>".to_owned()) }],
        vae: names(&["encoder.pt", "decoder.pt"]),
        ..Recipe::default()
    };
    let (folder, source) = source(&recipe);
    let loras = tempfile::tempdir().unwrap();
    let beside = |name: &str| folder.path().join(name);
    for name in ["ink.pt", "cat.pt", "encoder.pt"] {
        std::fs::write(beside(name), "").unwrap();
    }
    std::fs::write(loras.path().join("ink.gguf"), "").unwrap();
    let missing = ["lost.pt", "decoder.pt"].map(|name| Note::RecipeFileMissing { name: name.to_owned() });
    for (lora_dir, ink) in [(None, beside("ink.pt")), (Some(loras.path()), loras.path().join("ink.gguf"))] {
        let (found, notes) = noted(|watch| source.add_ons(lora_dir, watch));
        let expected = AddOns {
            loras: vec![LoraFile { path: ink, strength: 0.5, text_strength: None }],
            embeddings: vec![EmbeddingFile { path: beside("cat.pt"), word: Some("<cat>".to_owned()) }],
            vae: vec![beside("encoder.pt")],
        };
        assert_eq!((found.unwrap(), notes), (expected, missing.to_vec()));
    }
}

#[test]
fn a_foreign_recipe_is_told_with_what_is_left_of_it() {
    let (_folder, mut source) = source(&Recipe::default());
    let (_, notes) = noted(|watch| source.note_unused(watch));
    assert_eq!(notes, []);
    source.found.program = "Forge";
    source.found.unused = vec!["ENSD: 1".to_owned(), "RNG: cuda".to_owned()];
    let (_, notes) = noted(|watch| source.note_unused(watch));
    let unused = |text: &str| Note::RecipeUnused(text.to_owned());
    assert_eq!(notes, [Note::ForeignRecipe { program: "Forge" }, unused("ENSD: 1"), unused("RNG: cuda")]);
}

/// Each possible difference from the built-in model is reported in one sentence.
#[test]
fn what_differs_from_the_model_is_told() {
    let pipeline = crate::model::open(None, &Default::default()).unwrap();
    let own = Recipe::new(crate::Request::new("x"), &pipeline);
    let (name, found) = (own.model.clone(), pipeline.fingerprint());
    let with = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = own.clone();
        change(&mut recipe);
        recipe.differences(&pipeline)
    };
    assert_eq!(with(&|_| ()), [] as [String; 0]);
    let other = |fingerprint: String, model: &str| {
        let model = model.to_owned();
        with(&move |recipe| (recipe.fingerprint, recipe.model) = (Some(fingerprint.clone()), model.clone()))
    };
    let message =
        format!("the picture was drawn with the model `fox` (01234567), not with `{name}` ({found})");
    assert_eq!(other("01234567".to_owned(), "fox"), [message]);
    let adapted = other(format!("{found}+01234567"), &name);
    assert_eq!(adapted, ["the picture was drawn with other LoRAs, embeddings or another VAE"]);
    let types = with(&|recipe| {
        recipe.fingerprint = Some("01234567".to_owned());
        recipe.weights.insert("unet".to_owned(), "q2".to_owned());
        recipe.weights.retain(|component, _| component == "unet");
    });
    let beginning = format!("the picture was drawn with other weight types of `{name}` (unet q2, not ");
    assert!(matches!(&types[..], [only] if only.starts_with(&beginning)), "{types:?}");
    let unknown = with(&|recipe| {
        recipe.fingerprint = Some("01234567".to_owned());
        recipe.weights.clear();
    });
    assert!(unknown[0].contains("(unknown, not "), "{unknown:?}");
    assert_eq!(
        with(&|recipe| recipe.fingerprint = None),
        ["the recipe does not say which version of the model drew the picture"]
    );
    let older = with(&|recipe| (recipe.fingerprint, recipe.model) = (None, "fox".to_owned()));
    assert_eq!(older, [format!("the picture was drawn with the model `fox`, not with `{name}`")]);
    let version = with(&|recipe| recipe.version = "sdq 0.0.0".to_owned());
    assert_eq!(version, [format!("the picture was drawn by sdq 0.0.0, not by {}", crate::recipe::VERSION)]);
    assert_eq!(with(&|recipe| recipe.version = "v1.9.4".to_owned()), [] as [String; 0]);
}
