//! Pictures that clients sent, by a hash of their bytes.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

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

impl Store {
    /// Stores a picture that `field` of a request has, and returns its id. It is checked first: whoever names it later
    /// need not.
    pub(crate) fn upload(&self, bytes: &[u8], field: &str, app: &App) -> Result<String, Problem> {
        if bytes.len() > app.limits.upload_bytes {
            let limit = app.limits.upload_bytes >> 20;
            return Err(Problem::too_large(format!("{field}: the picture has more than {limit} MiB")));
        }
        let format = Format::of_bytes(bytes);
        let format =
            format.ok_or_else(|| Problem::invalid(field, "the file is not a PNG, JPEG or WebP picture"))?;
        let (id, path) = self.upload_path(bytes, format);
        if is_there(&path) {
            return Ok(id);
        }
        self.with_temporary(bytes, |new| {
            check(new, field, app)?;
            fs::rename(new, &path).map_err(|_| Problem::internal())
        })?
        .map(|()| id)
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
        let path = self.root.join(UPLOADS).join(format!("{}.new", self.new_id()));
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes));
        let found = written.map(|()| read(&path)).map_err(|_| Problem::internal());
        let _ = fs::remove_file(path);
        found
    }

    /// Removes uploaded pictures that none of `entries` uses, and no request that is still being read.
    pub(crate) fn remove_unused_uploads<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let used: HashSet<&str> = entries.flat_map(used_by).collect();
        for file in fs::read_dir(self.root.join(UPLOADS)).into_iter().flatten().flatten() {
            let path = file.path();
            let is_used =
                path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| used.contains(stem));
            let age =
                file.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
            if !is_used && age.is_some_and(|age| age > UNUSED) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Whether the file is there; it is in use again then.
fn is_there(path: &Path) -> bool {
    let file = File::options().append(true).open(path);
    file.is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok())
}

/// Decodes the picture once, in bounded memory.
fn check(path: &Path, field: &str, app: &App) -> Result<(), Problem> {
    let read = picture::read_within(path, app.limits.picture_bytes());
    read.map(drop).map_err(|error| Problem::invalid(field, app.shown(&error.problem.to_string())))
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
