//! Every type of value, every number format, and the first invalid number past each bound.

use super::*;

fn array(kind: u32, len: u64, members: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), members].concat()
}

/// The value of a file whose only key has the given type and bytes.
fn value(kind: u32, bytes: &[u8]) -> MetadataValue {
    let file = open(&File::new().key("k", kind, bytes).bytes()).unwrap_or_else(|problem| panic!("{problem}"));
    file.metadata()["k"].clone()
}

#[test]
fn every_type_of_value_is_read() {
    use MetadataValue::{Bool, Float, Integer, Text};
    for (kind, bytes, expected, shown) in [
        (0, &[0xFF_u8][..], Integer(255), "255"),
        (1, &[0xFF], Integer(-1), "-1"),
        (2, &[0xFE, 0xFF], Integer(65_534), "65534"),
        (3, &[0xFE, 0xFF], Integer(-2), "-2"),
        (4, &[0xFF; 4], Integer(4_294_967_295), "4294967295"),
        (5, &[0xFD, 0xFF, 0xFF, 0xFF], Integer(-3), "-3"),
        (6, &1.5_f32.to_le_bytes(), Float(1.5), "1.5"),
        (7, &[0], Bool(false), "false"),
        (7, &[1], Bool(true), "true"),
        (8, &text("a café"), Text("a café".to_owned()), "a café"),
        (10, &[0xFF; 8], Integer(18_446_744_073_709_551_615), "18446744073709551615"),
        (11, &[0xFF; 8], Integer(-1), "-1"),
        (12, &0.1_f64.to_le_bytes(), Float(0.1), "0.1"),
    ] {
        let found = value(kind, bytes);
        assert_eq!((found.to_text().as_str(), found), (shown, expected), "type {kind}");
    }
}

#[test]
fn a_size_is_a_whole_number_that_is_not_negative() {
    assert_eq!(value(4, &7u32.to_le_bytes()).size(), Some(7));
    assert_eq!(value(10, &u64::MAX.to_le_bytes()).size(), Some(u64::MAX));
    assert_eq!(value(5, &(-1i32).to_le_bytes()).size(), None);
    assert_eq!(value(6, &1f32.to_le_bytes()).size(), None);
    assert_eq!(value(8, &text("7")).size(), None);
}

#[test]
fn arrays_are_kept_up_to_eight_members() {
    for (len, shown) in [(0, "[]"), (2, "[1, 1]")] {
        assert_eq!(value(9, &array(0, len, &vec![1; len as usize])).to_text(), shown);
    }
    let MetadataValue::Array(members) = value(9, &array(0, 8, &[9; 8])) else { panic!("8 are kept") };
    assert_eq!(members, vec![MetadataValue::Integer(9); 8]);
    let long = value(9, &array(0, 9, &[9; 9]));
    assert_eq!((long.to_text().as_str(), &long), ("an array of 9", &MetadataValue::Long(9)));
    // The value after an array is read from the array's end, whether the array is kept or not.
    for len in [8, 9] {
        let texts = array(8, len, &text("word").repeat(len as usize));
        let file = File::new().key("words", 9, &texts).key("after", 0, &[5]).bytes();
        assert_eq!(open(&file).unwrap().metadata()["after"], MetadataValue::Integer(5), "{len}");
    }
}

#[test]
fn arrays_lie_in_arrays_four_deep() {
    let nested = |depth: usize| (1..depth).fold(array(0, 1, &[3]), |inner, _| array(9, 1, &inner));
    assert_eq!(value(9, &nested(1)).to_text(), "[3]");
    // Read, so that what follows is found, and not kept.
    assert_eq!(value(9, &nested(4)), MetadataValue::Long(1));
    let message = refused(&File::new().key("k", 9, &nested(5)).bytes());
    assert_eq!(message, "metadata `k` is nested too deeply, expected at most 4 levels of arrays");
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let long = "é".repeat(5000);
    assert_eq!(value(8, &text(&long)), MetadataValue::Text("é".repeat(4096)));
    assert_eq!(value(8, &text(&"é".repeat(4096))), MetadataValue::Text("é".repeat(4096)));
}

#[test]
fn texts_that_are_not_utf8_are_refused_and_shown() {
    let broken = [&2u64.to_le_bytes()[..], b"a\xff"].concat();
    assert_eq!(
        refused(&File::new().key("k", 8, &broken).bytes()),
        "the name \"a\u{fffd}\" is not allowed: a name has 1 to 1024 bytes and no control characters"
    );
}

#[test]
fn versions_two_and_three_have_the_same_layout() {
    let mut file = File::new().bytes();
    file[4] = 2;
    assert_eq!(open(&file).unwrap().tensors().count(), 2);
}

/// Numbers of ggml's formats, with elements and bytes of a block, from its `ggml.h` and `ggml-common.h`.
const FORMATS: [(u32, &str, u64, usize); 20] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (20, "IQ4_NL", 32, 18),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (30, "BF16", 1, 2),
];

/// A file with one tensor, named `w`.
fn with(sizes: Vec<u64>, format: u32, data: usize) -> File {
    File { keys: Vec::new(), tensors: vec![("w".to_owned(), sizes, format, 0)], data }
}

#[test]
fn number_formats_have_ggmls_numbers_and_sizes() {
    for (number, name, elements, bytes) in FORMATS {
        // Two rows of three blocks.
        let file = open(&with(vec![3 * elements, 2], number, 6 * bytes).bytes());
        let file = file.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let tensor = file.tensors().next().unwrap();
        assert_eq!((tensor.dtype.name(), tensor.bytes.len()), (name, 6 * bytes));
        assert_eq!(tensor.shape, [2, 3 * elements as usize]);
        // One byte less than its blocks need.
        let message = refused(&with(vec![3 * elements, 2], number, 6 * bytes - 1).bytes());
        let (end, len) = (6 * bytes, 6 * bytes - 1);
        assert_eq!(
            message,
            format!(
                "the file is truncated: tensor `w` extends to byte {end} of the data, but there are only {len} bytes"
            )
        );
        // Every row must have whole blocks, not only the tensor.
        if elements > 1 {
            let message = refused(&with(vec![elements / 2, 2], number, 6 * bytes).bytes());
            let shape = [2, elements / 2];
            assert_eq!(
                message,
                format!(
                    "tensor `w` has an invalid shape, {shape:?}: the length of a row is not a multiple of the block length"
                )
            );
        }
    }
    for (number, name) in [(9, "Q8_1"), (15, "Q8_K"), (16, "IQ (number 16)"), (29, "IQ (number 29)")]
        .into_iter()
        .chain([(34, "TQ (number 34)"), (39, "MXFP4"), (5, "number 5"), (31, "number 31"), (99, "number 99")])
    {
        let message = refused(&with(vec![1], number, 64).bytes());
        let start = format!("tensor `w` has the unknown type {name}, expected one of Q4_0, Q4_1, ");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
fn up_to_eight_dimensions_are_read() {
    let file = open(&with(vec![2, 1, 1, 1, 1, 1, 1, 3], 24, 6).bytes()).unwrap();
    assert_eq!(file.tensors().next().unwrap().shape, [3, 1, 1, 1, 1, 1, 1, 2]);
    let scalar = open(&with(vec![], 0, 4).bytes()).unwrap();
    let tensor = scalar.tensors().next().unwrap();
    assert_eq!((tensor.shape.len(), tensor.bytes.len()), (0, 4));
    let message = refused(&with(vec![1; 9], 24, 6).bytes());
    assert_eq!(message, "tensor `w` has an invalid shape, 9 dimensions: at most 8 are allowed");
}

#[test]
fn tensors_begin_where_the_alignment_says() {
    for alignment in [1u32, 8, 32, 1024] {
        let mut file = with(vec![4], 24, 0).key("general.alignment", 4, &alignment.to_le_bytes()).bytes();
        // The helper pads to 32 bytes; this removes the padding.
        let header = 8 + 16 + (8 + 17 + 4 + 4) + (8 + 1 + 4 + 8 + 4 + 8);
        file.truncate(header);
        file.resize(header.next_multiple_of(alignment as usize), 0);
        file.extend([1, 2, 3, 4]);
        let found = open(&file).unwrap();
        assert_eq!(found.tensors().next().unwrap().bytes, [1, 2, 3, 4], "{alignment}");
    }
    for (kind, value, shown) in [
        (4, 48u32.to_le_bytes().to_vec(), "48"),
        (4, (1u32 << 21).to_le_bytes().to_vec(), "2097152"),
        (5, (-32i32).to_le_bytes().to_vec(), "-32"),
        (8, text("32"), "32"),
    ] {
        let message = refused(&with(vec![4], 24, 64).key("general.alignment", kind, &value).bytes());
        assert_eq!(message, format!("metadata `general.alignment` is {shown}, expected a power of two"));
    }
}

#[test]
fn a_noted_shape_replaces_that_of_a_flattened_convolution() {
    let noted = |kind: u32, sizes: &[u32]| {
        let members: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let value = array(kind, sizes.len() as u64, &members);
        with(vec![4, 6], 24, 24).key("comfy.gguf.orig_shape.w", 9, &value).bytes()
    };
    let file = open(&noted(5, &[2, 3, 2, 2])).unwrap();
    assert_eq!(file.tensors().next().unwrap().shape, [2, 3, 2, 2]);
    for (sizes, shown) in
        [(&[2, 3, 2][..], "[2, 3, 2]"), (&[], "[]"), (&[u32::MAX, 24], "[-1, 24]"), (&[0, 24], "[0, 24]")]
    {
        let message = refused(&noted(5, sizes));
        assert_eq!(
            message,
            format!("tensor `w` has an invalid shape, [6, 4]: the original shape in the metadata is {shown}")
        );
    }
    // A product that overflows is not 24, even if its low bits are.
    let wide = array(10, 3, &[1u64 << 63, 2, 24].map(u64::to_le_bytes).concat());
    let message = refused(&with(vec![4, 6], 24, 24).key("comfy.gguf.orig_shape.w", 9, &wide).bytes());
    assert!(message.ends_with("in the metadata is [9223372036854775808, 2, 24]"), "{message}");
    let other = with(vec![4, 6], 24, 24).key("comfy.gguf.orig_shape.v", 9, &wide);
    assert_eq!(open(&other.bytes()).unwrap().tensors().next().unwrap().shape, [6, 4]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = File::new()
        .key("general.name", 8, &text("m"))
        .key("numbers", 9, &array(4, 2, &[0; 8]))
        .key("rate", 12, &[0; 8])
        .bytes();
    // The second tensor ends 16 bytes before the file.
    for len in 0..file.len() - 16 {
        assert!(open(&file[..len]).is_err(), "{len}");
    }
    assert!(open(&file[..file.len() - 16]).is_ok());
}

#[test]
fn counts_are_compared_with_what_is_left_of_the_file() {
    let counted = |tensors: u64, keys: u64, left: usize| {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([tensors, keys].map(u64::to_le_bytes).concat());
        file.resize(file.len() + left, 0);
        refused(&file)
    };
    // A key takes at least 13 bytes, a tensor 24.
    assert_eq!(counted(0, 3, 38), "the file is truncated: it claims 3 keys, more than fit into its length");
    assert_ne!(counted(0, 3, 39), "the file is truncated: it claims 3 keys, more than fit into its length");
    assert_eq!(
        counted(2, 0, 47),
        "the file is truncated: it claims 2 tensors, more than fit into its length"
    );
    assert_ne!(
        counted(2, 0, 48),
        "the file is truncated: it claims 2 tensors, more than fit into its length"
    );
}

#[test]
fn one_part_of_one_is_a_whole_model() {
    let split = |parts: u16| File::new().key("split.count", 2, &parts.to_le_bytes()).bytes();
    assert!(open(&split(0)).is_ok() && open(&split(1)).is_ok());
    assert_eq!(
        refused(&split(2)),
        "the file is one of 2 parts of a model; join the parts with llama.cpp's gguf-split"
    );
}

#[test]
fn tensors_may_touch_but_not_share_a_byte() {
    let placed = |first: u64, second: u64| {
        let mut file = File::new();
        (file.tensors[0].3, file.tensors[1].3) = (first, second);
        open(&file.bytes()).map(|_| ()).map_err(|problem| problem.to_string())
    };
    assert_eq!(placed(0, 16), Ok(()));
    assert_eq!(placed(48, 0), Ok(()));
    let overlap = |tensor, range, other| {
        Err(format!("tensor `{tensor}` at bytes {range} of the data overlaps `{other}`"))
    };
    assert_eq!(placed(0, 15), overlap("b", "15..31", "a"));
    assert_eq!(placed(15, 0), overlap("a", "15..31", "b"));
    assert_eq!(placed(8, 8), overlap("b", "8..24", "a"));
}
