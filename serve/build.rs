//! Lists the files of the page, so that they are compiled in.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("page/dist");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut code = "static ASSETS: &[Asset] = &[\n".to_owned();
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let path = file.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
        let media_type = media_type(&file)?;
        let source = file.display().to_string();
        writeln!(
            code,
            "    Asset {{ path: {path:?}, media_type: {media_type:?}, bytes: include_bytes!({source:?}) }},"
        )?;
    }
    code.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("assets.rs"), code)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn media_type(file: &Path) -> Result<&'static str, String> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("html") => Ok("text/html; charset=utf-8"),
        Some("js") => Ok("text/javascript; charset=utf-8"),
        Some("css") => Ok("text/css; charset=utf-8"),
        Some("svg") => Ok("image/svg+xml"),
        Some("png") => Ok("image/png"),
        Some("ico") => Ok("image/x-icon"),
        Some("woff2") => Ok("font/woff2"),
        Some("json" | "map") => Ok("application/json"),
        Some("txt") => Ok("text/plain; charset=utf-8"),
        _ => {
            Err(format!("{}: a file of the page with an ending that build.rs does not know", file.display()))
        }
    }
}
