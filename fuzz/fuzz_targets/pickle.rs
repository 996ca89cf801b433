//! Reads any bytes as a pickled checkpoint, and as the pickle in an otherwise valid archive: the result is an
//! error or readable tensors, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sdq_formats::mmap::Bytes;
use sdq_formats::pickle::PickleFile;

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&archive(&[("m/data.pkl", data), ("m/data/0", &[1; 64])]));
});

fn read(file: &[u8]) {
    if let Ok(file) = PickleFile::from_bytes(Bytes::copy_of(file), Path::new("fuzz")) {
        for tensor in file.tensors() {
            let elements = tensor.elements().expect("the reader checked the shape");
            assert_eq!(Some(tensor.bytes.len()), tensor.dtype.bytes(elements));
        }
    }
}

/// A zip archive of uncompressed entries, with valid checksums, which a mutation would break.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let len = (bytes.len() as u32).to_le_bytes();
        let fields = [&crc32fast::hash(bytes).to_le_bytes()[..], &len, &len].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        file.extend([&b"PK\x03\x04"[..], &[0; 10], &fields, &name_len, &[0; 2], name.as_bytes(), bytes].concat());
        directory.extend([&b"PK\x01\x02"[..], &[0; 12], &fields, &name_len, &[0; 12]].concat());
        directory.extend([&offset.to_le_bytes()[..], name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (len, start) = ((directory.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &len, &start, &[0; 2]].concat()
}
