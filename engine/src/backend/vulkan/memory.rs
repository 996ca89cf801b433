//! Data about devices that is kept between runs: compiled kernels, and the results of `sdq doctor`.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sdq_formats::atomic::AtomicFile;
use serde::{Deserialize, Serialize};

use super::caps::Tier;

/// Whether the kernels of a tier were correct on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The kernels.
    pub tier: Tier,
    /// Whether every result agreed with the CPU's.
    pub right: bool,
}

/// The stored form of a verdict.
#[derive(Serialize, Deserialize)]
struct StoredVerdict {
    tier: String,
    right: bool,
}

/// The folder for data about devices, if there is one.
#[derive(Clone, Debug)]
pub struct Memory(Option<PathBuf>);

impl Memory {
    /// The user's folder: `SDQ_CACHE_DIR`, or `sdq` in the system's folder for caches.
    pub fn of_user() -> Memory {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || Some(variable("HOME")?.join(".cache"));
        let system = variable("XDG_CACHE_HOME").or_else(|| variable("LOCALAPPDATA")).or_else(home);
        Memory(variable("SDQ_CACHE_DIR").or_else(|| Some(system?.join("sdq"))))
    }

    /// Uses `folder`.
    pub fn at(folder: &Path) -> Memory {
        Memory(Some(folder.to_path_buf()))
    }

    /// Stores nothing.
    pub fn none() -> Memory {
        Memory(None)
    }

    /// The file of the kernels that were compiled for a device.
    pub(super) fn pipelines(&self, key: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("vulkan-{key}.pipelines")))
    }

    fn verdict_file(&self, key: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("vulkan-{key}.json")))
    }

    /// The verdicts on the device with this key; empty if the file is missing or damaged.
    pub fn verdicts(&self, key: &str) -> Vec<Verdict> {
        let read = || {
            let text = fs::read(self.verdict_file(key)?).ok()?;
            let stored: Vec<StoredVerdict> = serde_json::from_slice(&text).ok()?;
            let verdict = |stored: StoredVerdict| {
                Some(Verdict { tier: Tier::from_name(&stored.tier)?, right: stored.right })
            };
            Some(stored.into_iter().filter_map(verdict).collect())
        };
        read().unwrap_or_default()
    }

    /// Stores the verdicts on the device with this key.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_verdicts(&self, key: &str, verdicts: &[Verdict]) -> io::Result<()> {
        let Some(file) = self.verdict_file(key) else { return Ok(()) };
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let store =
            |verdict: &Verdict| StoredVerdict { tier: verdict.tier.name().to_owned(), right: verdict.right };
        let stored: Vec<StoredVerdict> = verdicts.iter().map(store).collect();
        let mut writer = AtomicFile::create(&file)?;
        writer.write_all(&serde_json::to_vec(&stored)?)?;
        writer.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_remembered_by_device_and_damage_is_forgotten() {
        let folder = std::env::temp_dir().join(format!("sdq-memory-{}", std::process::id()));
        let memory = Memory::at(&folder);
        let found = [Verdict { tier: Tier::Plain, right: true }, Verdict { tier: Tier::Dot, right: false }];
        assert_eq!(memory.verdicts("a"), []);
        memory.set_verdicts("a", &found).unwrap();
        assert_eq!(memory.verdicts("a"), found);
        assert_eq!(memory.verdicts("b"), []);
        fs::write(memory.verdict_file("a").unwrap(), "[{\"tier\":").unwrap();
        assert_eq!(memory.verdicts("a"), []);
        Memory::none().set_verdicts("a", &found).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
