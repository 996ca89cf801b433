//! The containers of pickles: zip archives of every form, the layout from before 1.6, and the bytes of
//! tensors in either.

use proptest::prelude::*;

use super::pickler::{dict, int, list, number, pickle, storage, text, view};
use super::{archive, open, refused};

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// An archive with the tensor `w` of a storage of `count` floats with the values 0, 1, 2, ….
fn with_view(count: usize, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tensor = view(storage("FloatStorage", "0", count as i32), offset, shape, strides);
    archive(&[("m/data.pkl", &pickle(&dict(&[("w", tensor)]))), ("m/data/0", &floats(count))])
}

fn numbers(file: &[u8]) -> Vec<f32> {
    let file = open(file).unwrap_or_else(|problem| panic!("{problem}"));
    file.tensors().next().unwrap().to_f32().unwrap()
}

#[test]
fn transposed_and_cut_tensors_are_put_in_order() {
    assert_eq!(numbers(&with_view(6, 0, &[3, 2], &[1, 3])), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(numbers(&with_view(6, 1, &[2, 2], &[3, 1])), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(numbers(&with_view(6, 2, &[3], &[0])), [2.0; 3]);
    // The stride of a dimension of size one does not matter, nor do those of an empty tensor.
    assert_eq!(numbers(&with_view(6, 4, &[1, 2], &[77, 1])), [4.0, 5.0]);
    assert!(numbers(&with_view(6, 6, &[0, 2], &[9, 9])).is_empty());
}

proptest! {
    #[test]
    fn elements_lie_where_offset_and_strides_say(
        sides in prop::collection::vec((1usize..4, 0usize..5), 0..4), offset in 0usize..5,
    ) {
        let mut places = vec![offset];
        for &(side, stride) in &sides {
            places = places.iter().flat_map(|&at| (0..side).map(move |i| at + i * stride)).collect();
        }
        // As long as the tensor reaches, but at least as long as its number of elements.
        let count = (places.iter().max().unwrap() + 1).max(places.len());
        let [shape, strides] = [0, 1].map(|which| {
            sides.iter().map(|&(side, stride)| [side, stride][which] as i32).collect::<Vec<_>>()
        });
        let expected: Vec<f32> = places.iter().map(|&at| at as f32).collect();
        prop_assert_eq!(numbers(&with_view(count, offset as i32, &shape, &strides)), expected);
    }
}

#[test]
fn transposed_views_take_no_more_memory_than_the_file() {
    // Each takes as many bytes as the storage; the file is a little longer than one storage.
    let transposed = || view(storage("FloatStorage", "0", 4096), 0, &[64, 64], &[1, 64]);
    let file = |names: &[&str]| {
        let tensors: Vec<_> = names.iter().map(|&name| (name, transposed())).collect();
        archive(&[("m/data.pkl", &pickle(&dict(&tensors))), ("m/data/0", &floats(4096))])
    };
    assert!(open(&file(&["a"])).is_ok());
    assert_eq!(refused(&file(&["a", "b"])), "tensor `b`: too many tensors are views that are not contiguous");
}

/// An archive as `torch.save` writes it.
fn good() -> Vec<u8> {
    let root = dict(&[("w", number(2))]);
    archive(&[("m/data.pkl", &pickle(&root)), ("m/byteorder", b"little"), ("m/data/0", &floats(4))])
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let file = good();
    assert_eq!(numbers(&file), [2.0]);
    for len in 0..file.len() {
        assert!(open(&file[..len]).is_err(), "{len}");
    }
}

#[test]
fn the_end_record_is_found_behind_any_comment_that_a_zip_file_can_have() {
    let with_comment = |len: usize| [good(), vec![b' '; len]].concat();
    for len in [1, 100, 0xFFFF] {
        assert_eq!(numbers(&with_comment(len)), [2.0], "{len}");
    }
    let message = refused(&with_comment(0x1_0000));
    assert_eq!(
        message,
        "the file is not a valid PyTorch archive: the end of the archive is missing; download the file again"
    );
}

#[test]
fn an_archive_may_have_its_pickle_in_no_folder() {
    let root = pickle(&dict(&[("w", number(3))]));
    assert_eq!(numbers(&archive(&[("data.pkl", &root), ("data/0", &floats(4))])), [3.0]);
    let message = refused(&archive(&[("xdata.pkl", &root), ("data/0", &floats(4))]));
    assert_eq!(message, "the file has no data.pkl, which torch.save always writes");
}

/// The archive of [`good`] with all lengths and offsets in zip64 fields, and other extra fields before them.
fn in_zip64() -> Vec<u8> {
    let root = pickle(&dict(&[("w", number(1))]));
    let entries: [(&str, Vec<u8>); 2] = [("m/data.pkl", root), ("m/data/0", floats(4))];
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in &entries {
        let offset = file.len() as u64;
        let (crc, len) = (crc32fast::hash(bytes).to_le_bytes(), bytes.len() as u64);
        let name_len = (name.len() as u16).to_le_bytes();
        file.extend([&b"PK\x03\x04"[..], &[0; 10], &crc, &[0xFF; 8], &name_len, b"\0\0"].concat());
        file.extend([name.as_bytes(), bytes].concat());
        let other = [&7u16.to_le_bytes()[..], &3u16.to_le_bytes(), b"abc"].concat();
        let wide = [len, len, offset].map(u64::to_le_bytes).concat();
        let extra = [&other[..], &1u16.to_le_bytes(), &24u16.to_le_bytes(), &wide].concat();
        directory.extend([&b"PK\x01\x02"[..], &[0; 12], &crc, &[0xFF; 8], &name_len].concat());
        directory.extend([&(extra.len() as u16).to_le_bytes()[..], &[0; 10], &[0xFF; 4]].concat());
        directory.extend([name.as_bytes(), &extra].concat());
    }
    let (start, len) = (file.len() as u64, directory.len() as u64);
    file.extend(directory);
    let end_64 = file.len() as u64;
    file.extend([&b"PK\x06\x06"[..], &[0; 20]].concat());
    file.extend([2, 2, len, start].map(u64::to_le_bytes).concat());
    file.extend([&b"PK\x06\x07\0\0\0\0"[..], &end_64.to_le_bytes(), &1u32.to_le_bytes()].concat());
    file.extend([&b"PK\x05\x06\0\0\0\0"[..], &[0xFF; 12], b"\0\0"].concat());
    file
}

#[test]
fn archives_of_more_than_four_gigabytes_are_read_by_their_wide_numbers() {
    let file = in_zip64();
    assert_eq!(numbers(&file), [1.0]);
    // Without its zip64 field an entry has no lengths.
    let mut without = file.clone();
    let at = without.windows(4).rposition(|window| window == [1, 0, 24, 0]).unwrap();
    without[at] = 2;
    assert_eq!(refused(&without), "the file is not a valid PyTorch archive: an entry has no zip64 lengths");
    // The end record's offset points at something else.
    let mut moved = file.clone();
    let at = moved.windows(4).rposition(|window| window == b"PK\x06\x07").unwrap();
    moved[at + 8] ^= 1;
    assert_eq!(
        refused(&moved),
        "the file is not a valid PyTorch archive: the zip64 end record is not where its locator says"
    );
    moved[at + 8..at + 16].fill(0xFF);
    assert!(
        refused(&moved)
            .starts_with("the file is truncated: the zip64 end record extends to byte 18446744073709551615")
    );
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    // Position of the entry's fields in the directory, counted from its signature.
    let edited = |at: usize, bytes: &[u8]| {
        let mut file = good();
        let entry = file.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
        file[entry + at..][..bytes.len()].copy_from_slice(bytes);
        refused(&file)
    };
    assert_eq!(
        edited(24, &[1]),
        "the file is not a valid PyTorch archive: entry `m/data.pkl` is stored in 150 bytes, expected its full length of 1"
    );
    assert_eq!(
        edited(42, &[2]),
        "the file is not a valid PyTorch archive: entry `m/data.pkl` is not where the directory says"
    );
    assert_eq!(
        edited(46, b"\n"),
        "the file is not a valid PyTorch archive: the name of an entry is not allowed: a name has 1 to 1024 bytes and no control characters"
    );
    assert_eq!(
        edited(46, b"\xff"),
        "the file is not a valid PyTorch archive: the name of an entry is not allowed: a name has 1 to 1024 bytes and no control characters"
    );
    let damaged = edited(16, &[0xFF; 4]);
    assert!(damaged.contains("entry `m/data.pkl` is damaged: the checksum is "), "{damaged}");
    assert!(damaged.ends_with(", expected ffffffff"), "{damaged}");
    assert!(
        edited(42, &[0xFF, 0xFF, 0xFF, 0x7F])
            .starts_with("the file is truncated: an entry extends to byte 21474836")
    );
    assert!(edited(28, &[0xFF, 0xFF]).starts_with("the file is truncated: an entry's name extends to byte"));
}

/// PyTorch's layout from before 1.6 with the given pickles, numbers of elements and storages.
fn legacy(root: &[u8], keys: &[u8], storages: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let protocol = pickle(b"M\xe9\x03");
    let system = pickle(&dict(&[("little_endian", b"\x88".to_vec())]));
    let mut file = [&magic[..], &protocol, &system, &pickle(root), &pickle(keys)].concat();
    for (count, bytes) in storages {
        file.extend(count.to_le_bytes());
        file.extend(bytes);
    }
    file
}

/// Two tensors of two storages: halves in the first, floats in the second.
fn two_storages() -> Vec<u8> {
    dict(&[
        ("b", view(storage("FloatStorage", "f", 4), 1, &[2], &[1])),
        ("a", view(storage("HalfStorage", "h", 3), 2, &[1], &[1])),
    ])
}

#[test]
fn storages_of_the_old_layout_follow_in_the_order_of_their_list() {
    let halves = vec![0, 0, 0, 0, 0, 0x3C];
    let keys = list(&[text("h"), text("f")]);
    let file = legacy(&two_storages(), &keys, &[(3, halves), (4, floats(4))]);
    let found = open(&file).unwrap();
    let tensors: Vec<_> =
        found.tensors().map(|tensor| (tensor.name.clone(), tensor.to_f32().unwrap())).collect();
    assert_eq!(tensors, [("b".to_owned(), vec![1.0, 2.0]), ("a".to_owned(), vec![1.0])]);
    for len in 0..file.len() {
        assert!(open(&file[..len]).is_err(), "{len}");
    }
}

#[test]
fn an_old_file_that_contradicts_itself_is_refused() {
    let (h, f) = (text("h"), text("f"));
    for (keys, storages, reason) in [
        (int(1), vec![], "the file has no list of storages, which torch.save always writes"),
        (list(&[int(1)]), vec![], "the file has no list of storages, which torch.save always writes"),
        (
            list(&[text("x")]),
            vec![(0, vec![])],
            "the file has no type for each storage, which torch.save always writes",
        ),
        (
            list(std::slice::from_ref(&h)),
            vec![(3, vec![0; 6])],
            "tensor `b`: the storage `f` is not in the file",
        ),
        (
            list(&[h.clone(), f]),
            vec![(3, vec![0; 6]), (1, vec![0; 4])],
            "tensor `b`: the last element is past the end of the storage, which has 4 bytes",
        ),
    ] {
        assert_eq!(refused(&legacy(&two_storages(), &keys, &storages)), reason);
    }
    for count in [4, u64::MAX / 2 - 1, u64::MAX] {
        let file = legacy(&two_storages(), &list(std::slice::from_ref(&h)), &[(count, vec![0; 6])]);
        assert!(refused(&file).starts_with("the file is truncated: a storage extends to byte "), "{count}");
    }
}

#[test]
fn other_old_files_are_told_apart() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused(&tar).starts_with("the file is a tar archive, the format of PyTorch before 0.1.10"));
    let plain = pickle(&dict(&[("a", int(1))]));
    assert_eq!(refused(&plain), "the file has no storages, which torch.save always writes");
}
