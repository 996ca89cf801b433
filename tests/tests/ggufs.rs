//! Values of GGUF files are bit-identical to those that the reference implementation decodes.

use std::path::Path;

use sdq_formats::{
    gguf::{GgufFile, MetadataValue},
    mmap::Bytes,
    safetensors::SafetensorsFile,
};
use sdq_tests::goldens;

fn open(name: &str) -> GgufFile {
    GgufFile::open(goldens::folder("ggufs").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_number_format_is_decoded_to_the_bit() {
    for name in ["formats", "comfy"] {
        let expected = goldens::folder("ggufs").join(format!("{name}.safetensors"));
        let expected = SafetensorsFile::open(expected).unwrap();
        let file = open(&format!("{name}.gguf"));
        assert_eq!(file.tensors().count(), expected.tensors().count());
        for tensor in file.tensors() {
            let expected = expected.tensor(&tensor.name).unwrap();
            assert_eq!(tensor.shape, expected.shape, "{}", tensor.name);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let (found, expected) = (tensor.to_f32().unwrap(), expected.to_f32().unwrap());
            assert_eq!(bits(&found), bits(&expected), "{}", tensor.name);
            // Ranges that begin and end anywhere within blocks.
            for (first, len) in [(0, 1), (3, 8), (7, expected.len() - 7), (expected.len() - 1, 1)] {
                let mut part = vec![0.0; len];
                tensor.read_f32(first, &mut part).unwrap();
                assert_eq!(part, expected[first..first + len], "{} {first} {len}", tensor.name);
            }
        }
    }
}

#[test]
fn metadata_can_be_asked_for() {
    let file = open("formats.gguf");
    assert_eq!(file.metadata()["general.architecture"], MetadataValue::Text("sd1".to_owned()));
    assert_eq!(file.metadata()["some.numbers"].to_text(), "[1, 2, 3]");
    assert_eq!(file.metadata()["many.words"], MetadataValue::Long(100));
}

#[test]
fn damaged_files_do_not_panic() {
    let file = std::fs::read(goldens::folder("ggufs").join("formats.gguf")).unwrap();
    let read = |bytes: &[u8]| {
        GgufFile::from_bytes(Bytes::copy_of(bytes), Path::new("damaged")).map(|file| file.tensors().count())
    };
    // The last tensor ends up to 31 bytes before the file.
    for len in 0..file.len() - 31 {
        assert!(read(&file[..len]).is_err(), "cut to {len} bytes");
    }
    let mut damaged = file.clone();
    for at in 0..file.len().min(4000) {
        for flip in [0x01, 0x80, 0xFF] {
            damaged[at] ^= flip;
            let _ = read(&damaged);
            damaged[at] = file[at];
        }
    }
}
