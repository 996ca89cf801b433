//! The state of a run after its last step, for whoever has to end the process before the next one.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sdq_formats::atomic::AtomicFile;

use super::SideFile;

/// Where a run is saved and, if it has gone on since then, what is to be written there.
#[derive(Debug, Default)]
pub struct LastState(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    /// `None` for a run that is not saved.
    path: Option<PathBuf>,
    /// The file's bytes; `None` where the file has them, or no step was done.
    unsaved: Option<Vec<u8>>,
}

impl LastState {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run began that is saved at `path`, or not at all.
    pub(super) fn begin(&self, path: Option<PathBuf>) {
        *self.lock() = Some(State { path, unsaved: None });
    }

    /// The run has come further than its file; `None` where the file was written.
    pub(super) fn set(&self, bytes: Option<Vec<u8>>) {
        if let Some(state) = &mut *self.lock() {
            state.unsaved = bytes;
        }
    }

    /// The run is over.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    /// Whether there is a run.
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// Writes the state to its file, if that does not have it. Returns the file's path; `None` where there is nothing to
    /// resume.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> io::Result<Option<PathBuf>> {
        let mut state = self.lock();
        let Some(State { path: Some(path), unsaved }) = &mut *state else { return Ok(None) };
        if let Some(bytes) = unsaved {
            SideFile::SavedRun.check(path)?;
            let mut file = AtomicFile::create(path)?;
            file.write_all(bytes)?;
            file.commit()?;
            *unsaved = None;
        }
        Ok(Some(path.clone()).filter(|path| SideFile::SavedRun.is_at(path)))
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::safetensors;

    use super::*;

    #[test]
    fn the_last_state_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png.sdq-run");
        let bytes = safetensors::to_bytes(&[], &[("sdq.run", "{}")]).unwrap();
        let state = LastState::default();
        state.set(Some(bytes.clone()));
        assert_eq!((state.save().unwrap(), state.is_running()), (None, false));
        state.begin(None);
        assert_eq!((state.save().unwrap(), state.is_running()), (None, true));
        state.begin(Some(path.clone()));
        assert_eq!((state.save().unwrap(), state.is_running()), (None, true));
        state.set(Some(bytes.clone()));
        assert_eq!(state.save().unwrap(), Some(path.clone()));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(state.save().unwrap(), None, "it has been written");
        // A file of somebody else stays.
        std::fs::write(&path, "a letter").unwrap();
        state.set(Some(bytes));
        state.save().unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
        state.end();
        assert_eq!(state.save().unwrap(), None);
    }
}
