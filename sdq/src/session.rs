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

use sdq_engine::{Event as EngineEvent, Generated, Pipeline, PipelineOptions, Request, pipeline::Compiled};

use crate::{Cancel, Error, Event, MemoryBudget, Watch, add_ons::AddOns, budget::Reservation, model};

/// An open model. Dropping it waits for its current run, which [`Cancel`] can stop.
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

/// A request to the session's thread.
struct Job {
    request: Box<Request>,
    options: DrawOptions,
    cancel: Cancel,
    answers: Sender<Answer>,
}

enum Answer {
    Event(Event),
    Done(Box<Result<Generated, Error>>),
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
        let pipeline = add_ons.apply(model::open(path, options)?, options.threads, watch)?;
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
        let (answers, received) = channel();
        let request = Box::new(request.clone());
        let job = Job { request, options, cancel: watch.cancel().clone(), answers };
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, there is no answer, which is handled below.
            let _ = jobs.send(job);
        }
        for answer in received {
            match answer {
                Answer::Event(event) => watch.tell(event),
                Answer::Done(generated) => return *generated,
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
    let mut compiled = Compiled::kept();
    let mut kept: Option<Reservation> = None;
    for job in jobs {
        // The memory of kept graphs is available to the next run's plan.
        drop(kept.take());
        let plan = |limit: Option<u64>| {
            let run = pipeline.prepare(&job.request, limit)?;
            let taken = run.memory().taken();
            Ok((run, taken))
        };
        let generated = budget.reserve(plan).and_then(|(run, reservation)| {
            let generated = pipeline.generate_prepared(&run, &mut compiled, &mut |event| answer(&job, event));
            if compiled.count() > 0 {
                kept = Some(reservation.keep(run.memory().executables()));
            }
            Ok(generated?)
        });
        // A caller that has gone does not need the result.
        let _ = job.answers.send(Answer::Done(Box::new(generated)));
    }
}

/// Sends an event to the caller; stops if the caller has gone or cancels.
fn answer(job: &Job, event: EngineEvent<'_>) -> ControlFlow<()> {
    let event = match event {
        EngineEvent::Encoded => Event::Encoded,
        EngineEvent::Step { image, step, steps, preview, .. } => {
            let every = job.options.preview_every;
            let preview = (every > 0 && (step + 1) % every == 0).then(|| preview.picture().ok()).flatten();
            Event::Step { image, step, steps, preview }
        }
        EngineEvent::Decoded { image, picture } => Event::Drawn { image, picture: picture.clone() },
        EngineEvent::Saveable(_) | EngineEvent::Denoised { .. } => return job.cancel.check(),
    };
    match job.answers.send(Answer::Event(event)) {
        Ok(()) => job.cancel.check(),
        Err(_) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

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
