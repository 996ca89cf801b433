//! Files with malformed headers. Files of the reference implementation are tested elsewhere.

mod boundaries;

use super::*;

/// A file under construction: header, keys, tensors, data.
#[derive(Clone)]
struct File {
    keys: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    /// Two tensors of four f32.
    fn new() -> File {
        let tensor = |name: &str, offset| (name.to_owned(), vec![2, 2], 0, offset);
        File { keys: Vec::new(), tensors: vec![tensor("a", 0), tensor("b", 32)], data: 64 }
    }

    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> File {
        self.keys.push([&text(name)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.keys.len() as u64].map(u64::to_le_bytes).concat();
        let mut bytes = [&b"GGUF\x03\0\0\0"[..], &counts, &self.keys.concat()].concat();
        for (name, sizes, format, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((sizes.len() as u32).to_le_bytes());
            bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(format.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn open(bytes: &[u8]) -> Result<GgufFile, GgufProblem> {
    GgufFile::from_bytes(Bytes::copy_of(bytes), Path::new("m.gguf")).map_err(|error| *error.problem)
}

fn refused(bytes: &[u8]) -> String {
    open(bytes).expect_err("the file must be refused").to_string()
}

#[test]
fn reads_shapes_slowest_first() {
    let mut file = File::new();
    file.tensors[0].1 = vec![4, 1, 1];
    let file = open(&file.key("general.name", 8, &text("m")).bytes()).unwrap();
    let shapes: Vec<_> =
        file.tensors().map(|tensor| (tensor.name, tensor.shape, tensor.bytes.len())).collect();
    assert_eq!(shapes, [("a".to_owned(), vec![1, 1, 4], 16), ("b".to_owned(), vec![2, 2], 16)]);
}

#[test]
fn refuses_other_files_and_versions() {
    let edited = |at: usize, bytes: &[u8]| {
        let mut file = File::new().bytes();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&file)
    };
    assert!(edited(0, b"GGML").contains("not a GGUF file"));
    assert!(edited(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(edited(4, &4u32.to_le_bytes()).contains("version 4"));
    assert!(edited(4, &3u32.to_be_bytes()).contains("big-endian numbers"));
    assert!(edited(8, &(1u64 << 60).to_le_bytes()).contains("1152921504606846976 tensors"));
    assert!(edited(16, &(1u64 << 60).to_le_bytes()).contains("1152921504606846976 keys"));
    assert!(refused(&File::new().bytes()[..91]).contains("truncated"));
}

#[test]
fn tensors_without_elements_need_data_to_be_in_too() {
    let mut file = File::new();
    file.tensors.iter_mut().for_each(|tensor| (tensor.1, tensor.3) = (vec![0, 2], 0));
    file.data = 0;
    let mut bytes = file.bytes();
    assert_eq!(open(&bytes).unwrap().tensors().map(|tensor| tensor.bytes.len()).sum::<usize>(), 0);
    bytes.pop();
    assert!(refused(&bytes).contains("the data extends to byte"));
}

#[test]
fn refuses_tensors_that_cannot_be_there() {
    let edited = |edit: &dyn Fn(&mut File)| {
        let mut file = File::new();
        edit(&mut file);
        refused(&file.bytes())
    };
    for (edit, words) in [
        (
            &(|file: &mut File| file.tensors[1].3 = 8) as &dyn Fn(&mut File),
            "at bytes 8..24 of the data overlaps `a`",
        ),
        (&|file| file.tensors[1].3 = 56, "to byte 72 of the data, but there are only 64 bytes"),
        (&|file| file.tensors[1].3 = u64::MAX, "only 64 bytes"),
        (&|file| file.tensors[1].1 = vec![1 << 40, 1 << 40], "too large"),
        (&|file| file.tensors[1].1 = vec![1; 9], "9 dimensions"),
        (
            &|file| (file.tensors[1].1, file.tensors[1].2) = (vec![48, 2], 2),
            "not a multiple of the block length",
        ),
        (&|file| file.tensors[1].2 = 39, "MXFP4"),
        (&|file| file.tensors[1].2 = 4, "number 4"),
        (&|file| file.tensors[1].0 = "a".to_owned(), "`a` appears twice"),
        (&|file| file.tensors[1].0 = "a\n".to_owned(), "is not allowed"),
        (&|file| file.data = 32, "only 32 bytes"),
    ] {
        let message = edited(edit);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn refuses_metadata_that_cannot_be() {
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let nested = [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat();
    for (file, words) in [
        (File::new().key("general.alignment", 4, &3u32.to_le_bytes()), "expected a power of two"),
        (File::new().key("general.alignment", 4, &0u32.to_le_bytes()), "expected a power of two"),
        (File::new().key("k", 13, b""), "of the unknown type 13"),
        (File::new().key("k", 9, &array(0, 1 << 60)), "members of an array"),
        (File::new().key("k", 9, &nested), "nested too deeply"),
        (File::new().key("k", 8, &(1u64 << 60).to_le_bytes()), "truncated"),
        (File::new().key("k", 0, b"1").key("k", 0, b"1"), "`k` appears twice"),
        (File::new().key("split.count", 2, &3u16.to_le_bytes()), "one of 3 parts"),
        (
            File::new().key(
                "comfy.gguf.orig_shape.a",
                9,
                &[array(5, 1), 5i32.to_le_bytes().to_vec()].concat(),
            ),
            "the original shape in the metadata is [5]",
        ),
    ] {
        let message = refused(&file.bytes());
        assert!(message.contains(words), "{message}");
    }
}
