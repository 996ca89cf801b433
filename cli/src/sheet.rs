//! The contact sheet of a command's pictures.

use std::path::Path;

use sdq::{contact_sheet, picture, run::Written};

use crate::{UsageError, interrupt};

/// Maximum number of pictures on a sheet: they are in memory together.
const MAX_PICTURES: usize = 144;

/// Fails if `count` pictures are too many for a sheet.
pub(crate) fn check_count(count: usize) -> Result<(), UsageError> {
    match count > MAX_PICTURES {
        true => Err(UsageError(format!("--sheet: {count} pictures, a sheet has at most {MAX_PICTURES}"))),
        false => Ok(()),
    }
}

/// Writes the pictures in `written` as one, to `path`.
pub(crate) fn write(path: &Path, written: &[Written]) -> anyhow::Result<()> {
    check_count(written.len())?;
    let pictures =
        written.iter().map(|written| picture::read(&written.path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(sheet) = contact_sheet(&pictures) {
        interrupt::while_writing(|| picture::write(path, &sheet, &[]))?;
    }
    Ok(())
}
