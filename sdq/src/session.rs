//! Sessions: an open model that draws pictures one after the other without compiling its graphs again.
//!
//! Compiled graphs borrow the model's mapped weights, so both are on the stack of the session's own thread.
//! Requests can be sent to it from any number of threads, which receive owned events. Runs of one session are
//! sequential; those of several sessions are concurrent and share a [`MemoryBudget`].

use std::{
    ops::ControlFlow,
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use sdq_engine::{
    Event as EngineEvent, Generated, Pipeline, PipelineOptions, Request,
    pipeline::{Compiled, PreparedRun},
};

use crate::{
    Error, Event, MemoryBudget, Watch,
    add_ons::AddOns,
    budget::Reservation,
    model,
    run::{self, RunFiles, RunOptions, Unfinished, Written},
};

/// An open model. Dropping it waits for its current run, which [`Cancel`](crate::Cancel) can stop.
#[derive(Debug)]
pub struct Session {
    pipeline: Pipeline,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Options for the events of a session's runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrawOptions {
    /// Number of steps between events with a preview; 0 for never.
    pub preview_every: usize,
}

/// Work for the session's thread, which sends its answers itself.
type Job = Box<dyn FnOnce(&mut Desk<'_>) + Send>;

enum Answer<T> {
    Event(Event),
    Done(Result<T, Error>),
}

impl Session {
    /// Opens the model at `path`, or the built-in one, with `add_ons`. Its runs use memory of `budget`.
    ///
    /// # Errors
    /// When the model or an add-on cannot be read or is not supported, or the system refuses a thread.
    pub fn open(
        path: Option<&Path>,
        options: &PipelineOptions,
        add_ons: &AddOns,
        budget: &MemoryBudget,
        watch: &mut Watch<'_>,
    ) -> Result<Session, Error> {
        Session::new(add_ons.apply(model::open(path, options)?, options.threads, watch)?, budget)
    }

    /// A session of a model that is open already. Its runs use memory of `budget`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(pipeline: Pipeline, budget: &MemoryBudget) -> Result<Session, Error> {
        let (jobs, received) = channel();
        let (own, budget) = (pipeline.clone(), budget.clone());
        let thread = thread::Builder::new().name("sdq session".to_owned());
        let thread = thread.spawn(move || serve(&own, &budget, &received)).map_err(Error::Thread)?;
        Ok(Session { pipeline, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The model, for plans and queries.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Draws the pictures of `request`, after all earlier requests, and reports every step to `watch`.
    ///
    /// # Errors
    /// As [`Pipeline::generate`]; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) when the watch was
    /// cancelled.
    pub fn draw(
        &self,
        request: &Request,
        options: DrawOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Generated, Error> {
        let request = request.clone();
        self.run(watch, move |desk, watch| {
            desk.run(&request, |pipeline, run, compiled| {
                let mut observer = |event: EngineEvent<'_>| report(event, options, watch);
                Ok(pipeline.generate_prepared(run, compiled, &mut observer)?)
            })
        })
    }

    /// Draws the pictures of `request` like [`draw`](Session::draw), and writes all `files` like
    /// [`run::generate`]. The request's start picture and mask are its own; `files` only names their files.
    ///
    /// # Errors
    /// As [`run::generate`].
    pub fn generate(
        &self,
        request: &Request,
        files: &RunFiles,
        options: &RunOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Written>, Error> {
        let (request, files, options) = (request.clone(), files.clone(), options.clone());
        self.run(watch, move |desk, watch| {
            desk.run(&request, |pipeline, run, compiled| {
                run::write(pipeline, run.settings(), &files, &options, watch, |observer| {
                    pipeline.generate_prepared(run, compiled, observer)
                })
            })
        })
    }

    /// Finishes a saved run of this model like [`Unfinished::resume`], after all earlier requests.
    ///
    /// # Errors
    /// As [`Unfinished::resume`].
    pub fn resume(
        &self,
        unfinished: Unfinished,
        options: &RunOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Written>, Error> {
        let options = options.clone();
        self.run(watch, move |desk, watch| {
            desk.run(unfinished.saved.request(), |pipeline, run, compiled| {
                unfinished.write(pipeline, run.settings(), &options, watch, |observer| {
                    pipeline.resume_prepared(&unfinished.saved, run, compiled, observer)
                })
            })
        })
    }

    /// The result of `work` on the session's thread, whose events reach `watch`.
    fn run<T: Send + 'static>(
        &self,
        watch: &mut Watch<'_>,
        work: impl FnOnce(&mut Desk<'_>, &mut Watch<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answers, received) = channel();
        let cancel = watch.cancel().clone();
        let job: Job = Box::new(move |desk| {
            let mut observer = |event: Event| {
                // Nobody waits for a run whose caller has gone.
                if answers.send(Answer::Event(event)).is_err() {
                    cancel.cancel();
                }
            };
            let done = work(desk, &mut Watch::new(&mut observer, &cancel));
            let _ = answers.send(Answer::Done(done));
        });
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, there is no answer, which is handled below.
            let _ = jobs.send(job);
        }
        for answer in received {
            match answer {
                Answer::Event(event) => watch.tell(event),
                Answer::Done(done) => return done,
            }
        }
        Err(Error::SessionEnded)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The thread's loop ends when the sender is dropped.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs all jobs, keeping the graphs of the last one.
fn serve(pipeline: &Pipeline, budget: &MemoryBudget, jobs: &Receiver<Job>) {
    let mut desk = Desk { pipeline, budget, compiled: Compiled::kept(), kept: None };
    jobs.iter().for_each(|job| job(&mut desk));
}

/// The model of a session's thread, and the graphs that are kept from run to run.
struct Desk<'w> {
    pipeline: &'w Pipeline,
    budget: &'w MemoryBudget,
    compiled: Compiled<'w>,
    /// The memory of `compiled`.
    kept: Option<Reservation>,
}

impl<'w> Desk<'w> {
    /// Prepares a run of `request` in the memory that is left, and draws it.
    fn run<T>(
        &mut self,
        request: &Request,
        draw: impl FnOnce(&'w Pipeline, &PreparedRun, &mut Compiled<'w>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // The memory of kept graphs is available to the next run's plan.
        drop(self.kept.take());
        let plan = |limit: Option<u64>| {
            let run = self.pipeline.prepare(request, limit)?;
            let taken = run.memory().taken();
            Ok((run, taken))
        };
        let (run, reservation) = self.budget.reserve(plan).inspect_err(|_: &Error| {
            // They are not accounted for any more.
            self.compiled = Compiled::kept();
        })?;
        let drawn = draw(self.pipeline, &run, &mut self.compiled);
        if self.compiled.count() > 0 {
            self.kept = Some(reservation.keep(run.memory().executables()));
        }
        drawn
    }
}

/// Passes an event of a run that writes no files on; stops the run if the caller cancels.
fn report(event: EngineEvent<'_>, options: DrawOptions, watch: &mut Watch<'_>) -> ControlFlow<()> {
    match event {
        EngineEvent::Encoded => watch.tell(Event::Encoded),
        EngineEvent::Step { image, step, steps, preview, .. } => {
            let every = options.preview_every;
            let preview = (every > 0 && (step + 1) % every == 0).then(|| preview.picture().ok()).flatten();
            watch.tell(Event::Step { image, step, steps, preview });
        }
        EngineEvent::Decoded { image, picture } => {
            watch.tell(Event::Drawn { image, picture: picture.clone() });
        }
        EngineEvent::Saveable(_) | EngineEvent::Denoised { .. } => {}
    }
    watch.cancel().check()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Cancel, ErrorKind};

    fn session(budget: &MemoryBudget) -> Session {
        let mut observer = |_: Event| {};
        let watch = &mut Watch::new(&mut observer, &Cancel::new());
        let options = PipelineOptions::default();
        Session::open(None, &options, &AddOns::default(), budget, watch).unwrap()
    }

    fn draw(session: &Session, request: &Request, events: &mut Vec<Event>) -> Result<Generated, Error> {
        let mut observer = |event: Event| events.push(event);
        session.draw(
            request,
            DrawOptions { preview_every: 2 },
            &mut Watch::new(&mut observer, &Cancel::new()),
        )
    }

    #[test]
    fn a_session_draws_what_its_pipeline_draws_from_any_thread() {
        let session = session(&MemoryBudget::new(None));
        let requests = [1, 2].map(|seed| Request::new("a red apple").size(32, 32).steps(3).seed(seed));
        let expected = requests.each_ref().map(|request| {
            let go_on = &mut |_: EngineEvent<'_>| ControlFlow::Continue(());
            session.pipeline().generate(request, go_on).unwrap().pictures
        });
        thread::scope(|scope| {
            for (request, expected) in requests.iter().zip(&expected) {
                let session = &session;
                scope.spawn(move || {
                    let mut events = Vec::new();
                    let generated = draw(session, request, &mut events).unwrap();
                    assert_eq!(generated.pictures, *expected);
                    let steps: Vec<_> = events
                        .iter()
                        .filter_map(|event| match event {
                            Event::Step { step, preview, .. } => Some((*step, preview.is_some())),
                            _ => None,
                        })
                        .collect();
                    assert_eq!(steps, [(0, false), (1, true), (2, false)]);
                    assert_eq!(events[0], Event::Encoded);
                    let picture = expected[0].clone();
                    assert_eq!(events.last(), Some(&Event::Drawn { image: 0, picture }));
                });
            }
        });
    }

    #[test]
    fn a_cancelled_run_ends_and_the_session_goes_on() {
        let session = session(&MemoryBudget::new(None));
        let request = Request::new("a red apple").size(32, 32).steps(9);
        let cancel = Cancel::new();
        let mut steps = 0;
        let mut observer = |event: Event| {
            if let Event::Step { .. } = event {
                steps += 1;
                cancel.cancel();
            }
        };
        let watch = &mut Watch::new(&mut observer, &cancel);
        let stopped = session.draw(&request, DrawOptions::default(), watch);
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(steps < 9);
        assert!(draw(&session, &request.steps(1), &mut Vec::new()).is_ok());
    }

    #[test]
    fn a_run_with_files_keeps_its_graphs_and_writes_what_it_draws() {
        let folder = tempfile::tempdir().unwrap();
        let budget = MemoryBudget::new(None);
        let session = session(&budget);
        let options = RunOptions { save_every: Duration::from_secs(20), preview_every: 1, previewer: None };
        let request = Request::new("a red apple").size(32, 32).steps(2).count(2);
        let expected = session.pipeline().generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        let kept = session.pipeline().plan(&request).unwrap().executables();
        for name in ["a.png", "b.png"] {
            let files = RunFiles { output: folder.path().join(name), ..RunFiles::default() };
            let mut drawn = Vec::new();
            let mut observer = |event: Event| {
                if let Event::Drawn { image, picture } = event {
                    // The file is there before anybody hears of the picture.
                    let path = &files.pictures(2).unwrap()[image];
                    assert_eq!(crate::picture::read(path).unwrap(), picture);
                    drawn.push(picture);
                }
            };
            let watch = &mut Watch::new(&mut observer, &Cancel::new());
            let written = session.generate(&request, &files, &options, watch).unwrap();
            assert_eq!((drawn, written.len()), (expected.pictures.clone(), 2));
            assert_eq!(written[1].recipe.request.seed, request.seed + 1);
            assert_eq!(budget.taken(), kept, "the graphs are kept for the next run");
            assert!(!files.saved_run().exists());
        }
    }

    #[test]
    fn a_cancelled_run_with_files_is_resumed_by_a_session() {
        let folder = tempfile::tempdir().unwrap();
        let session = session(&MemoryBudget::new(None));
        let options = RunOptions { save_every: Duration::from_secs(20), preview_every: 0, previewer: None };
        let request = Request::new("a red apple").size(32, 32).steps(6);
        let expected = session.pipeline().generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        let files = RunFiles { output: folder.path().join("a.png"), ..RunFiles::default() };
        let cancel = Cancel::new();
        let mut observer = |event: Event| {
            if let Event::Step { step: 1, .. } = event {
                cancel.cancel();
            }
        };
        let watch = &mut Watch::new(&mut observer, &cancel);
        let stopped = session.generate(&request, &files, &options, watch);
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        let unfinished = Unfinished::open(&files.saved_run()).unwrap();
        let (mut steps, mut pictures) = (0, Vec::new());
        let mut observer = |event: Event| match event {
            Event::Step { .. } => steps += 1,
            Event::Drawn { picture, .. } => pictures.push(picture),
            _ => {}
        };
        let watch = &mut Watch::new(&mut observer, &Cancel::new());
        session.resume(unfinished, &options, watch).unwrap();
        assert!(steps < 5, "{steps} steps were done again");
        assert_eq!(pictures, expected.pictures);
        assert!(!files.saved_run().exists());
    }

    #[test]
    fn kept_graphs_count_against_the_budget_and_are_given_back() {
        let budget = MemoryBudget::new(None);
        let first = session(&budget);
        let request = Request::new("a red apple").size(32, 32).steps(1);
        draw(&first, &request, &mut Vec::new()).unwrap();
        let kept = first.pipeline().plan(&request).unwrap().executables();
        assert_eq!(budget.taken(), kept);
        drop(first);
        assert_eq!(budget.taken(), 0);
        let tight = MemoryBudget::new(Some(1));
        let refused = draw(&session(&tight), &request, &mut Vec::new());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::MemoryDoesNotFit);
    }
}
