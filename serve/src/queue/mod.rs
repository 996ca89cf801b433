//! Jobs: a bounded queue, what happens in each job, and what is left of those that have ended.

mod live;
mod recover;
mod second_pass;
mod worker;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use axum::http::StatusCode;
use sdq::Cancel;
use tokio::sync::broadcast;

pub(crate) use live::{News, Preview, Progress, Told};
pub(crate) use worker::{conversion, work};

use crate::{
    problem::{ErrorDetail, Problem},
    store::{Entry, Origin, State, Store, Work, rfc3339},
};
use live::Live;

/// Most notes of a job.
const MAX_NOTES: usize = 100;
/// Seconds after which a full queue is tried again, if nothing is known of its jobs.
const RETRY_AFTER: u64 = 10;

/// All jobs.
#[derive(Debug)]
pub(crate) struct Queue {
    store: Arc<Store>,
    jobs: Mutex<Jobs>,
    /// Something was put into the queue, or the server ends.
    wake: Condvar,
    limit: usize,
    history: usize,
}

#[derive(Debug, Default)]
struct Jobs {
    all: BTreeMap<String, Job>,
    waiting: VecDeque<String>,
    /// Jobs whose files are being written; their places are taken.
    coming: usize,
    is_closing: bool,
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    /// Until it has ended.
    live: Option<Live>,
    is_resumable: bool,
}

/// A job at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) entry: Entry,
    /// Jobs that run before it.
    pub(crate) place: Option<usize>,
    pub(crate) progress: Option<Progress>,
    pub(crate) preview: Option<Arc<Preview>>,
    pub(crate) is_resumable: bool,
}

/// A job for a worker.
pub(crate) struct Task {
    pub(crate) entry: Entry,
    pub(crate) cancel: Cancel,
}

impl Queue {
    /// The jobs in `entries`, as an earlier server left them.
    pub(crate) fn new(store: Arc<Store>, entries: Vec<Entry>, limit: usize, history: usize) -> Queue {
        let mut jobs = Jobs::default();
        for entry in entries {
            let job = recover::recover(&store, entry);
            if job.entry.state == State::Waiting {
                jobs.waiting.push_back(job.entry.id.clone());
            }
            jobs.all.insert(job.entry.id.clone(), job);
        }
        let queue = Queue { store, jobs: Mutex::new(jobs), wake: Condvar::new(), limit, history };
        queue.trim(&mut queue.lock());
        queue
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job into the queue. It is on the disk afterwards.
    ///
    /// # Errors
    /// When the queue is full, or the server ends.
    pub(crate) fn submit(
        &self,
        work: Work,
        model: String,
        origin: Origin,
        notes: Vec<String>,
    ) -> Result<String, Problem> {
        self.take_place()?;
        let entry = Entry {
            id: self.store.new_id(),
            origin,
            work,
            model,
            state: State::Waiting,
            created: rfc3339(SystemTime::now()),
            started: None,
            ended: None,
            resumes: false,
            pictures: Vec::new(),
            notes,
            error: None,
        };
        let saved = self.store.save(&entry, true);
        let mut jobs = self.lock();
        jobs.coming -= 1;
        saved.map_err(|_| Problem::internal())?;
        let id = entry.id.clone();
        jobs.waiting.push_back(id.clone());
        jobs.all.insert(id.clone(), Job { entry, live: Some(Live::new()), is_resumable: false });
        drop(jobs);
        self.wake.notify_one();
        Ok(id)
    }

    fn take_place(&self) -> Result<(), Problem> {
        let mut jobs = self.lock();
        let unavailable =
            |code, message: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, message.to_owned());
        if jobs.is_closing {
            return Err(unavailable("queue.closed", "the server is ending"));
        }
        if jobs.waiting.len() + jobs.coming >= self.limit {
            let left = jobs.all.values().filter_map(|job| job.live.as_ref()?.progress.as_ref()?.seconds_left);
            let seconds = left.fold(f64::INFINITY, f64::min).ceil().clamp(1.0, 3600.0);
            let retry_after = if seconds < 3600.0 { seconds as u64 } else { RETRY_AFTER };
            let problem = unavailable("queue.full", "the queue is full; try again later");
            return Err(Problem { retry_after: Some(retry_after), ..problem });
        }
        jobs.coming += 1;
        Ok(())
    }

    /// The next job for a worker, which waits for it; `None` when the server ends.
    pub(crate) fn next(&self) -> Option<Task> {
        let mut jobs = self.lock();
        loop {
            if jobs.is_closing {
                return None;
            }
            if let Some(id) = jobs.waiting.pop_front() {
                let Some(job) = jobs.all.get_mut(&id) else { continue };
                let Some(live) = &job.live else { continue };
                job.entry.state = State::Running;
                job.entry.started = Some(rfc3339(SystemTime::now()));
                let task = Task { entry: job.entry.clone(), cancel: live.cancel.clone() };
                let _ = self.store.save(&job.entry, false);
                for job in jobs.all.values_mut() {
                    // Their places have changed.
                    job.tell(News::Job);
                }
                return Some(task);
            }
            jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The end of a job that a worker ran.
    fn finish(&self, id: &str, outcome: Result<(), Problem>) {
        let mut jobs = self.lock();
        let is_closing = jobs.is_closing;
        let Some(job) = jobs.all.get_mut(id) else { return };
        let was_cancelled = job.live.as_ref().is_some_and(|live| live.cancel.is_cancelled());
        let state = match &outcome {
            Ok(()) => State::Done,
            Err(_) if was_cancelled && is_closing => State::Interrupted,
            Err(_) if was_cancelled => State::Cancelled,
            Err(_) => State::Failed,
        };
        let error = outcome.err().filter(|_| state == State::Failed).map(|problem| problem.detail());
        if state == State::Cancelled && job.entry.origin == Origin::Call {
            // Nobody will finish it.
            self.store.remove_saved_run(&job.entry);
        }
        job.end(&self.store, state, error);
        self.trim(&mut jobs);
    }

    /// Forgets the oldest jobs that have ended, where there are too many.
    fn trim(&self, jobs: &mut Jobs) {
        let ended = jobs.all.values().filter(|job| job.live.is_none());
        let surplus = ended.clone().count().saturating_sub(self.history);
        let oldest: Vec<String> = ended.take(surplus).map(|job| job.entry.id.clone()).collect();
        for id in oldest {
            if let Some(job) = jobs.all.remove(&id) {
                self.store.forget(&job.entry);
            }
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Snapshot> {
        let jobs = self.lock();
        jobs.all.get(id).map(|job| jobs.snapshot(job))
    }

    /// Up to `limit` jobs, the newest first, of those before `before` and in `state`.
    pub(crate) fn list(&self, state: Option<State>, limit: usize, before: Option<&str>) -> Vec<Snapshot> {
        let jobs = self.lock();
        let chosen = jobs.all.values().rev().filter(|job| {
            before.is_none_or(|before| *job.entry.id < *before)
                && state.is_none_or(|state| job.entry.state == state)
        });
        chosen.take(limit).map(|job| jobs.snapshot(job)).collect()
    }

    /// Ids of running jobs, and the number of those that wait.
    pub(crate) fn counts(&self) -> (Vec<String>, usize) {
        let jobs = self.lock();
        let running = jobs.all.values().filter(|job| job.entry.state == State::Running);
        (running.map(|job| job.entry.id.clone()).collect(), jobs.waiting.len())
    }

    /// Whether no job waits or runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().all.values().all(|job| job.live.is_none())
    }

    /// The job as it is now, and what happens in it from now on; nothing if it has ended.
    pub(crate) fn watch(&self, id: &str) -> Option<(Snapshot, Option<broadcast::Receiver<Told>>)> {
        let jobs = self.lock();
        let job = jobs.all.get(id)?;
        Some((jobs.snapshot(job), job.live.as_ref().map(Live::subscribe)))
    }

    /// Cancels a job, at its next step if it runs.
    pub(crate) fn cancel(&self, id: &str) -> Option<Snapshot> {
        let mut jobs = self.lock();
        let job = jobs.all.get_mut(id)?;
        match job.entry.state {
            State::Waiting => {
                job.end(&self.store, State::Cancelled, None);
                jobs.waiting.retain(|other| other != id);
            }
            State::Running => {
                if let Some(live) = &job.live {
                    live.cancel.cancel();
                }
            }
            _ => {}
        }
        jobs.all.get(id).map(|job| jobs.snapshot(job))
    }

    /// Puts a job that was cancelled or interrupted into the queue again.
    ///
    /// # Errors
    /// When there is no such job, it cannot be resumed, or the queue is full.
    pub(crate) fn resume(&self, id: &str) -> Result<Snapshot, Problem> {
        self.take_place()?;
        let mut jobs = self.lock();
        jobs.coming -= 1;
        let job = jobs.all.get_mut(id).ok_or_else(no_job)?;
        if !job.is_resumable {
            return Err(Problem::conflict("this job cannot be resumed"));
        }
        let entry = Entry {
            state: State::Waiting,
            resumes: true,
            started: None,
            ended: None,
            error: None,
            origin: Origin::Own,
            ..job.entry.clone()
        };
        self.store.save(&entry, true).map_err(|_| Problem::internal())?;
        *job = Job { entry, live: Some(Live::new()), is_resumable: false };
        jobs.waiting.push_back(id.to_owned());
        self.wake.notify_one();
        jobs.all.get(id).map(|job| jobs.snapshot(job)).ok_or_else(no_job)
    }

    /// Forgets a job that has ended. Its pictures stay.
    ///
    /// # Errors
    /// When there is no such job, or it has not ended.
    pub(crate) fn forget(&self, id: &str) -> Result<(), Problem> {
        let mut jobs = self.lock();
        match jobs.all.get(id) {
            None => Err(no_job()),
            Some(job) if job.live.is_some() => {
                Err(Problem::conflict("this job has not ended; cancel it first"))
            }
            Some(job) => {
                self.store.forget(&job.entry);
                jobs.all.remove(id);
                Ok(())
            }
        }
    }

    /// Removes uploaded pictures that no job uses.
    pub(crate) fn remove_unused_uploads(&self) {
        self.tidy_uploads(u64::MAX);
    }

    /// The same, and makes sure that uploaded pictures have at most `room` bytes, if that is possible: jobs that wait, run or
    /// can be resumed keep theirs. Returns whether it was.
    pub(crate) fn tidy_uploads(&self, room: u64) -> bool {
        let jobs = self.lock();
        let entries = jobs.all.values().map(|job| (&job.entry, job.live.is_some() || job.is_resumable));
        self.store.tidy_uploads(entries, room)
    }

    /// Stops the workers, and the jobs that run, which can be resumed by the next server. Those that wait are still in its
    /// queue.
    pub(crate) fn close(&self) {
        let mut jobs = self.lock();
        jobs.is_closing = true;
        for live in jobs.all.values().filter_map(|job| job.live.as_ref()) {
            live.cancel.cancel();
        }
        drop(jobs);
        self.wake.notify_all();
    }

    /// Saves the runs that have not stopped yet, before the process ends.
    pub(crate) fn save_running(&self) {
        let mut jobs = self.lock();
        for job in jobs.all.values_mut().filter(|job| job.entry.state == State::Running) {
            if let Some(live) = &job.live {
                let cancel = live.cancel.clone();
                cancel.while_writing(|| {
                    let _ = cancel.last_state().save();
                    job.end(&self.store, State::Interrupted, None);
                });
            }
        }
    }
}

pub(crate) fn no_job() -> Problem {
    Problem::not_found("there is no such job")
}

impl Jobs {
    fn snapshot(&self, job: &Job) -> Snapshot {
        let place = (job.entry.state == State::Waiting)
            .then(|| self.waiting.iter().position(|id| *id == job.entry.id))
            .flatten();
        Snapshot {
            entry: job.entry.clone(),
            place,
            progress: job.live.as_ref().and_then(|live| live.progress.clone()),
            preview: job.live.as_ref().and_then(|live| live.preview.clone()),
            is_resumable: job.is_resumable,
        }
    }
}

impl Job {
    fn end(&mut self, store: &Store, state: State, error: Option<ErrorDetail>) {
        self.entry.state = state;
        self.is_resumable = recover::is_resumable(store, &self.entry);
        self.entry.error = error;
        self.entry.ended = Some(rfc3339(SystemTime::now()));
        self.entry.pictures = store.pictures_of(&self.entry);
        let _ = store.save(&self.entry, false);
        self.tell(News::End);
        self.live = None;
    }

    fn tell(&mut self, news: News) {
        if let Some(live) = &mut self.live {
            live.tell(news);
        }
    }
}
