//! Checkpoints that `torch.save` wrote contain exactly the values that were saved.

use std::{collections::BTreeMap, path::Path};

use sdq_formats::{dtype::DType, pickle::PickleFile, safetensors::SafetensorsFile, tensor::TensorView};
use sdq_tests::goldens;

type Tensors = BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>;

fn collected<'a>(tensors: impl Iterator<Item = TensorView<'a>>) -> Tensors {
    tensors.map(|TensorView { name, dtype, shape, bytes }| (name, (dtype, shape, bytes.to_vec()))).collect()
}

fn open(name: &str) -> PickleFile {
    let path = goldens::folder("pickles").join(format!("{name}.pt"));
    PickleFile::open(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_layout_holds_the_tensors_that_were_saved() {
    for name in ["zip", "legacy", "protocol4", "lightning", "embedding"] {
        let expected = goldens::folder("pickles").join(format!("{name}.safetensors"));
        let expected = collected(SafetensorsFile::open(expected).unwrap().tensors());
        assert_eq!(collected(open(name).tensors()), expected, "{name}");
    }
}

#[test]
fn what_stands_beside_the_tensors_can_be_asked_for() {
    assert_eq!(open("lightning").note("global_step"), Some("470000"));
    assert_eq!(open("embedding").note("name"), Some("cat-toy"));
    assert_eq!(open("zip").note("global_step"), None);
}

/// Truncated and damaged files of torch give an error or other values, never a panic.
#[test]
fn damaged_files_do_not_panic() {
    for name in ["zip", "legacy", "embedding"] {
        let file = std::fs::read(goldens::folder("pickles").join(format!("{name}.pt"))).unwrap();
        let read = |bytes: &[u8]| {
            let bytes = sdq_formats::mmap::Bytes::copy_of(bytes);
            PickleFile::from_bytes(bytes, Path::new("damaged")).map(|file| file.tensors().count())
        };
        for len in 0..file.len().min(3000) {
            assert!(read(&file[..len]).is_err(), "{name} cut to {len} bytes");
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
}
