//! Reads any bytes as a GGUF file: the result is an error or readable tensors, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sdq_formats::gguf::GgufFile;
use sdq_formats::mmap::Bytes;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = GgufFile::from_bytes(Bytes::copy_of(data), Path::new("fuzz")) {
        for tensor in file.tensors() {
            if let Ok(values) = tensor.to_f32() {
                assert_eq!(Some(values.len()), tensor.elements());
            }
        }
    }
});
