//! Pictures that clients sent, by a hash of their bytes.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use axum::http::StatusCode;
use sdq::picture;
use sha2::{Digest as _, Sha256};

use super::{Entry, Store, UPLOADS, Work};
use crate::{
    app::App,
    draw::{Format, Source},
    problem::Problem,
};

/// Bytes of the hash that an id contains.
const HASHED: usize = 12;
/// How long a picture stays that no job uses.
const UNUSED: Duration = Duration::from_secs(3600);
/// Seconds after which a picture that found no room is sent again.
const RETRY_AFTER: u64 = 60;

impl Store {
    /// Stores a picture that `field` of a request has, and returns its id. It is checked first: whoever names it later
    /// need not.
    ///
    /// # Errors
    /// When it is no picture, is too large, or pictures of other requests take all the room.
    pub(crate) fn upload(&self, bytes: &[u8], field: &str, app: &App) -> Result<String, Problem> {
        let format = format_of(bytes, field, app)?;
        let (id, path) = self.upload_path(bytes, format);
        if is_there(&path) {
            return Ok(id);
        }
        let room = app.limits.uploads_bytes.saturating_sub(bytes.len() as u64);
        if !app.queue.tidy_uploads(room) {
            let message = "pictures of other jobs take all the room; try again later";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "uploads.full", message);
            return Err(Problem { retry_after: Some(RETRY_AFTER), ..problem });
        }
        let new = self.checked(bytes, field, app)?;
        fs::rename(&new.0, &path).map_err(|_| Problem::internal())?;
        Ok(id)
    }

    /// A picture that `field` of a request has, in a file for as long as it is looked at.
    ///
    /// # Errors
    /// When it is no picture, or is too large.
    pub(crate) fn glance(&self, bytes: &[u8], field: &str, app: &App) -> Result<Temporary, Problem> {
        format_of(bytes, field, app)?;
        self.checked(bytes, field, app)
    }

    /// A file with `bytes`, which are those of a picture that can be decoded.
    fn checked(&self, bytes: &[u8], field: &str, app: &App) -> Result<Temporary, Problem> {
        let file = self.temporary(bytes)?;
        let read = picture::read_within(file.path(), app.limits.picture_bytes());
        read.map_err(|error| Problem::invalid(field, app.shown(&error.problem.to_string())))?;
        Ok(file)
    }

    /// Keeps a PNG picture of this server among the uploaded ones, and returns its path.
    pub(crate) fn keep(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let (_, path) = self.upload_path(bytes, Format::Png);
        if !is_there(&path) {
            let new = self.root.join(UPLOADS).join(format!("{}.new", self.new_id()));
            fs::write(&new, bytes)?;
            fs::rename(new, &path)?;
        }
        Ok(path)
    }

    /// The id of a picture, and its file.
    fn upload_path(&self, bytes: &[u8], format: Format) -> (String, PathBuf) {
        let mut id = "u-".to_owned();
        for byte in &Sha256::digest(bytes)[..HASHED] {
            let _ = write!(id, "{byte:02x}");
        }
        let path = self.root.join(UPLOADS).join(format!("{id}.{}", format.ending()));
        (id, path)
    }

    /// The result of `read` for a file with `bytes`, which is removed again.
    pub(crate) fn with_temporary<T>(
        &self,
        bytes: &[u8],
        read: impl FnOnce(&Path) -> T,
    ) -> Result<T, Problem> {
        Ok(read(self.temporary(bytes)?.path()))
    }

    fn temporary(&self, bytes: &[u8]) -> Result<Temporary, Problem> {
        let file = Temporary(self.root.join(UPLOADS).join(format!("{}.new", self.new_id())));
        fs::write(file.path(), bytes).map_err(|_| Problem::internal())?;
        Ok(file)
    }

    /// Removes uploaded pictures that no job of `entries` uses, and no request that is still being read. Where the others
    /// have more than `room` bytes, those that are only shown with jobs that have ended go too, the oldest first. An entry
    /// comes with whether its job needs its pictures. Returns whether at most `room` bytes are left.
    pub(crate) fn tidy_uploads<'a>(
        &self,
        entries: impl Iterator<Item = (&'a Entry, bool)>,
        room: u64,
    ) -> bool {
        let (mut needed, mut shown) = (HashSet::new(), HashSet::new());
        for (entry, needs) in entries {
            (if needs { &mut needed } else { &mut shown }).extend(used_by(entry));
        }
        let (mut bytes, mut spare) = (0, Vec::new());
        for file in fs::read_dir(self.root.join(UPLOADS)).into_iter().flatten().flatten() {
            let path = file.path();
            let Ok(found) = file.metadata() else { continue };
            let time = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_in = |ids: &HashSet<&str>| {
                path.file_stem().and_then(OsStr::to_str).is_some_and(|id| ids.contains(id))
            };
            let is_recent = time.elapsed().is_ok_and(|age| age <= UNUSED);
            if !is_in(&needed) && !is_in(&shown) && !is_recent {
                let _ = fs::remove_file(path);
                continue;
            }
            bytes += found.len();
            if !is_in(&needed) && is_in(&shown) {
                spare.push((time, found.len(), path));
            }
        }
        spare.sort();
        for (_, len, path) in spare {
            if bytes <= room {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= len;
        }
        bytes <= room
    }
}

/// A file that is removed with this value, unless it has another name by then.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The format of a picture, if it may be as large.
fn format_of(bytes: &[u8], field: &str, app: &App) -> Result<Format, Problem> {
    if bytes.len() > app.limits.upload_bytes {
        let limit = app.limits.upload_bytes >> 20;
        return Err(Problem::too_large(format!("{field}: the picture has more than {limit} MiB")));
    }
    let format = Format::of_bytes(bytes);
    format.ok_or_else(|| Problem::invalid(field, "the file is not a PNG, JPEG or WebP picture"))
}

/// Whether the file is there; it is in use again then.
fn is_there(path: &Path) -> bool {
    let file = File::options().append(true).open(path);
    file.is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok())
}

/// The ids of pictures that a job uses.
fn used_by(entry: &Entry) -> impl Iterator<Item = &str> {
    let sources = match &entry.work {
        Work::Generate { request } => [&request.start_picture, &request.mask],
        Work::Convert { .. } => [&None, &None],
    };
    sources.into_iter().filter_map(|source| match source {
        Some(Source::Picture(id)) => Some(id.as_str()),
        _ => None,
    })
}
