//! Checks that files named in the documentation exist.

use std::path::Path;

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
fn architecture_and_contributing_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
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
    ];
    let (mut checked, mut missing) = (0, Vec::new());
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/decisions.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for name in
            text.split('`').skip(1).step_by(2).filter(|name| crates.iter().any(|c| name.starts_with(c)))
        {
            for path in expanded(name) {
                checked += 1;
                if !root.join(&path).exists() {
                    missing.push(format!("{document}: {path}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(checked > 60, "{checked} names were found");
}
