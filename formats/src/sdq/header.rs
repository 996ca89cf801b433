//! The first 64 bytes of the file.

use byteorder::{ByteOrder, LittleEndian};

use super::error::SdqProblem;
use crate::sniff::FileKind;

/// The first eight bytes. Like PNG's, they reveal transfers that strip the eighth bit or change line ends.
pub const MAGIC: [u8; 8] = *b"\x89SDQ\r\n\x1a\n";

/// The version of the format that is written, and the only one that can be read.
pub const VERSION: u32 = 1;

/// Length of the header in bytes.
pub(super) const HEADER_LEN: usize = 64;

/// Maximum length of the table of contents, in bytes. SDXL, with 2,600 weights, needs half a megabyte.
pub(super) const MAX_TABLE_LEN: u64 = 8 * 1024 * 1024;

/// Lengths and offsets of file and table, and the table's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Length of the whole file.
    pub(super) file_len: u64,
    /// Start of the table of contents, which ends with the file.
    pub(super) table_offset: u64,
    /// Length of the table of contents.
    pub(super) table_len: u64,
    /// CRC-32 of the table of contents.
    pub(super) table_crc32: u32,
}

impl Header {
    /// Parses and checks the header of a file with the given bytes.
    pub(super) fn parse(file: &[u8]) -> Result<Header, SdqProblem> {
        if !file.starts_with(&MAGIC) {
            return Err(SdqProblem::NotSdq(FileKind::of(file)));
        }
        let Some(header) = file.get(..HEADER_LEN) else {
            return Err(SdqProblem::FileLength { expected: HEADER_LEN as u64, found: file.len() as u64 });
        };
        // The version is checked first: it determines the layout of the rest.
        let version = LittleEndian::read_u32(&header[8..12]);
        if version != VERSION {
            return Err(SdqProblem::Version { expected: VERSION, found: version });
        }
        if LittleEndian::read_u32(&header[60..64]) != crc32fast::hash(&header[..60]) {
            return Err(SdqProblem::Header("the checksum is wrong"));
        }
        if header[12..16].iter().chain(&header[44..60]).any(|&byte| byte != 0) {
            return Err(SdqProblem::Header("the reserved bytes are not zero"));
        }
        let parsed = Header {
            file_len: LittleEndian::read_u64(&header[16..24]),
            table_offset: LittleEndian::read_u64(&header[24..32]),
            table_len: LittleEndian::read_u64(&header[32..40]),
            table_crc32: LittleEndian::read_u32(&header[40..44]),
        };
        let found = file.len() as u64;
        if parsed.file_len != found {
            return Err(SdqProblem::FileLength { expected: parsed.file_len, found });
        }
        let Header { table_offset: offset, table_len: length, .. } = parsed;
        if length > MAX_TABLE_LEN
            || offset < HEADER_LEN as u64
            || offset.checked_add(length) != Some(parsed.file_len)
        {
            return Err(SdqProblem::TableBounds { offset, length });
        }
        Ok(parsed)
    }

    /// The header's bytes in the file. Refuses a table that [`Header::parse`] would refuse.
    pub(super) fn to_bytes(self) -> Result<[u8; HEADER_LEN], SdqProblem> {
        if self.table_len > MAX_TABLE_LEN {
            return Err(SdqProblem::TableBounds { offset: self.table_offset, length: self.table_len });
        }
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut bytes[8..12], VERSION);
        LittleEndian::write_u64(&mut bytes[16..24], self.file_len);
        LittleEndian::write_u64(&mut bytes[24..32], self.table_offset);
        LittleEndian::write_u64(&mut bytes[32..40], self.table_len);
        LittleEndian::write_u32(&mut bytes[40..44], self.table_crc32);
        let checksum = crc32fast::hash(&bytes[..60]);
        LittleEndian::write_u32(&mut bytes[60..64], checksum);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let header = Header { file_len: 100, table_offset: 64, table_len: 36, table_crc32: 7 };
        let mut bytes = header.to_bytes().unwrap().to_vec();
        change(&mut bytes);
        let checksum = crc32fast::hash(&bytes[..60]);
        LittleEndian::write_u32(&mut bytes[60..64], checksum);
        bytes.resize(100, 0);
        bytes
    }

    fn refused(change: impl Fn(&mut [u8])) -> SdqProblem {
        Header::parse(&sealed(change)).unwrap_err()
    }

    #[test]
    fn round_trips() {
        let header = Header { file_len: 100, table_offset: 64, table_len: 36, table_crc32: 7 };
        assert_eq!(Header::parse(&sealed(|_| ())).unwrap(), header);
    }

    #[test]
    fn rejects_other_files() {
        assert!(matches!(Header::parse(b""), Err(SdqProblem::NotSdq(FileKind::Empty))));
        assert!(matches!(Header::parse(b"<html>"), Err(SdqProblem::NotSdq(FileKind::Html))));
        assert!(matches!(Header::parse(&MAGIC), Err(SdqProblem::FileLength { expected: 64, found: 8 })));
    }

    #[test]
    fn rejects_another_version_before_anything_else() {
        let mut bytes = sealed(|_| ());
        bytes[8] = 2;
        assert!(matches!(Header::parse(&bytes), Err(SdqProblem::Version { expected: 1, found: 2 })));
    }

    #[test]
    fn rejects_a_flipped_bit_and_reserved_bytes() {
        let mut bytes = sealed(|_| ());
        bytes[41] ^= 1;
        assert!(matches!(Header::parse(&bytes), Err(SdqProblem::Header("the checksum is wrong"))));
        assert!(matches!(refused(|b| b[13] = 1), SdqProblem::Header("the reserved bytes are not zero")));
        assert!(matches!(refused(|b| b[59] = 1), SdqProblem::Header("the reserved bytes are not zero")));
    }

    #[test]
    fn rejects_wrong_lengths() {
        assert!(matches!(
            refused(|b| LittleEndian::write_u64(&mut b[16..24], 101)),
            SdqProblem::FileLength { expected: 101, found: 100 }
        ));
        for (offset, length) in [(60, 40), (64, 35), (64, u64::MAX - 10), (u64::MAX, 37), (0, 100)] {
            let problem = refused(|b| {
                LittleEndian::write_u64(&mut b[24..32], offset);
                LittleEndian::write_u64(&mut b[32..40], length);
            });
            assert!(matches!(problem, SdqProblem::TableBounds { .. }), "{offset} {length}");
        }
    }
}
