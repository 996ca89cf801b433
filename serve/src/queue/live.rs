//! What happens in a job while it waits or runs.

use std::{sync::Arc, time::Instant};

use sdq::{Cancel, Event, Picture, picture::PictureFormat};
use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use super::{MAX_NOTES, Queue};

/// News that a slow watcher may fall behind; after that it gets the job's state.
const CAPACITY: usize = 256;

/// The changing part of a job that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) cancel: Cancel,
    pub(super) progress: Option<Progress>,
    pub(super) preview: Option<Arc<Preview>>,
    news: broadcast::Sender<Told>,
    /// Number of the next news.
    number: u64,
    /// When the first steps were done, and how many.
    paced: Option<(Instant, u64)>,
}

/// News of a job with their number.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) news: News,
}

/// Something that happened in a job.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// Its state or its place has changed.
    Job,
    Progress(Progress),
    Preview(Arc<Preview>),
    /// A picture is on the disk: its id.
    Picture(String),
    Note(String),
    End,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Such as `drawing`.
    pub(crate) task: String,
    /// Units done of all pictures; units are steps, or tensors of a conversion.
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// The current picture, from 0.
    pub(crate) image: usize,
    /// Steps done of the current picture.
    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) seconds_left: Option<f64>,
}

/// A picture while it is drawn, one pixel for each latent pixel.
#[derive(Debug)]
pub(crate) struct Preview {
    pub(crate) image: usize,
    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) picture: Picture,
}

impl Preview {
    /// The bytes of a PNG file.
    pub(crate) fn png(&self) -> Vec<u8> {
        sdq::picture::to_bytes(&self.picture, PictureFormat::Png, &[]).unwrap_or_default()
    }
}

impl Live {
    pub(super) fn new() -> Live {
        let (news, _) = broadcast::channel(CAPACITY);
        Live { cancel: Cancel::new(), progress: None, preview: None, news, number: 1, paced: None }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.news.subscribe()
    }

    pub(super) fn tell(&mut self, news: News) {
        // Nobody may be listening.
        let _ = self.news.send(Told { number: self.number, news });
        self.number += 1;
    }

    fn set_progress(&mut self, task: &sdq::Task, done: u64, total: u64) {
        let seconds_left = self.seconds_left(done, total);
        let Progress { image, step, steps, .. } = self.progress.take().unwrap_or_else(Progress::none);
        let progress = Progress { task: task.to_string(), done, total, image, step, steps, seconds_left };
        self.progress = Some(progress.clone());
        // The step that this counts is told next.
        if *task != sdq::Task::Drawing {
            self.tell(News::Progress(progress));
        }
    }

    fn set_step(&mut self, image: usize, step: usize, steps: usize) {
        let progress =
            Progress { image, step: step + 1, steps, ..self.progress.take().unwrap_or_else(Progress::none) };
        self.progress = Some(progress.clone());
        self.tell(News::Progress(progress));
    }

    /// The time for the rest at the pace since the first units.
    fn seconds_left(&mut self, done: u64, total: u64) -> Option<f64> {
        if done == 0 {
            return None;
        }
        let (since, first) = *self.paced.get_or_insert_with(|| (Instant::now(), done));
        let paced = done.checked_sub(first).filter(|&paced| paced > 0)?;
        Some(since.elapsed().as_secs_f64() / paced as f64 * total.saturating_sub(done) as f64)
    }
}

impl Progress {
    fn none() -> Progress {
        let task = String::new();
        Progress { task, done: 0, total: 0, image: 0, step: 0, steps: 0, seconds_left: None }
    }
}

impl Queue {
    /// Notes what happened in the job `id`; `shown` removes local paths.
    pub(super) fn observe(&self, id: &str, event: Event, shown: impl Fn(&str) -> String) {
        let mut jobs = self.lock();
        let Some(job) = jobs.all.get_mut(id) else { return };
        let Some(live) = &mut job.live else { return };
        match event {
            Event::Progress { task, done, total } => live.set_progress(&task, done, total),
            Event::Step { image, step, steps, preview } => {
                live.set_step(image, step, steps);
                if let Some(picture) = preview {
                    let preview = Arc::new(Preview { image, step: step + 1, steps, picture });
                    live.preview = Some(preview.clone());
                    live.tell(News::Preview(preview));
                }
            }
            Event::Drawn { .. } => {
                // The file is complete: it has its name.
                let known = job.entry.pictures.clone();
                job.entry.pictures = self.store.pictures_of(&job.entry);
                let _ = self.store.save(&job.entry, false);
                let new = job.entry.pictures.iter().filter(|id| !known.contains(id));
                new.for_each(|id| live.tell(News::Picture(id.clone())));
            }
            Event::Note(note) if job.entry.notes.len() < MAX_NOTES => {
                let text = shown(&note.to_string());
                job.entry.notes.push(text.clone());
                live.tell(News::Note(text));
            }
            _ => {}
        }
    }
}
