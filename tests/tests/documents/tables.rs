//! Lists in the documentation, compared with what they list.

use std::{collections::BTreeSet, fs};

use sdq::{
    Request,
    recipe::{Recipe, UsedEmbedding, UsedLora},
};
use sdq_tests::documents::{document, documents, root, sources, spans};

/// The spans of code in the paragraph of `name` that begins with `start`.
fn paragraph(name: &str, start: &str) -> BTreeSet<String> {
    let text = document(name);
    let paragraph = text.split("\n\n").find(|paragraph| paragraph.starts_with(start));
    spans(paragraph.unwrap_or_else(|| panic!("{name} has no paragraph that begins with `{start}`")))
        .into_iter()
        .collect()
}

#[test]
fn recipes_have_the_documented_keys() {
    let text = || "x".to_owned();
    let recipe = Recipe {
        init_image: Some(text()),
        mask: Some(text()),
        fingerprint: Some(text()),
        weights: [(text(), text())].into(),
        loras: vec![UsedLora { file: text(), strength: 1.0, text_strength: None }],
        embeddings: vec![UsedEmbedding { file: text(), word: None }],
        vae: vec![text()],
        ..Recipe::default()
    };
    let json = recipe.json();
    let keys = json.as_object().expect("it is an object").keys().cloned();
    // Each picture has a recipe of its own.
    let of_request = Request::KEYS.into_iter().filter(|key| *key != "count").map(str::to_owned);
    let expected: BTreeSet<String> = keys.chain(of_request).collect();
    assert_eq!(paragraph("docs/recipes.md", "The JSON is one flat object"), expected);
}

/// Names of variables of the environment in `text`.
fn variables(text: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let words = text.split(|letter| !is_name(letter)).filter(|word| word.starts_with("SDQ_"));
    words.map(str::to_owned).collect()
}

/// Every variable that sdq reads is documented.
#[test]
fn variables_are_documented() {
    let documented: BTreeSet<String> =
        documents().iter().flat_map(|document| variables(&document.text)).collect();
    let mut read = BTreeSet::new();
    for source in sources() {
        let text =
            fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        // As a literal: the names in comments may be those of others.
        read.extend(text.split('"').filter(|text| variables(text).contains(*text)).map(str::to_owned));
    }
    assert!(read.len() > 6, "{read:?}");
    let missing: Vec<&String> = read.difference(&documented).collect();
    assert!(missing.is_empty(), "{missing:?} are not documented");
}

/// Every folder and script of the goldens is in their README.
#[test]
fn goldens_are_listed() {
    let readme = document("tests/goldens/README.md");
    let folder = root().join("tests/goldens");
    for entry in fs::read_dir(folder).expect("the folder exists") {
        let entry = entry.expect("the folder can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().expect("the system knows its kind").is_dir();
        let words = if is_folder { format!("`{name}`") } else { name };
        assert!(
            words == "README.md" || words.starts_with("__") || readme.contains(&words),
            "{words} is not listed"
        );
    }
}
