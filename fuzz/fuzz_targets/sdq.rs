//! Reads any bytes as an `.sdq` file: the result is an error or readable weights, never a panic.
//!
//! A mutation nearly always breaks a checksum and would end there. So the input is read twice: unchanged, and
//! as `[u16 table length][first section][table]` of a file with valid header, lengths and checksums.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sdq_formats::layout;
use sdq_formats::mmap::Bytes;
use sdq_formats::sdq::{MAGIC, SdqFile, VERSION};

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Some((table_len, rest)) = data.split_first_chunk::<2>() {
        let table_len = usize::from(u16::from_le_bytes(*table_len)).min(rest.len());
        read(&sealed(rest, table_len));
    }
});

/// Start of the first section of a file.
const SECTION: usize = 65536;

fn sealed(rest: &[u8], table_len: usize) -> Vec<u8> {
    let file_len = SECTION + rest.len();
    let table_crc32 = crc32fast::hash(&rest[rest.len() - table_len..]);
    let mut file = Vec::with_capacity(file_len);
    file.extend(MAGIC);
    file.extend(u64::from(VERSION).to_le_bytes());
    file.extend((file_len as u64).to_le_bytes());
    file.extend(((file_len - table_len) as u64).to_le_bytes());
    file.extend((table_len as u64).to_le_bytes());
    file.extend(table_crc32.to_le_bytes());
    file.resize(60, 0);
    file.extend(crc32fast::hash(&file).to_le_bytes());
    file.resize(SECTION, 0);
    file.extend(rest);
    file
}

fn read(bytes: &[u8]) {
    let Ok(file) = SdqFile::from_bytes(Bytes::copy_of(bytes), Path::new("fuzz")) else { return };
    for component in file.components() {
        for weight in component.weights() {
            let spec = weight.spec;
            let parts = layout::stored_parts(spec, weight.weight_type).expect("the reader has compared them");
            assert_eq!(weight.stored_bytes(), parts.iter().map(|part| part.bytes).sum::<usize>());
            let elements = spec.shape.iter().product::<usize>();
            assert_eq!(layout::decode(spec, &weight.data).len(), elements);
            let _ = weight.verify();
        }
    }
}
