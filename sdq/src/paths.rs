//! Paths in JSON. A path that is not UTF-8, which Unix allows, is written as the list of its bytes, because
//! text would change it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path as text, or as bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a path is neither a text nor a list of bytes")]
enum Spelling {
    Text(String),
    Bytes(Vec<u8>),
}

impl Spelling {
    fn of(path: &Path) -> Spelling {
        match path.to_str() {
            Some(text) => Spelling::Text(text.to_owned()),
            None => Spelling::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        }
    }

    fn path(self) -> Option<PathBuf> {
        match self {
            Spelling::Text(text) => Some(text.into()),
            #[cfg(unix)]
            Spelling::Bytes(bytes) => {
                use std::os::unix::ffi::OsStringExt as _;
                Some(std::ffi::OsString::from_vec(bytes).into())
            }
            #[cfg(not(unix))]
            Spelling::Bytes(bytes) => String::from_utf8(bytes).ok().map(PathBuf::from),
        }
    }
}

/// Whether two paths lead to the same existing file, also through links.
pub(crate) fn same_file(first: &Path, second: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let id = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if let (Some(first), Some(second)) = (id(first), id(second)) {
            return first == second;
        }
    }
    let real = |path: &Path| path.canonicalize().ok();
    real(first).is_some_and(|first| real(second) == Some(first))
}

fn read<E: serde::de::Error>(spelling: Spelling) -> Result<PathBuf, E> {
    spelling.path().ok_or_else(|| E::custom("a path is not one of this system"))
}

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    Spelling::of(path).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Spelling::deserialize(deserializer).and_then(read)
}

/// An optional path.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Spelling::of).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Option::<Spelling>::deserialize(deserializer)?.map(read).transpose()
    }
}

/// Several paths.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| Spelling::of(path)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let spellings = Vec::<Spelling>::deserialize(deserializer)?;
        spellings.into_iter().map(read).collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use crate::{add_ons::AddOns, run::RunFiles};

    #[test]
    fn every_path_of_a_run_comes_back() {
        let odd = |name: &[u8]| std::path::PathBuf::from(OsStr::from_bytes(name));
        let add_ons = AddOns { vae: vec![odd(b"a\xff.pt"), "b.pt".into()], ..AddOns::default() };
        let files = RunFiles {
            model: Some(odd(b"/m\xe9.sdq")),
            output: odd(b"caf\xe9.png"),
            mask: Some("mask.png".into()),
            add_ons,
            ..RunFiles::default()
        };
        let json = serde_json::to_string(&files).unwrap();
        let read: RunFiles = serde_json::from_str(&json).unwrap();
        assert_eq!((read.model, read.output, read.mask), (files.model, files.output, files.mask));
        assert_eq!((read.save_latents, read.add_ons), (None, files.add_ons));
        assert!(json.contains(r#""mask":"mask.png""#), "{json}");
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Named(#[serde(with = "super")] std::path::PathBuf);

    #[test]
    fn one_file_is_known_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a"), "").unwrap();
        std::fs::write(at("other"), "").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        for name in ["a", "link", "hard", "./a", "sub/../a"] {
            assert!(super::same_file(&at("a"), &at(name)), "{name}");
        }
        for name in ["other", "nothing", "sub"] {
            assert!(!super::same_file(&at("a"), &at(name)), "{name}");
        }
        assert!(!super::same_file(&at("nothing"), &at("nothing")), "nothing is replaced there");
    }

    #[test]
    fn a_path_is_text_unless_it_cannot_be() {
        for (bytes, json) in [
            (&b"a b/\xe7\x8b\x90.png"[..], r#""a b/狐.png""#),
            (b"", r#""""#),
            (b"a\xff", "[97,255]"),
            (b"\x80", "[128]"),
            (b"a\"\\", r#""a\"\\""#),
        ] {
            let named = Named(OsStr::from_bytes(bytes).into());
            assert_eq!(serde_json::to_string(&named).unwrap(), json);
            assert_eq!(serde_json::from_str::<Named>(json).unwrap(), named);
        }
        for wrong in ["1", "null", "[256]", "[-1]", "[\"a\"]", "{}", "true"] {
            assert!(serde_json::from_str::<Named>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_may_be_open_and_a_list_empty() {
        let json = r#"{"model":null,"output":"a.png","add_ons":{"vae":[]}}"#;
        let read: RunFiles = serde_json::from_str(json).unwrap();
        assert_eq!((read.model, read.save_latents, read.add_ons), (None, None, AddOns::default()));
        for wrong in [r#"{}"#, r#"{"output":null}"#, r#"{"output":"a","add_ons":{"vae":"b"}}"#] {
            assert!(serde_json::from_str::<RunFiles>(wrong).is_err(), "{wrong}");
        }
    }
}
