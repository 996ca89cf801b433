//! Reads any bytes as a safetensors file: the result is an error or readable tensors, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sdq_formats::mmap::Bytes;
use sdq_formats::safetensors::SafetensorsFile;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = SafetensorsFile::from_bytes(Bytes::copy_of(data), Path::new("fuzz")) {
        let covered: usize = file.tensors().map(|tensor| tensor.bytes.len()).sum();
        assert!(covered < data.len());
        for tensor in file.tensors() {
            if let Ok(values) = tensor.to_f32() {
                assert_eq!(Some(values.len()), tensor.elements());
            }
        }
    }
});
