//! The contact sheet of a command's pictures.

use std::path::Path;

use sdq::{
    contact_sheet,
    picture::{self, PictureFormat},
    run::Written,
};

use crate::{UsageError, interrupt};

/// Maximum number of pictures on a sheet: they are in memory together.
const MAX_PICTURES: usize = 144;

/// Fails if `count` pictures are too many for a sheet, or `path` is not the name of a picture.
pub(crate) fn check(path: &Path, count: usize) -> Result<(), UsageError> {
    if count > MAX_PICTURES {
        return Err(UsageError(format!("--sheet: {count} pictures, a sheet has at most {MAX_PICTURES}")));
    }
    match PictureFormat::of_path(path) {
        Some(_) => Ok(()),
        None => Err(UsageError(format!("--sheet: `{}` does not end in .png, .jpg or .webp", path.display()))),
    }
}

/// Writes the pictures in `written` as one, to `path`.
pub(crate) fn write(path: &Path, written: &[Written]) -> anyhow::Result<()> {
    check(path, written.len())?;
    let pictures =
        written.iter().map(|written| picture::read(&written.path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(sheet) = contact_sheet(&pictures) {
        interrupt::while_writing(|| picture::write(path, &sheet, &[]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_as_many_pictures_as_documented() {
        let path = Path::new("all.png");
        assert!(check(path, MAX_PICTURES).is_ok() && check(path, MAX_PICTURES + 1).is_err());
        assert!(include_str!("../../docs/files.md").contains(&format!("up to {MAX_PICTURES} of them")));
    }
}
