//! Previews of a picture during drawing: in the terminal, or as a file.

mod inline;
mod sixel;

use std::{
    io::{IsTerminal as _, stderr},
    path::{Path, PathBuf},
};

use sdq::{Picture, picture, run::SideFile};

use crate::{interrupt, output};
use inline::Protocol;

/// Minimum side of a preview in a file, in pixels.
const MIN_FILE_SIDE: usize = 256;

/// The destination of previews.
pub(crate) struct Previews {
    /// How the terminal shows them, if it does.
    in_terminal: Option<Protocol>,
    /// Number of lines of the last one in the terminal, which the next one replaces.
    lines: usize,
    /// The files of the finished pictures.
    outputs: Vec<PathBuf>,
    /// Files written so far, to be removed at the end.
    files: Vec<PathBuf>,
    /// Whether the user has been told that files cannot be written.
    failed: bool,
}

impl Previews {
    /// For a run without previews.
    pub(crate) fn none() -> Previews {
        Previews::new(Vec::new())
    }

    /// For the pictures in `outputs`.
    pub(crate) fn new(outputs: Vec<PathBuf>) -> Previews {
        let in_terminal = Protocol::of_environment().filter(|_| stderr().is_terminal());
        Previews { in_terminal, lines: 0, outputs, files: Vec::new(), failed: false }
    }

    /// Shows the preview `picture` of picture number `image` of the run. `above` runs a function that prints
    /// while the bar is hidden.
    pub(crate) fn show(&mut self, picture: &Picture, image: usize, above: impl FnOnce(&dyn Fn())) {
        if let Some((text, lines)) = self.in_terminal.and_then(|protocol| protocol.show(picture)) {
            // Overwrites the last one.
            let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
            self.lines = lines;
            above(&|| output::draw(&format!("{up}{text}")));
            return;
        }
        let Some(output) = self.outputs.get(image) else { return };
        let path = output.with_extension("preview.png");
        let large = enlarged(picture, MIN_FILE_SIDE);
        match write_file(&path, &large) {
            Ok(()) if !self.files.contains(&path) => self.files.push(path),
            Ok(()) => {}
            // A failure does not stop the run.
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    above(&|| note!("warning: no preview: {error}"));
                }
            }
        }
    }

    /// Removes the files: the pictures are finished.
    pub(crate) fn finish(&self) {
        for path in &self.files {
            SideFile::Preview.remove(path);
        }
    }
}

/// Writes a preview, unless another file is at its place.
fn write_file(path: &Path, preview: &Picture) -> Result<(), sdq::Error> {
    let failed = |error| sdq::Error::Write { path: path.to_path_buf(), error };
    SideFile::Preview.check(path).map_err(failed)?;
    let texts = [(picture::PREVIEW, "a picture while it is drawn; sdq may replace or remove it")];
    Ok(interrupt::while_writing(|| picture::write(path, preview, &texts))?)
}

/// The picture with each pixel repeated until its shorter side has `side` pixels or more.
fn enlarged(picture: &Picture, side: usize) -> Picture {
    let factor = side.div_ceil(picture.width.min(picture.height).max(1)).max(1);
    let (width, height) = (picture.width * factor, picture.height * factor);
    let pixels = (0..width * height).flat_map(|index| {
        let (x, y) = (index % width / factor, index / width / factor);
        let start = (y * picture.width + x) * 3;
        [picture.rgb[start], picture.rgb[start + 1], picture.rgb[start + 2]]
    });
    Picture { width, height, rgb: pixels.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_squares() {
        let large = enlarged(&Picture { width: 2, height: 1, rgb: vec![0, 0, 0, 9, 9, 9] }, 256);
        assert_eq!((large.width, large.height), (512, 256));
        assert!(large.rgb[..256 * 3].iter().all(|value| *value == 0));
        assert!(large.rgb[256 * 3..512 * 3].iter().all(|value| *value == 9));
    }
}
