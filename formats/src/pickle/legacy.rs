//! The format of `torch.save` before PyTorch 1.6, which it still writes on request: consecutive pickles, then
//! storages.

use std::collections::BTreeMap;
use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::error::PickleProblem;
use super::machine;
use super::tensors::{self, Contents};

/// The pickled number 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Bytes of the number of elements before each storage.
const COUNT: usize = 8;

/// The contents of `file`, and the range of each storage's bytes.
pub(super) fn read(file: &[u8]) -> Result<(Contents, BTreeMap<String, Range<usize>>), PickleProblem> {
    if !file.starts_with(&MAGIC) {
        // It may still be a pickle: then the function that it would call is a more useful error than a wrong
        // format.
        machine::run(file)?;
        return Err(PickleProblem::NotTorch("storages"));
    }
    let mut at = MAGIC.len();
    // Protocol version and properties of the system.
    for _ in 0..2 {
        at += machine::run(&file[at..])?.2;
    }
    let (values, root, len) = machine::run(&file[at..])?;
    let contents = tensors::contents(&values, root, values.all())?;
    at += len;
    let (values, keys, len) = machine::run(&file[at..])?;
    let keys = values.members(keys).ok_or(PickleProblem::NotTorch("list of storages"))?;
    let keys: Option<Vec<&str>> = keys.iter().map(|&key| values.text(key)).collect();
    let keys = keys.ok_or(PickleProblem::NotTorch("list of storages"))?;
    at += len;
    let mut ranges = BTreeMap::new();
    for key in keys {
        let truncated =
            |end: u64| PickleProblem::Truncated { what: "a storage", end, len: file.len() as u64 };
        let start = at + COUNT;
        let count = file.get(at..start).ok_or_else(|| truncated(start as u64))?;
        let count = LittleEndian::read_u64(count);
        let size = contents.storages.get(key).map(|storage| storage.dtype.block().1 as u64);
        let size = size.ok_or(PickleProblem::NotTorch("type for each storage"))?;
        let end = count.checked_mul(size).and_then(|len| len.checked_add(start as u64));
        let end = end.unwrap_or(u64::MAX);
        if end > file.len() as u64 {
            return Err(truncated(end));
        }
        at = end as usize;
        ranges.insert(key.to_owned(), start..at);
    }
    Ok((contents, ranges))
}

#[cfg(test)]
mod tests {
    use super::super::values::Value;
    use super::*;

    #[test]
    fn the_magic_number_is_that_of_torch() {
        let (values, id, len) = machine::run(&MAGIC).unwrap();
        // A number of ten bytes, which is too large to be kept.
        assert!(matches!(values.get(id), Value::Other) && len == MAGIC.len());
    }
}
