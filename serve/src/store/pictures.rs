//! The pictures of the folder.

use std::{fs, path::PathBuf, time::SystemTime};

use sdq::{picture, recipe::Found};

use super::{Store, UPLOADS, is_id, rfc3339};
use crate::draw::Format;

/// A picture of the folder, with the parts of its recipe that a list shows.
#[derive(Clone, Debug)]
pub(crate) struct PictureInfo {
    pub(crate) id: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) seed: u64,
    pub(crate) prompt: String,
    pub(crate) created: String,
    pub(crate) bytes: u64,
}

impl Store {
    /// The file of a picture of the gallery.
    pub(crate) fn picture(&self, id: &str) -> Option<(PathBuf, Format)> {
        self.picture_in(&self.root, id)
    }

    /// The file of a picture of the gallery, or of one that was uploaded.
    pub(crate) fn any_picture(&self, id: &str) -> Option<(PathBuf, Format)> {
        self.picture(id).or_else(|| self.picture_in(&self.root.join(UPLOADS), id))
    }

    /// The file of a picture that a request may start from.
    pub(crate) fn source(&self, id: &str) -> Option<PathBuf> {
        self.any_picture(id).map(|(path, _)| path)
    }

    /// Describes a picture; `None` if it is not there, or not one that sdq drew.
    pub(crate) fn describe(&self, id: &str) -> Option<PictureInfo> {
        let (path, _) = self.picture(id)?;
        let metadata = fs::metadata(&path).ok()?;
        let request = Found::from_texts(&picture::read_texts(&path).ok()?).ok()?.recipe.request;
        // That of the request may be the size of a part.
        let (width, height) = picture::read_size(&path).ok()?;
        Some(PictureInfo {
            id: id.to_owned(),
            width,
            height,
            seed: request.seed,
            prompt: request.prompt,
            created: rfc3339(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
            bytes: metadata.len(),
        })
    }

    /// Up to `limit` pictures, the newest first, of those before `before`; whether there are more.
    pub(crate) fn pictures(&self, limit: usize, before: Option<&str>) -> (Vec<PictureInfo>, bool) {
        let files = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let id = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let (stem, ending) = name.to_str()?.rsplit_once('.')?;
            Format::of_ending(ending)?;
            is_id(stem).then(|| stem.to_owned())
        };
        let mut ids: Vec<String> = files.filter_map(id).collect();
        ids.sort_by(|a, b| order(b).cmp(&order(a)));
        let mut later =
            ids.iter().filter(|id| before.is_none_or(|before| order(id) < order(before))).peekable();
        let mut pictures = Vec::new();
        while pictures.len() < limit {
            let Some(id) = later.next() else { break };
            pictures.extend(self.describe(id));
        }
        (pictures, later.peek().is_some())
    }

    /// Removes a picture of the gallery; whether it was there.
    pub(crate) fn remove_picture(&self, id: &str) -> bool {
        self.picture(id).is_some_and(|(path, _)| fs::remove_file(path).is_ok())
    }
}

/// The place of a picture in the gallery: its job, then its number in it.
fn order(id: &str) -> (&str, usize) {
    let job = id.match_indices('-').nth(2).map(|(place, _)| id.split_at(place));
    match job.map(|(job, number)| (job, number[1..].parse())) {
        Some((job, Ok(number))) => (job, number),
        _ => (id, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_a_job_are_in_their_order() {
        let mut ids = ["20260101-000000-000-10", "20260101-000000-001", "20260101-000000-000-9", "other"];
        ids.sort_by_key(|id| order(id));
        assert_eq!(ids, ["20260101-000000-000-9", "20260101-000000-000-10", "20260101-000000-001", "other"]);
    }
}
