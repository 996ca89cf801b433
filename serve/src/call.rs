//! Calls that wait for their pictures, as both foreign interfaces have them. A call whose connection closes is cancelled.

use std::{path::PathBuf, sync::Arc};

use axum::http::StatusCode;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    app::App,
    draw::{self, DrawRequest},
    problem::{ErrorDetail, Problem},
    queue::{News, Preview, Snapshot, Told},
    store::{Origin, State, Work},
};

/// A request that was put into the queue for a client that waits. Dropping it cancels the job.
pub(crate) struct Call {
    app: Arc<App>,
    id: String,
    news: Option<Receiver<Told>>,
}

/// Runs `work`, which reads or writes files, on a thread for that.
///
/// # Errors
/// As `work`.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())?
}

/// Checks a request for pictures with the model called `model`, and puts it into the queue.
///
/// # Errors
/// When the request is not valid for the model, or the queue is full.
pub(crate) fn submit(
    app: &App,
    model: Option<&str>,
    mut request: DrawRequest,
    origin: Origin,
) -> Result<String, Problem> {
    request.check_limits(app)?;
    let listed = app.models.get(model)?;
    request.settle(app)?;
    let prepared = request.prepare(app)?;
    let pipeline = app.models.pipeline(&listed).map_err(|error| app.problem(&error))?;
    draw::check(app, &pipeline, &prepared, request.enlarge.as_ref())?;
    let work = Work::Generate { request: Box::new(request) };
    app.queue.submit(work, listed.id, origin, prepared.notes)
}

impl Call {
    /// Puts a request into the queue.
    ///
    /// # Errors
    /// As [`submit`].
    pub(crate) async fn start(
        app: &Arc<App>,
        model: Option<String>,
        request: DrawRequest,
    ) -> Result<Call, Problem> {
        let own = app.clone();
        blocking(move || {
            let id = submit(&own, model.as_deref(), request, Origin::Call)?;
            let news = own.queue.watch(&id).and_then(|(_, news)| news);
            Ok(Call { app: own, id, news })
        })
        .await
    }

    /// The next news; `None` when the job has ended.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        let news = self.news.as_mut()?;
        loop {
            match news.recv().await {
                Ok(told) => return Some(told),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    self.news = None;
                    return None;
                }
            }
        }
    }

    /// Waits for the end of the job.
    ///
    /// # Errors
    /// When the job failed or was cancelled.
    pub(crate) async fn end(mut self) -> Result<Snapshot, Problem> {
        while self.next().await.is_some() {}
        let job = self.job()?;
        match (job.entry.state, &job.entry.error) {
            (State::Done, _) => Ok(job),
            (_, Some(error)) => Err(failed(error)),
            _ => Err(Problem::new(StatusCode::CONFLICT, "cancelled", "the job was cancelled")),
        }
    }

    /// Waits for the end of the job. One that was cancelled has the pictures that were finished before, and the preview of
    /// the one that was drawn.
    ///
    /// # Errors
    /// When the job failed.
    pub(crate) async fn end_or_preview(mut self) -> Result<(Snapshot, Option<Arc<Preview>>), Problem> {
        let mut latest = None;
        while let Some(Told { news, .. }) = self.next().await {
            if let News::Preview(preview) = news {
                latest = Some(preview);
            }
        }
        let job = self.job()?;
        match &job.entry.error {
            Some(error) => Err(failed(error)),
            None => Ok((job, latest)),
        }
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// When it was forgotten.
    pub(crate) fn job(&self) -> Result<Snapshot, Problem> {
        self.app.queue.get(&self.id).ok_or_else(crate::queue::no_job)
    }
}

/// The files of pictures of the gallery.
pub(crate) fn files(app: &App, ids: &[String]) -> Vec<PathBuf> {
    ids.iter().filter_map(|id| app.store.picture(id).map(|(path, _)| path)).collect()
}

/// The problem of a job that failed with `error`.
fn failed(error: &ErrorDetail) -> Problem {
    let kind = sdq::ErrorKind::ALL.into_iter().find(|kind| kind.code() == error.code);
    let code = kind.map_or("internal", sdq::ErrorKind::code);
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, code, &error.message);
    Problem { field: error.field.clone(), ..problem }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.news.is_some() {
            self.app.queue.cancel(&self.id);
        }
    }
}
