//! SIGBUS as the error that it is: a file that weights are read from has been cut short, or its disk has failed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::interrupt;

/// Bytes of a page, the least that a file can be cut by for a page of it to be lost. Larger pages are a multiple.
const PAGE: u64 = 4096;

/// Says what happened, saves the run and ends the process.
pub(crate) fn end() -> ! {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let len = |path: &Path| fs::metadata(path).ok().map(|found| found.len());
    match cut_file(&maps, len) {
        Some(path) => note!("error: {}: the file was truncated while it was in use", path.display()),
        None => note!("error: a file in use can no longer be read; the disk may have failed"),
    }
    // Not while the lock for writing is held: whoever has it may be waiting for the page.
    interrupt::leave(crate::EXIT_FAILED)
}

/// The first file in `maps`, `/proc/self/maps`, that is mapped beyond its end; `len` tells where that is. Models are shared
/// mappings. Programs and libraries are private ones, and their last segment often ends beyond the file.
fn cut_file(maps: &str, len: impl Fn(&Path) -> Option<u64>) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let path = PathBuf::from(line.get(line.find('/')?..)?);
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let is_shared = fields.next()?.ends_with('s');
        let offset = number(fields.next().filter(|_| is_shared)?)?;
        let mapped = offset + number(end)?.checked_sub(number(start)?)?;
        len(&path).is_some_and(|len| len.next_multiple_of(PAGE) < mapped).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_was_cut_is_found() {
        let maps = "\
            555500000000-555500003000 r-xp 00001000 fe:00 11    /bin/sdq\n\
            7f0000000000-7f0000010000 r--s 00000000 fe:00 12    /models/a b.sdq\n\
            7f0000020000-7f0000021000 rw-p 00000000 00:00 0\n\
            7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0     [stack]\n";
        let lengths = |program: u64, model: u64| {
            move |path: &Path| match path.to_str() {
                Some("/bin/sdq") => Some(program),
                Some("/models/a b.sdq") => Some(model),
                other => panic!("{other:?}"),
            }
        };
        // The last page may hold a single byte.
        assert_eq!(cut_file(maps, lengths(0x4000, 0xF001)), None);
        assert_eq!(cut_file(maps, lengths(0x4000, 0xF000)), Some("/models/a b.sdq".into()));
        assert_eq!(cut_file(maps, lengths(0x3000, 0x10000)), None);
        // One that is gone is still there for those who have it open.
        assert_eq!(cut_file(maps, |_| None), None);
        assert_eq!(cut_file("nonsense\n/\n", |_| Some(0)), None);
    }
}
