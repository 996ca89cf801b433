//! What outlives the process: jobs, pictures and uploaded pictures, in one folder.
//!
//! Pictures lie in the folder itself, each with its recipe in it, and an unfinished run beside its output. `jobs` has
//! one JSON file per job, `uploads` the pictures that clients sent. Names are made here and never taken from a request.

mod entry;
mod pictures;
mod uploads;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sdq::run::{RunFiles, SideFile};

pub(crate) use entry::{ConvertWork, Entry, Origin, State, Work};
pub(crate) use pictures::PictureInfo;
pub(crate) use uploads::Temporary;

use crate::{ServeError, draw::Format};

const JOBS: &str = "jobs";
const UPLOADS: &str = "uploads";
/// Locked as long as a server uses the folder.
const LOCK: &str = ".sdq-serve";
/// Largest file of a job that is read, in bytes.
const MAX_ENTRY: u64 = 4 << 20;

/// The folder of a server.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Time of the latest id, in milliseconds since 1970.
    latest: Mutex<u64>,
    _lock: File,
}

impl Store {
    /// Opens the folder `root`, which is made if necessary, and reads its jobs, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be used, or another server uses it.
    pub(crate) fn open(root: &Path) -> Result<(Store, Vec<Entry>), ServeError> {
        let failed = |error: io::Error| ServeError::Folder { path: root.to_path_buf(), error };
        for folder in [root.to_path_buf(), root.join(JOBS), root.join(UPLOADS)] {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let root = fs::canonicalize(root).map_err(failed)?;
        let lock = File::create(root.join(LOCK)).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(ServeError::InUse { path: root });
        }
        let store = Store { root, latest: Mutex::new(0), _lock: lock };
        let entries = store.read_entries();
        let latest = entries.iter().map(|entry| milliseconds_of(&entry.id)).max();
        *store.latest.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = latest.unwrap_or(0);
        Ok((store, entries))
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// An id for a new job, larger than all earlier ones.
    pub(crate) fn new_id(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut latest = self.latest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *latest = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(latest.saturating_add(1));
        id_at(*latest)
    }

    fn entry_path(&self, id: &str) -> PathBuf {
        self.root.join(JOBS).join(format!("{id}.json"))
    }

    /// Writes a job's file by another name, which it then takes over. With `sync` it is on the disk afterwards.
    pub(crate) fn save(&self, entry: &Entry, sync: bool) -> io::Result<()> {
        let path = self.entry_path(&entry.id);
        let temporary = path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(temporary, path)
    }

    /// Removes a job's file and its unfinished run. Its pictures stay.
    pub(crate) fn forget(&self, entry: &Entry) {
        let _ = fs::remove_file(self.entry_path(&entry.id));
        self.remove_saved_run(entry);
    }

    /// Removes the unfinished runs of a job.
    pub(crate) fn remove_saved_run(&self, entry: &Entry) {
        let (Some(files), Work::Generate { request }) = (self.outputs(entry), &entry.work) else { return };
        SideFile::SavedRun.remove(&files.saved_run());
        // A second pass draws each picture in a run of its own.
        for output in files.pictures(request.count.unwrap_or(1)).unwrap_or_default() {
            SideFile::SavedRun.remove(&RunFiles { output, ..RunFiles::default() }.saved_run());
        }
    }

    /// The output of a job that draws, without its inputs.
    pub(crate) fn outputs(&self, entry: &Entry) -> Option<RunFiles> {
        let Work::Generate { request } = &entry.work else { return None };
        let ending = request.format.unwrap_or_default().ending();
        Some(RunFiles { output: self.root.join(format!("{}.{ending}", entry.id)), ..RunFiles::default() })
    }

    /// Whether an unfinished run of the job can be resumed.
    pub(crate) fn has_saved_run(&self, entry: &Entry) -> bool {
        self.outputs(entry).is_some_and(|files| SideFile::SavedRun.is_at(&files.saved_run()))
    }

    /// The ids of the job's pictures that exist.
    pub(crate) fn pictures_of(&self, entry: &Entry) -> Vec<String> {
        let (Some(files), Work::Generate { request }) = (self.outputs(entry), &entry.work) else {
            return Vec::new();
        };
        let paths = files.pictures(request.count.unwrap_or(1)).unwrap_or_default();
        let existing = paths.into_iter().filter(|path| path.is_file());
        existing.filter_map(|path| path.file_stem()?.to_str().map(str::to_owned)).collect()
    }

    fn read_entries(&self) -> Vec<Entry> {
        let files = fs::read_dir(self.root.join(JOBS)).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let path = entry.path();
            let id = path.file_name()?.to_str()?.strip_suffix(".json")?;
            if entry.metadata().ok()?.len() > MAX_ENTRY || !is_id(id) {
                return None;
            }
            let entry: Entry = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            (entry.id == id).then_some(entry)
        };
        let mut entries: Vec<Entry> = files.filter_map(read).collect();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        entries
    }

    /// The file called `id` with the ending of a picture, in `folder`.
    fn picture_in(&self, folder: &Path, id: &str) -> Option<(PathBuf, Format)> {
        if !is_id(id) {
            return None;
        }
        Format::ALL.into_iter().find_map(|format| {
            let path = folder.join(format!("{id}.{}", format.ending()));
            path.is_file().then_some((path, format))
        })
    }
}

/// Whether `text` has the form of an id: it is one name in a folder on every system, and no hidden file's.
pub(crate) fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

/// The id for a time: `20260131-235959-123`, in UTC.
fn id_at(milliseconds: u64) -> String {
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(milliseconds)).to_string();
    let digits = time.chars().filter_map(|letter| match letter {
        'T' | '.' => Some('-'),
        letter => letter.is_ascii_digit().then_some(letter),
    });
    digits.collect()
}

/// The time of an id that [`id_at`] made; 0 for others.
fn milliseconds_of(id: &str) -> u64 {
    let time = || {
        let (date, rest) = id.split_at_checked(8)?;
        let (clock, milliseconds) = rest.strip_prefix('-')?.split_once('-')?;
        let part = |text: &str, from: usize, to: usize| text.get(from..to).map(str::to_owned);
        let text = format!(
            "{}-{}-{}T{}:{}:{}.{}Z",
            part(date, 0, 4)?,
            part(date, 4, 6)?,
            part(date, 6, 8)?,
            part(clock, 0, 2)?,
            part(clock, 2, 4)?,
            part(clock, 4, 6)?,
            milliseconds.get(0..3)?
        );
        let time = humantime::parse_rfc3339(&text).ok()?;
        u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    };
    time().unwrap_or(0)
}

/// A time as RFC 3339 with milliseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_have_one_form() {
        let folder = tempfile::tempdir().unwrap();
        let (store, entries) = Store::open(folder.path()).unwrap();
        assert!(entries.is_empty());
        let ids: Vec<String> = (0..50).map(|_| store.new_id()).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
        assert!(ids.iter().all(|id| is_id(id)));
        assert_eq!(id_at(1_769_903_999_123), "20260131-235959-123");
        assert_eq!(milliseconds_of("20260131-235959-123"), 1_769_903_999_123);
        for other in ["", "x", "20260131", "20260131-235959", "2026013é-235959-123", "99999999-999999-999"] {
            assert_eq!(milliseconds_of(other), 0, "{other}");
        }
    }

    #[test]
    fn no_id_leads_out_of_a_folder() {
        for text in ["", ".", "..", "a/b", "a\\b", "a.png", "/etc/passwd", "a b", "a\0", "é", &"a".repeat(65)]
        {
            assert!(!is_id(text), "{text}");
        }
        assert!(is_id("20260131-235959-123-2") && is_id("a_B-9"));
    }

    #[test]
    fn a_folder_has_one_server() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(ServeError::InUse { .. })));
        drop(first);
        Store::open(folder.path()).unwrap();
    }
}
