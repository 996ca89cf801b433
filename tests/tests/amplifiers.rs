//! Files that are small on the disk and made to be large in memory: whatever a file says, reading it takes at most four times
//! its size and 100 MB.

use std::{fs, path::Path};

use sdq::inspect::{self, InspectOptions};
use sdq_engine::tokenizer::{Tokenizer, TokenizerFiles};
use sdq_schedulers::SchedulerConfig;
use sdq_tests::allocator::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const MEMORY: usize = 100 << 20;

/// Holds what `read` takes of an input of `len` bytes against the bound; the answer.
fn bounded<T>(name: &str, len: usize, read: impl FnOnce() -> T) -> T {
    let (answer, taken) = ALLOCATOR.peak_of(read);
    println!("{name:<40}{:>8.1} MB take {:>8.1} MB", len as f64 / 1e6, taken as f64 / 1e6);
    assert!(taken <= 4 * len + MEMORY, "{name}: {taken} bytes for {len}");
    answer
}

/// Reads `bytes` as a file with this name; the error's words.
fn inspected(name: &str, folder: &Path, file: &str, bytes: &[u8]) -> String {
    let path = folder.join(file);
    fs::write(&path, bytes).unwrap();
    let read =
        || inspect::file(&path, InspectOptions::default()).map(|_| ()).map_err(|error| error.to_string());
    bounded(name, bytes.len(), read).err().unwrap_or_default()
}

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

fn gguf(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes(), rest].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// One test: beside a second one it would count what is not its own.
#[test]
fn small_files_stay_small() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    safetensors_headers(folder);
    ggufs(folder);
    pickles(folder);
    settings_and_vocabularies();
}

fn safetensors_headers(folder: &Path) {
    let many = |count: usize, entry: fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(",");
    let tensors =
        many(600_000, |index| format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    let found = inspected("many tensors", folder, "a.safetensors", &safetensors(&format!("{{{tensors}}}")));
    assert!(found.contains("more than 262144 tensors"), "{found}");
    let tensors =
        many(200_000, |index| format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    inspected(
        "as many tensors as are read",
        folder,
        "a.safetensors",
        &safetensors(&format!("{{{tensors}}}")),
    );
    let notes = many(1_000_000, |index| format!(r#""{index}":"""#));
    let notes = safetensors(&format!(r#"{{"__metadata__":{{{notes}}}}}"#));
    let found = inspected("many notes", folder, "a.safetensors", &notes);
    assert!(found.contains("more than 65536 entries"), "{found}");
    let shape = vec!["0"; 5_000_000].join(",");
    let shape = safetensors(&format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}}}"#));
    let found = inspected("many dimensions", folder, "a.safetensors", &shape);
    assert!(found.contains("more than 32 dimensions"), "{found}");
    let nested = safetensors(&"[".repeat(10_000_000));
    inspected("nested brackets", folder, "a.safetensors", &nested);
}

fn ggufs(folder: &Path) {
    let bools = [&9u32.to_le_bytes()[..], &7u32.to_le_bytes(), &64u64.to_le_bytes(), &[1; 64]].concat();
    let keys = |count: u64| -> Vec<u8> {
        (0..count).flat_map(|index| [text(&format!("k{index}")), bools.clone()].concat()).collect()
    };
    let found = inspected("many keys", folder, "a.gguf", &gguf(0, 600_000, &keys(600_000)));
    assert!(found.contains("600000 keys, expected at most 65536"), "{found}");
    inspected("as many keys as are read", folder, "a.gguf", &gguf(0, 65_536, &keys(65_536)));
    // An array of arrays of arrays, a byte for each member.
    let mut nested = Vec::new();
    for _ in 0..64 * 64 {
        nested.extend([&7u32.to_le_bytes()[..], &2000u64.to_le_bytes(), &[1; 2000]].concat());
    }
    let nested =
        [&text("k"), &9u32.to_le_bytes()[..], &9u32.to_le_bytes(), &4096u64.to_le_bytes(), &nested].concat();
    inspected("arrays in arrays", folder, "a.gguf", &gguf(0, 1, &nested));
    let tensor = |index: u64| [&text(&format!("{index}"))[..], &[0; 4], &[0; 4], &[0; 8]].concat();
    let tensors: Vec<u8> = (0..400_000).flat_map(tensor).collect();
    let found = inspected("many tensors", folder, "a.gguf", &gguf(400_000, 0, &tensors));
    assert!(found.contains("expected at most 262144"), "{found}");
}

/// Pickles that ask for much with few bytes, each in the format from before 1.6 and cut off: the machine has run by then.
fn pickles(folder: &Path) {
    let long = "x".repeat(2 << 20);
    let long_text = [b"X", &(long.len() as u32).to_le_bytes()[..], long.as_bytes()].concat();
    let written = |piece: &[u8]| [piece, b"q\0"].concat();
    for (name, pickle, expected) in [
        ("values", b"]".repeat(8 << 20), "more than 524288 values"),
        ("marks", b"(".repeat(8 << 20), "more than 65536 open marks"),
        ("references", [written(b"]"), b"h\0".repeat(4 << 20)].concat(), ""),
        (
            "one long name of many globals",
            [written(&long_text), b"h\0h\0\x93".repeat(500_000)].concat(),
            "the name of a global is not text",
        ),
        (
            "one global of many objects",
            [written(b"ctorch\nSize\n"), b")R0h\0".repeat(1_000_000)].concat(),
            "more than 524288 values",
        ),
        (
            "one long key of many notes",
            [written(&long_text), b"}q\x01(".to_vec(), b"h\0K\x01".repeat(500_000), b"u.".to_vec()].concat(),
            "",
        ),
        (
            "one list of many dictionaries",
            [
                b"(".to_vec(),
                b"K\x01".repeat(100_000),
                b"l\x85q\0ccollections\nOrderedDict\nq\x01".to_vec(),
                b"h\x01h\0R0".repeat(300_000),
            ]
            .concat(),
            "entries of dictionaries",
        ),
    ] {
        let found =
            inspected(&format!("pickle: {name}"), folder, "a.pt", &[b"\x80\x02", &pickle[..]].concat());
        assert!(found.contains(expected), "{name}: {found}");
    }
}

fn settings_and_vocabularies() {
    let lists = format!("{{\"a\":[{}]}}", vec!["[]"; 10_000_000].join(","));
    let scheduler =
        bounded("a scheduler's config", lists.len(), || SchedulerConfig::from_json(&lists).is_ok());
    assert!(!scheduler);
    let merges = "#version\n".to_owned() + &"a b\n".repeat(8_000_000);
    let vocab = r#"{"a":0,"b":1,"<|startoftext|>":2,"<|endoftext|>":3}"#;
    for (name, files, len) in [
        (
            "merges",
            TokenizerFiles { vocab: Some(vocab), merges: Some(&merges), ..TokenizerFiles::default() },
            merges.len(),
        ),
        (
            "a tokenizer's config",
            TokenizerFiles {
                vocab: Some(vocab),
                merges: Some("#version\n"),
                config: Some(&lists),
                ..TokenizerFiles::default()
            },
            lists.len(),
        ),
        (
            "a tokenizer of brackets",
            TokenizerFiles { tokenizer: Some(&lists), ..TokenizerFiles::default() },
            lists.len(),
        ),
    ] {
        assert!(bounded(name, len, || Tokenizer::new(&files, 77, 100).is_err()), "{name}");
    }
}
