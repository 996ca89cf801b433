//! The documentation of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of documentation.
#[derive(Debug)]
pub struct Document {
    /// Its path from the root of the repository, with `/` between its parts.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// The root of the repository.
///
/// # Panics
/// Never: this crate has a folder around it.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a workspace")
}

/// The file of documentation called `name`.
///
/// # Panics
/// If it cannot be read.
pub fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every `.md` file of the repository, in the order of their names.
///
/// # Panics
/// If a folder or a file cannot be read.
pub fn documents() -> Vec<Document> {
    let mut names = Vec::new();
    collect(&mut names, &|name| name.ends_with(".md"));
    names.into_iter().map(|name| Document { text: document(&name), name }).collect()
}

/// The paths of all source files of the crates, in Rust, without those of tests.
///
/// # Panics
/// If a folder cannot be read.
pub fn sources() -> Vec<PathBuf> {
    let mut names = Vec::new();
    let crates = ["formats", "schedulers", "quantize", "engine", "sdq", "serve", "cli"];
    collect(&mut names, &|name| {
        let mut folders = name.split('/');
        let is_in_crate = folders.next().is_some_and(|folder| crates.contains(&folder));
        is_in_crate && folders.next() == Some("src") && name.ends_with(".rs") && !name.contains("test")
    });
    names.into_iter().map(|name| root().join(name)).collect()
}

/// Adds the files of the repository that are `wanted`, except generated and hidden ones.
fn collect(names: &mut Vec<String>, wanted: &dyn Fn(&str) -> bool) {
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}{name}");
            let kind = entry.file_type().expect("the system knows its kind");
            if kind.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str())
            {
                folders.push(format!("{path}/"));
            } else if kind.is_file() && wanted(&path) {
                names.push(path);
            }
        }
    }
    names.sort();
}

/// The blocks of code in `text`, a line each, without the marks of code: indented ones, and those between fences.
pub fn code_blocks(text: &str) -> Vec<Vec<&str>> {
    parts(text).0
}

/// The spans of code in the sentences of `text`. One that was broken in two lines has a line feed.
pub fn spans(text: &str) -> Vec<String> {
    let sentences = parts(text).1.join("\n");
    sentences.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The blocks of code in `text`, and its other lines.
fn parts(text: &str) -> (Vec<Vec<&str>>, Vec<&str>) {
    let (mut blocks, mut sentences): (Vec<Vec<&str>>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut is_fenced, mut is_inside) = (false, false);
    for line in text.lines() {
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        let code = if is_fenced { Some(line) } else { line.strip_prefix("    ") };
        match code.filter(|_| !is_fence) {
            Some(code) => match blocks.last_mut().filter(|_| is_inside) {
                Some(block) => block.push(code),
                None => blocks.push(vec![code]),
            },
            None if !is_fence => sentences.push(line),
            None => {}
        }
        is_inside = code.is_some() && !is_fence;
    }
    (blocks, sentences)
}
