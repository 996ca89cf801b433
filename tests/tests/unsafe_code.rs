//! Checks that CONTRIBUTING.md lists exactly the files that contain unsafe code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The paths at the start of the items below the heading `heading`.
fn listed(text: &str, heading: &str) -> BTreeSet<String> {
    let section = text.split(&format!("\n## {heading}\n")).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().expect("a split has a first part");
    let items = section.lines().filter_map(|line| line.strip_prefix("- `"));
    items.map(|item| item.split('`').next().expect("a split has a first part").to_owned()).collect()
}

/// The Rust files below `folder`, without build outputs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Whether a line of code, not of comment, contains the keyword.
fn holds_unsafe(text: &str) -> bool {
    let keyword = ["un", "safe"].concat();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !(c.is_alphanumeric() || c == '_'))).any(|word| word == keyword)
}

#[test]
fn the_list_of_files_with_unsafe_code_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let holding = files.iter().filter(|path| holds_unsafe(&fs::read_to_string(path).unwrap()));
    let holding: BTreeSet<String> =
        holding.map(|path| path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/")).collect();
    let contributing = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    assert_eq!(listed(&contributing, "Unsafe code"), holding, "CONTRIBUTING.md lists the files on the left");
}
