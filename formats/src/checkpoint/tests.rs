//! Checkpoints of one file and of several.

use std::fs;

use super::*;
use crate::dtype::DType;
use crate::safetensors;

fn byte<'a>(name: &str, bytes: &'a [u8; 1]) -> TensorView<'a> {
    TensorView { name: name.into(), dtype: DType::U8, shape: vec![1], bytes }
}

/// A folder with two shards, `a` in the first, `b` and `c` in the second, whose index has the given map.
fn sharded(weight_map: &str) -> Result<Checkpoint, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    safetensors::write(at("m-1.safetensors"), &[byte("a", &[1])], &[]).unwrap();
    let second = [byte("b", &[2]), byte("c", &[3])];
    safetensors::write(at("m-2.safetensors"), &second, &[]).unwrap();
    safetensors::write(at("again.safetensors"), &[byte("a", &[4])], &[]).unwrap();
    let index = format!(r#"{{"metadata":{{"total_size":3}},"weight_map":{weight_map}}}"#);
    fs::write(at("m.safetensors.index.json"), index).unwrap();
    Checkpoint::open(at("m.safetensors.index.json"))
}

#[test]
fn shards_are_one_checkpoint() {
    let map = r#"{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-2.safetensors"}"#;
    let checkpoint = sharded(map).unwrap();
    assert_eq!(checkpoint.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(checkpoint.tensors().last().unwrap().bytes, [3]);
    assert!(checkpoint.surplus().is_empty() && checkpoint.index().is_some());
}

#[test]
fn tensors_can_go_by_other_names() {
    let checkpoint =
        sharded(r#"{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-2.safetensors"}"#).unwrap();
    let renamed = checkpoint.prefixed("x.").renamed(|name| (name == "x.b").then(|| "other".to_owned()));
    let joined = Checkpoint::join(vec![renamed]).unwrap();
    assert_eq!(joined.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["x.a", "other", "x.c"]);
}

#[test]
fn a_tensor_outside_of_the_index_is_noted() {
    let checkpoint = sharded(r#"{"a":"m-1.safetensors","b":"m-2.safetensors"}"#).unwrap();
    assert_eq!(checkpoint.surplus(), ["c"]);
}

#[test]
fn rejects_an_index_that_does_not_fit_its_shards() {
    let message = |map: &str| sharded(map).unwrap_err().to_string();
    assert!(message(r#"{"a":"gone.safetensors"}"#).contains("gone.safetensors: No such file"));
    assert!(message(r#"{"a":"m-1.safetensors","d":"m-2.safetensors"}"#).ends_with(
        "m.safetensors.index.json: the index lists tensor `d` in `m-2.safetensors`, which does not contain it"
    ));
    assert!(message(r#"{"b":"m-1.safetensors","a":"m-2.safetensors"}"#).contains("lists tensor `a` in `m-2"));
    assert!(message(r#"{"a":"m-1.safetensors","b":"again.safetensors"}"#).contains("tensor `a` is also in"));
    assert!(message(r#"{"a":"m-1.safetensors","a":"m-2.safetensors"}"#).contains("`a` appears twice"));
    for shard in ["../m-1.safetensors", "/etc/passwd", "x/m-1.safetensors", ""] {
        assert!(message(&format!(r#"{{"a":"{shard}"}}"#)).contains("is not allowed"), "{shard}");
    }
    assert!(message("[]").contains("not valid"));
}

#[test]
fn rejects_an_index_that_is_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors.index.json");
    fs::write(&path, "version https://git-lfs.github.com/spec/v1").unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("git-lfs pointer"));
}
