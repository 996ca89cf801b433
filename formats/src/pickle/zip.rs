//! The archive of `torch.save` since PyTorch 1.6: a zip file with uncompressed entries.
//!
//! Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3 (zip64). Nothing is decompressed, so nothing can
//! expand.

use std::collections::BTreeMap;
use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::error::PickleProblem;
use crate::names::{NAME_RULE, is_printable, quote};

const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const END_64: [u8; 4] = *b"PK\x06\x06";
const END_64_LEN: usize = 56;
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_64_LEN: usize = 20;
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const ENTRY_LEN: usize = 46;
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LOCAL_LEN: usize = 30;
/// The longest comment that may follow the end record.
const MAX_COMMENT: usize = 0xFFFF;
/// Value of fields whose number is in the zip64 field.
const SEE_64: u32 = u32::MAX;

/// The range of each entry's bytes, by name.
#[derive(Debug)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    range: Range<usize>,
    crc: u32,
}

impl Archive {
    /// Reads the directory of the archive `file`.
    pub(super) fn parse(file: &[u8]) -> Result<Archive, PickleProblem> {
        let (mut directory, count) = directory(file)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (name, entry, rest) = entry(file, directory)?;
            directory = rest;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(wrong(format!("entry `{name}` appears twice")));
            }
        }
        let mut ranges: Vec<(&Range<usize>, &String)> =
            entries.iter().map(|(name, entry)| (&entry.range, name)).collect();
        ranges.sort_by_key(|(range, _)| (range.start, range.end));
        for pair in ranges.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                return Err(wrong(format!("entries `{}` and `{}` overlap", pair[0].1, pair[1].1)));
            }
        }
        Ok(Archive { entries })
    }

    /// Names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The range of the entry `name` in the file.
    pub(super) fn range(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).map(|entry| entry.range.clone())
    }

    /// The bytes of the entry `name` of `file`, after a check of their checksum.
    pub(super) fn checked<'a>(&self, file: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, PickleProblem> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let bytes = &file[entry.range.clone()];
        let (found, expected) = (crc32fast::hash(bytes), entry.crc);
        match found == expected {
            true => Ok(Some(bytes)),
            false => Err(wrong(format!(
                "entry `{name}` is damaged: the checksum is {found:08x}, expected {expected:08x}"
            ))),
        }
    }
}

fn wrong(reason: impl Into<String>) -> PickleProblem {
    PickleProblem::Zip(reason.into())
}

/// `file[start..start + len]`.
fn slice<'a>(file: &'a [u8], start: u64, len: u64, what: &'static str) -> Result<&'a [u8], PickleProblem> {
    let end = start.saturating_add(len);
    let found = usize::try_from(start).ok().zip(usize::try_from(end).ok()).and_then(|(a, b)| file.get(a..b));
    found.ok_or(PickleProblem::Truncated { what, end, len: file.len() as u64 })
}

/// The bytes of the central directory, and the number of its entries.
fn directory(file: &[u8]) -> Result<(&[u8], u64), PickleProblem> {
    let from = file.len().saturating_sub(END_LEN + MAX_COMMENT);
    let tail = &file[from..];
    let found = tail.windows(4).rposition(|window| window == END).filter(|at| tail.len() - at >= END_LEN);
    let at =
        from + found.ok_or_else(|| wrong("the end of the archive is missing; download the file again"))?;
    let end = &file[at..at + END_LEN];
    let (mut count, mut len, mut start) = (
        u64::from(LittleEndian::read_u16(&end[10..])),
        u64::from(LittleEndian::read_u32(&end[12..])),
        u64::from(LittleEndian::read_u32(&end[16..])),
    );
    if let Some(locator) = at.checked_sub(LOCATOR_64_LEN).map(|start| &file[start..at])
        && locator.starts_with(&LOCATOR_64)
    {
        let place = LittleEndian::read_u64(&locator[8..]);
        let end = slice(file, place, END_64_LEN as u64, "the zip64 end record")?;
        if !end.starts_with(&END_64) {
            return Err(wrong("the zip64 end record is not where its locator says"));
        }
        count = LittleEndian::read_u64(&end[32..]);
        len = LittleEndian::read_u64(&end[40..]);
        start = LittleEndian::read_u64(&end[48..]);
    }
    let directory = slice(file, start, len, "the archive's directory")?;
    match count <= len / ENTRY_LEN as u64 {
        true => Ok((directory, count)),
        false => Err(wrong(format!("the directory has {len} bytes, too few for {count} entries"))),
    }
}

/// The first entry of `directory`: its name, its range in `file`, and the rest of the directory.
fn entry<'a>(file: &[u8], directory: &'a [u8]) -> Result<(String, Entry, &'a [u8]), PickleProblem> {
    let head = slice(directory, 0, ENTRY_LEN as u64, "an entry of the archive")?;
    if !head.starts_with(&ENTRY) {
        return Err(wrong("the directory is damaged"));
    }
    let lens = [28, 30, 32].map(|at| u64::from(LittleEndian::read_u16(&head[at..])));
    let name = slice(directory, ENTRY_LEN as u64, lens[0], "an entry's name")?;
    let extra = slice(directory, ENTRY_LEN as u64 + lens[0], lens[1], "an entry's extra field")?;
    let total = ENTRY_LEN as u64 + lens.iter().sum::<u64>();
    let all = slice(directory, 0, total, "an entry of the archive")?.len();
    let name = std::str::from_utf8(name).ok().filter(|name| is_printable(name));
    let name = name.ok_or_else(|| wrong(format!("the name of an entry is not allowed: {NAME_RULE}")))?;
    let method = LittleEndian::read_u16(&head[10..]);
    let encrypted = LittleEndian::read_u16(&head[8..]) & 1 == 1;
    if method != 0 || encrypted {
        let how = if encrypted { "encrypted" } else { "compressed" };
        let name = quote(name);
        return Err(wrong(format!(
            "entry `{name}` is {how}, expected a stored entry; unpack the archive and zip it without compression"
        )));
    }
    let sizes = Sizes::read(head, extra)?;
    if sizes.stored != sizes.unpacked {
        let (name, found, expected) = (quote(name), sizes.stored, sizes.unpacked);
        return Err(wrong(format!(
            "entry `{name}` is stored in {found} bytes, expected its full length of {expected}"
        )));
    }
    let local = slice(file, sizes.offset, LOCAL_LEN as u64, "an entry")?;
    if !local.starts_with(&LOCAL) {
        return Err(wrong(format!("entry `{}` is not where the directory says", quote(name))));
    }
    let before = [26, 28].map(|at| u64::from(LittleEndian::read_u16(&local[at..]))).iter().sum::<u64>();
    let start = sizes.offset + LOCAL_LEN as u64 + before;
    let len = slice(file, start, sizes.stored, "an entry")?.len();
    let start = start as usize;
    let entry = Entry { range: start..start + len, crc: LittleEndian::read_u32(&head[16..]) };
    Ok((name.to_owned(), entry, &directory[all..]))
}

/// Lengths and offset of an entry, in 64 bits.
struct Sizes {
    stored: u64,
    unpacked: u64,
    offset: u64,
}

impl Sizes {
    fn read(head: &[u8], extra: &[u8]) -> Result<Sizes, PickleProblem> {
        let [stored, unpacked, offset] = [20, 24, 42].map(|at| LittleEndian::read_u32(&head[at..]));
        let mut wide = zip64_field(extra).chunks_exact(8).map(LittleEndian::read_u64);
        let mut widened = |value: u32| match value {
            SEE_64 => wide.next().ok_or_else(|| wrong("an entry has no zip64 lengths")),
            value => Ok(u64::from(value)),
        };
        // In the order of the field.
        let unpacked = widened(unpacked)?;
        let stored = widened(stored)?;
        Ok(Sizes { stored, unpacked, offset: widened(offset)? })
    }
}

/// The contents of the zip64 field among an entry's extra fields; empty if there is none.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let len = usize::from(LittleEndian::read_u16(&head[2..]));
        let Some((field, rest)) = rest.split_at_checked(len) else { break };
        if LittleEndian::read_u16(head) == 1 {
            return field;
        }
        extra = rest;
    }
    &[]
}
