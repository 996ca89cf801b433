//! The documentation, compared with the sources and the commands that it describes: names of files, links, command
//! lines, flags, tables and limits.

mod commands;
mod tables;

use std::{fs, path::Path};

use sdq_tests::documents::{documents, root, spans};

/// `a/{b,c}.rs` → `a/b.rs`, `a/c.rs`.
fn expanded(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) {
        Some((start, (choices, end))) => {
            choices.split(',').flat_map(|choice| expanded(&format!("{start}{choice}{end}"))).collect()
        }
        None => vec![name.to_owned()],
    }
}

#[test]
fn files_that_are_named_exist() {
    let crates = [
        "formats/",
        "schedulers/",
        "quantize/",
        "engine/",
        "sdq/",
        "serve/",
        "cli/",
        "tests/",
        "docs/",
        "benches/",
        "demo/",
        "examples/",
        ".ci/",
    ];
    let (mut checked, mut missing) = (0, Vec::new());
    for document in documents() {
        let names = spans(&document.text).into_iter().filter(|span| !span.contains(char::is_whitespace));
        for name in names.filter(|name| crates.iter().any(|start| name.starts_with(start))) {
            for path in expanded(&name) {
                checked += 1;
                if !root().join(&path).exists() {
                    missing.push(format!("{}: {path}", document.name));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(checked > 100, "{checked} names were found");
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => letter.to_lowercase().next(),
        _ => None,
    });
    letters.collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let (mut checked, mut broken) = (0, Vec::new());
    for document in documents() {
        let path = root().join(&document.name);
        let targets = document.text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for target in targets.filter(|target| !target.contains("://")) {
            checked += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match file.is_empty() {
                true => path.clone(),
                false => path.parent().unwrap_or(Path::new("")).join(file),
            };
            let has_heading = || {
                let text = fs::read_to_string(&linked).unwrap_or_default();
                text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
            };
            if !linked.exists() || (!heading.is_empty() && !has_heading()) {
                broken.push(format!("{}: {target}", document.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 60, "{checked} links were found");
}
