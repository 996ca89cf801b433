//! Reads any names and shapes as a model in one file: the result is an error or components with readable
//! tensors, never a panic.
//!
//! Each line of the input is a tensor: its name, and a digit or letter for each dimension.
#![no_main]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use sdq_engine::published::{ModelFiles, PublishedModel};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut tensors = BTreeMap::new();
    for line in text.lines().take(400) {
        let (name, sizes) = line.split_once(' ').unwrap_or((line, ""));
        let name: String = name.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        // With a dimension of zero, another may have any length.
        let size = |n: u32| if n == 35 { usize::MAX / 2 } else { n as usize };
        let shape: Vec<usize> = sizes.chars().filter_map(|c| c.to_digit(36)).take(4).map(size).collect();
        let elements = shape.iter().try_fold(2, |product: usize, &size| product.checked_mul(size));
        if !name.is_empty() && elements.is_some_and(|elements| elements < 1 << 16) {
            tensors.insert(name, shape);
        }
    }
    let (mut header, mut end) = (String::from("{"), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let comma = if start + header.len() > 1 && header.len() > 1 { "," } else { "" };
        let _ = write!(header, r#"{comma}"{name}":{{"dtype":"F16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#);
    }
    header.push('}');
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; end]].concat();
    let path = PathBuf::from(format!("/dev/shm/sdq-fuzz-{}.safetensors", std::process::id()));
    fs::write(&path, file).expect("the memory disk is writable");
    // Building the standard vocabulary takes longer than everything else.
    let tokenizer = PathBuf::from("/dev/shm/sdq-fuzz-tokenizer");
    if !tokenizer.exists() {
        fs::create_dir_all(&tokenizer).expect("the memory disk is writable");
        fs::write(tokenizer.join("tokenizer.json"), "{}").expect("the memory disk is writable");
    }
    let files = ModelFiles { model: Some(path.clone()), tokenizer: Some(tokenizer), ..ModelFiles::default() };
    if let Ok(model) = PublishedModel::open(&files) {
        for component in model.components() {
            for tensor in component.tensors().into_iter().flatten().map(|(_, tensor)| tensor) {
                assert_eq!(tensor.to_f32().ok().map(|values| values.len()), tensor.elements());
            }
        }
    }
});
