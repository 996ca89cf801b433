//! The reader with every possible fault of a file.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::dtype::DType;
use crate::sniff::FileKind;

/// A file with the given header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn parse(header: &str, data: &[u8]) -> Result<Header, SafetensorsProblem> {
    Header::parse(&file(header, data))
}

fn refused(header: &str, data: &[u8]) -> SafetensorsProblem {
    parse(header, data).expect_err("the file must be refused")
}

fn view<'a>(name: &str, dtype: DType, shape: &[usize], bytes: &'a [u8]) -> TensorView<'a> {
    TensorView { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

#[test]
fn reads_a_file_as_python_writes_it() {
    // safetensors.numpy.save({"b": [1, 2] f16, "a": [[3.0]] f32}, metadata={"format": "pt"}), byte for byte.
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"#,
        r#""b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}  "#
    );
    let data = [0, 0, 0x40, 0x40, 0, 0x3c, 0, 0x40];
    let bytes = Bytes::copy_of(&file(header, &data));
    let file = SafetensorsFile::from_bytes(bytes, Path::new("m.safetensors")).unwrap();
    assert_eq!(file.metadata(), [("format".to_owned(), "pt".to_owned())]);
    assert_eq!(file.tensor("a").unwrap().to_f32().unwrap(), [3.0]);
    assert_eq!(file.tensor("b").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    assert!(file.tensor("c").is_none());
}

#[test]
fn tensors_may_be_listed_in_any_order_and_be_empty_or_scalar() {
    let header = concat!(
        r#"{"last":{"dtype":"F32","shape":[],"data_offsets":[2,6]},"#,
        r#""none":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[2,2]},"#,
        r#""first":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"extra":null}}"#
    );
    let names: Vec<String> = parse(header, &[0; 6]).unwrap().tensors.into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["first", "none", "last"]);
    assert!(parse("{}", &[]).unwrap().tensors.is_empty());
}

#[test]
fn rejects_files_of_other_kinds() {
    let kind = |bytes: &[u8]| match Header::parse(bytes).unwrap_err() {
        SafetensorsProblem::Kind(kind) => kind,
        other => panic!("{other}"),
    };
    assert_eq!(kind(b""), FileKind::Empty);
    assert_eq!(kind(b"<!DOCTYPE html><html></html>"), FileKind::Html);
    assert_eq!(kind(b"version https://git-lfs.github.com/spec/v1\n"), FileKind::GitLfsPointer);
    assert_eq!(kind(b"PK\x03\x04archive/data.pkl"), FileKind::Zip);
    assert_eq!(kind(b"\x80\x02}q\x00."), FileKind::Pickle);
}

#[test]
fn rejects_headers_that_do_not_fit() {
    assert!(matches!(Header::parse(&[0; 7]), Err(SafetensorsProblem::TooShort(7))));
    let too_long = [&100_000_001u64.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(
        Header::parse(&too_long),
        Err(SafetensorsProblem::HeaderTooLong { limit: 100_000_000, found: 100_000_001 })
    ));
    let absurd = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(Header::parse(&absurd), Err(SafetensorsProblem::HeaderTooLong { .. })));
    let cut = [&3u64.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(
        Header::parse(&cut),
        Err(SafetensorsProblem::HeaderPastEnd { expected: 11, found: 10 })
    ));
}

#[test]
fn rejects_headers_that_are_not_the_json_they_should_be() {
    let not_utf8 = [&2u64.to_le_bytes()[..], b"{\xff"].concat();
    assert!(matches!(Header::parse(&not_utf8), Err(SafetensorsProblem::Utf8(1))));
    for header in [
        "",
        "{",
        "[]",
        "{} x",
        "null",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"format":1}}"#,
        &"[".repeat(100_000),
    ] {
        let problem = refused(header, &[0; 4]);
        assert!(matches!(problem, SafetensorsProblem::Json(_)), "{header:.40}: {problem}");
    }
}

#[test]
fn messages_about_json_are_bounded_and_printable() {
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":"{}\u001b"}}}}"#, "x".repeat(100_000));
    let message = refused(&header, &[]).to_string();
    assert!(message.len() < 400 && !message.chars().any(char::is_control), "{message}");
}

#[test]
fn rejects_names_that_repeat_or_do_not_print() {
    let twice = concat!(
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"#,
        r#""a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#
    );
    assert!(matches!(refused(twice, &[0; 2]), SafetensorsProblem::Duplicate(name) if name == "a"));
    let metadata = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(
        matches!(refused(metadata, &[]), SafetensorsProblem::Duplicate(name) if name == "__metadata__.k")
    );
    let metadata = r#"{"__metadata__":{"k":"1"},"__metadata__":{"k":"2"}}"#;
    assert!(matches!(refused(metadata, &[]), SafetensorsProblem::Duplicate(_)));
    for name in ["", "a\\nb", "\\u001b[2J"] {
        let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        assert!(matches!(refused(&header, &[0]), SafetensorsProblem::Name(_)), "{name}");
    }
}

#[test]
fn rejects_unknown_formats_by_name() {
    let header = r#"{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#;
    assert_eq!(
        refused(header, &[0]).to_string(),
        "tensor `w` has the unknown type \"F4\", expected one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U64, U32, U16, U8, BOOL"
    );
}

#[test]
fn rejects_sizes_that_overflow_or_do_not_fit_the_offsets() {
    let one = |shape: &str, offsets: &str| {
        refused(&format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), &[0; 8])
    };
    assert!(matches!(one("[4294967296,4294967296]", "[0,8]"), SafetensorsProblem::ShapeOverflow { .. }));
    assert!(matches!(one("[4611686018427387904]", "[0,0]"), SafetensorsProblem::ShapeOverflow { .. }));
    assert_eq!(
        one("[3]", "[0,8]").to_string(),
        "tensor `w` of shape [3] and type F32 takes 12 bytes, which is not the length of its offsets 0..8"
    );
    assert!(matches!(one("[2]", "[8,0]"), SafetensorsProblem::Length { .. }));
    assert!(matches!(one("[2]", "[18446744073709551615,7]"), SafetensorsProblem::Length { .. }));
}

#[test]
fn rejects_tensors_past_the_end_overlapping_or_with_gaps() {
    let two = |first: &str, second: &str, len: usize| {
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{first}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{second}}}}}"#
        );
        refused(&header, &vec![0; len])
    };
    assert!(matches!(two("[0,4]", "[4,8]", 7), SafetensorsProblem::PastEnd { end: 8, found: 7, .. }));
    assert!(matches!(
        two("[0,4]", "[18446744073709551611,18446744073709551615]", 8),
        SafetensorsProblem::PastEnd { .. }
    ));
    assert_eq!(
        two("[0,4]", "[3,7]", 7).to_string(),
        "tensor `b` starts at byte 3 of the data and overlaps `a`, which ends at byte 4"
    );
    assert!(matches!(two("[0,4]", "[0,4]", 4), SafetensorsProblem::Overlap { .. }));
    assert!(matches!(two("[0,4]", "[5,9]", 9), SafetensorsProblem::Hole { expected: 4, found: 5, .. }));
    assert!(matches!(two("[1,5]", "[5,9]", 9), SafetensorsProblem::Hole { expected: 0, found: 1, .. }));
    assert!(matches!(two("[0,4]", "[4,8]", 9), SafetensorsProblem::Trailing { expected: 8, found: 9 }));
}

#[test]
fn the_writer_is_exact_and_leaves_nothing_behind_when_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write(&path, &[view("latents", DType::F32, &[1], &[0, 0, 0x80, 0x3f])], &[("seed", "42")]).unwrap();
    let header =
        r#"{"__metadata__":{"seed":"42"},"latents":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let padded = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    assert_eq!(fs::read(&path).unwrap(), file(&padded, &[0, 0, 0x80, 0x3f]));

    let other = folder.path().join("b.safetensors");
    let good = view("a", DType::U8, &[1], &[0]);
    for (tensors, metadata) in [
        (vec![good.clone(), good.clone()], vec![]),
        (vec![view("a", DType::U8, &[2], &[0])], vec![]),
        (vec![view("a", DType::F32, &[usize::MAX], &[0])], vec![]),
        (vec![view("__metadata__", DType::U8, &[1], &[0])], vec![]),
        (vec![good], vec![("k", "1"), ("k", "2")]),
    ] {
        assert!(write(&other, &tensors, &metadata).is_err());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn any_tensor() -> impl Strategy<Value = (DType, Vec<usize>, Vec<u8>)> {
    (prop::sample::select(DType::ALL.to_vec()), prop::collection::vec(0usize..5, 0..4)).prop_flat_map(
        |(dtype, shape)| {
            let len = dtype.bytes(shape.iter().product()).unwrap();
            (Just(dtype), Just(shape), prop::collection::vec(any::<u8>(), len))
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map("[^\\x00-\\x1f\\x7f-\\x9f]{1,20}", any_tensor(), 0..8),
        metadata in prop::collection::btree_map(".*", ".*", 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let views: Vec<TensorView<'_>> =
            tensors.iter().map(|(name, (dtype, shape, bytes))| view(name, *dtype, shape, bytes)).collect();
        let texts: Vec<(&str, &str)> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        write(&path, &views, &texts).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        prop_assert_eq!(file.metadata().len(), metadata.len());
        prop_assert_eq!(file.tensors().count(), views.len());
        for view in &views {
            let found = file.tensor(&view.name);
            prop_assert_eq!(found.as_ref(), Some(view));
        }
    }

    #[test]
    fn a_mutated_or_truncated_file_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(),
    ) {
        let header = concat!(
            r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#,
            r#""b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}}"#
        );
        let mut bytes = file(header, &[1; 12]);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        let len = bytes.len() - len.index(bytes.len()).min(len.index(40));
        if let Ok(file) = SafetensorsFile::from_bytes(Bytes::copy_of(&bytes[..len]), Path::new("a")) {
            for tensor in file.tensors() {
                let _ = tensor.to_f32();
            }
        }
    }
}
