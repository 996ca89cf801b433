//! Hand-made pickles: forbidden operations, and attempts to exhaust the reader. Files that torch wrote are
//! tested elsewhere.

mod containers;
mod machine_values;
mod naming;
mod pickler;

use super::{limits::MAX_VALUES, *};

/// An archive in torch's layout, its entries stored without compression.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let crc = crc32fast::hash(bytes);
        let len = bytes.len() as u32;
        let fields = [&crc.to_le_bytes()[..], &len.to_le_bytes(), &len.to_le_bytes()].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        file.extend([b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", &fields[..]].concat());
        file.extend([&name_len[..], b"\0\0", name.as_bytes(), bytes].concat());
        directory
            .extend([b"PK\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", &fields[..]].concat());
        directory.extend([&name_len[..], &[0; 12], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, len, start) = (entries.len() as u16, directory.len() as u32, file.len() as u32);
    file.extend(directory);
    file.extend([&b"PK\x05\x06\0\0\0\0"[..], &count.to_le_bytes(), &count.to_le_bytes()].concat());
    file.extend([&len.to_le_bytes()[..], &start.to_le_bytes(), b"\0\0"].concat());
    file
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(&[("m/data.pkl", pickle), ("m/data/0", &[0; 16])])
}

fn open(file: &[u8]) -> Result<PickleFile, PickleProblem> {
    PickleFile::from_bytes(Bytes::copy_of(file), Path::new("m.pt")).map_err(|error| *error.problem)
}

fn refused(file: &[u8]) -> String {
    open(file).expect_err("the file must be refused").to_string()
}

/// `{"w": tensor}` for a storage with four f32; `shape` and `strides` are pickled tuples.
fn tensor(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let words = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(";
    [&b"\x80\x02}X\x01\0\0\0w"[..], rebuild, words, &[b'K', offset], shape, strides, b"\x89NtRs."].concat()
}

#[test]
fn reads_a_tensor() {
    let file = with_pickle(&tensor(1, b"K\x03\x85", b"K\x01\x85"));
    let file = open(&file).unwrap();
    let tensors: Vec<_> = file.tensors().collect();
    assert_eq!(
        (tensors[0].name.as_str(), &tensors[0].shape[..], tensors[0].bytes.len()),
        ("w", &[3][..], 12)
    );
}

#[test]
fn names_what_a_file_would_run() {
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0lsR."[..], "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "os.system"),
        (b"cposix\nsystem\n(S'ls'\ntR.", "posix.system"),
        (b"(S'ls'\nios\nsystem\n.", "os.system"),
        (b"(cbuiltins\neval\nS'1'\no.", "builtins.eval"),
        (b"\x80\x02cbuiltins\nexec\nX\x01\0\0\x001\x85\x81.", "builtins.exec"),
        (b"\x80\x02cnumpy.testing._private.utils\nrunstring\n)R.", "numpy.testing._private.utils.runstring"),
        (b"\x80\x02ctorch.hub\nload\n)R.", "torch.hub.load"),
    ] {
        for file in [with_pickle(pickle), pickle.to_vec()] {
            let message = refused(&file);
            assert!(message.contains(&format!("the pickle would run `{name}`")), "{message}");
        }
    }
}

#[test]
fn refuses_opcodes_without_use_by_number() {
    for code in [0x82, 0x83, 0x84, 0x97, 0x98, b'~'] {
        let message = refused(&with_pickle(&[0x80, 2, code, b'.']));
        assert!(message.contains(&format!("opcode {code:#04x} at byte 2")), "{message}");
    }
}

#[test]
fn refuses_pickles_that_do_not_go_on() {
    for (pickle, reason) in [
        (&b"."[..], "the stack has too few values"),
        (b"h\x07.", "read before it is stored"),
        (b"t.", "no mark"),
        (b"K\x01\x86.", "a tuple has too few values"),
        (b"(K\x01K\x02K\x03d.", "a key has no value"),
        (b"K\x01K\x02a.", "not a list"),
        (b"K\x01K\x02K\x03s.", "not a dictionary"),
        (b"K\x01)R.", "not a global"),
        (b"N0.", "the stack has too few values"),
        (b"Ix\n.", "expected a number"),
        (b"N", "truncated"),
        (b"X\xff\xff\xff\xff", "truncated"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (b"\x8b\xff\xff\xff\x7f", "truncated"),
        (b"N.", "contains no tensors"),
    ] {
        let message = refused(&with_pickle(pickle));
        assert!(message.contains(reason), "{pickle:?}: {message}");
    }
}

#[test]
fn refuses_tensors_that_are_not_in_their_storage() {
    for (offset, shape, strides, reason) in [
        (0, &b"K\x05\x85"[..], &b"K\x01\x85"[..], "past the end of the storage"),
        (4, b"K\x01\x85", b"K\x01\x85", "past the end of the storage"),
        (0, b"K\x02K\x02\x86", b"K\x03K\x01\x86", "past the end of the storage"),
        (0, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"K\0K\0\x86", "repeat parts of a storage"),
        (0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85", "no valid shape"),
        (0, b"K\x02\x85", b")", "one stride for each dimension"),
    ] {
        let message = refused(&with_pickle(&tensor(offset, shape, strides)));
        assert!(message.contains("`w`") && message.contains(reason), "{message}");
    }
    let absent = archive(&[("m/data.pkl", &tensor(0, b"K\x01\x85", b"K\x01\x85"))]);
    assert!(refused(&absent).contains("the storage `0` is not in the file"));
}

#[test]
fn neither_depth_nor_cycles_nor_sharing_take_long() {
    // Half a million nested lists, and one more; a dictionary that contains itself; sixty lists, each contained
    // twice in the next.
    let deep = |lists: usize| [vec![b']'; lists], vec![b'a'; lists - 1], vec![b'.']].concat();
    assert!(refused(&with_pickle(&deep(MAX_VALUES))).contains("contains no tensors"));
    assert!(refused(&with_pickle(&deep(MAX_VALUES + 2))).contains("values"));
    assert!(refused(&with_pickle(b"}q\x00X\x01\0\0\0ah\x00s.")).contains("contains no tensors"));
    let mut shared = b"}q\x00".to_vec();
    for level in 0..60 {
        shared.extend(
            [&b"}(X\x01\0\0\0ah"[..], &[level], b"X\x01\0\0\0bh", &[level], b"uq", &[level + 1]].concat(),
        );
    }
    shared.push(b'.');
    assert!(refused(&with_pickle(&shared)).contains("contains no tensors"));
}

#[test]
fn one_list_does_not_fill_many_dictionaries() {
    // A list of a thousand pairs, of which ten thousand dictionaries are made.
    let mut pickle = b"(".to_vec();
    pickle.extend(b"K\x01K\x02\x86".repeat(1000));
    pickle.extend(b"l\x85q\x00ccollections\nOrderedDict\nq\x01");
    pickle.extend(b"h\x01h\x00R".repeat(10_000));
    pickle.push(b'.');
    assert!(refused(&with_pickle(&pickle)).contains("entries of dictionaries"));
}

#[test]
fn refuses_archives_that_are_not_as_torch_writes_them() {
    let good = with_pickle(&tensor(0, b"K\x03\x85", b"K\x01\x85"));
    assert!(open(&good).is_ok());
    let edited = |from: &[u8], to: &[u8], skip: usize| {
        let mut file = good.clone();
        let at = file.windows(from.len()).enumerate().filter(|(_, window)| window == &from).nth(skip);
        let at = at.expect("the pattern is there").0;
        file[at..at + to.len()].copy_from_slice(to);
        refused(&file)
    };
    // Compression method 8 in the directory.
    assert!(edited(b"PK\x01\x02\0\0\0\0\0\0\0\0", b"PK\x01\x02\0\0\0\0\0\0\x08\0", 0).contains("compressed"));
    assert!(edited(b"PK\x01\x02\0\0\0\0\0\0\0\0", b"PK\x01\x02\0\0\0\0\x01\0\0\0", 0).contains("encrypted"));
    assert!(edited(b"PK\x01\x02", b"PK\x01\x09", 1).contains("directory is damaged"));
    assert!(edited(b"PK\x05\x06", b"PK\x05\x07", 0).contains("the end of the archive is missing"));
    assert!(edited(b"torch._utils", b"torch._utilz", 0).contains("the checksum is"));
    let twice = archive(&[("m/data.pkl", b"N."), ("m/data.pkl", b"N.")]);
    assert!(refused(&twice).contains("appears twice"));
    assert!(refused(&archive(&[("word/document.xml", b"")])).contains("which torch.save always writes"));
    let big = archive(&[("m/data.pkl", b"N."), ("m/byteorder", b"big")]);
    assert!(refused(&big).contains("big-endian numbers"));
    let mut overlapping = good.clone();
    // The second entry's offset becomes the first's.
    let at = overlapping.windows(8).rposition(|window| window == b"m/data/0").unwrap();
    overlapping[at - 4..at].fill(0);
    assert!(refused(&overlapping).contains("is not where") || refused(&overlapping).contains("overlap"));
    let mut many = good;
    let end = many.len() - 22;
    many[end + 8..end + 12].fill(0xFF);
    assert!(refused(&many).contains("too few for 65535 entries"));
}

#[test]
fn a_pickle_has_a_longest_length() {
    let long = [[0x80, 2].repeat(limits::MAX_LEN / 2 + 1), b"N.".to_vec()].concat();
    assert!(refused(&with_pickle(&long)).contains("more than 8388608 bytes"));
}
