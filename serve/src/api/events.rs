//! A job as a stream of events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{Receiver, error::RecvError},
};

use utoipa::ToSchema;

use super::{jobs::Job, pictures::Picture};
use crate::{
    app::App,
    call::blocking,
    draw::to_base64,
    extract::Path,
    problem::{ErrorBody, Problem},
    queue::{News, Preview, Told, no_job},
};

/// Time between comments that keep a connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event of a stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the stream in the interface's document")]
pub(crate) struct SentEvent {
    /// Grows with each event.
    id: String,
    /// `job`, `progress`, `preview`, `picture`, `note` or `end`.
    event: String,
    /// A job, its progress, and so on, as JSON.
    data: String,
}

/// What happens in a job, until it ends: server-sent events `job`, `progress`, `preview`, `picture`, `note` and `end`.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", params(("id" = String, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = SentEvent),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(super) async fn events(State(app): State<Arc<App>>, Path(id): Path) -> Result<Response, Problem> {
    let permit = watcher(&app)?;
    let (own, watched) = (app.clone(), id.clone());
    let (first, news) = blocking(move || {
        let (snapshot, news) = own.queue.watch(&watched).ok_or_else(no_job)?;
        let name = if news.is_some() { "job" } else { "end" };
        let mut first = vec![event(0, name, &Job::new(&own, snapshot.clone()))];
        if let Some(progress) = &snapshot.progress {
            first.push(event(0, "progress", progress));
        }
        if let Some(preview) = &snapshot.preview {
            first.push(preview_event(0, preview));
        }
        Ok((first, news))
    })
    .await?;
    let watcher = Watcher { app, id, news, number: 0, is_over: false, _permit: permit };
    let events = stream::iter(first.into_iter().map(Ok::<_, Infallible>));
    let events = futures_util::StreamExt::chain(events, watcher.events());
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("here");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// A place among the streams of events.
///
/// # Errors
/// When there are too many.
pub(crate) fn watcher(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    app.watchers.clone().try_acquire_owned().map_err(|_| {
        let message = "too many clients watch jobs; try again later";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "watchers.full", message);
        Problem { retry_after: Some(5), ..problem }
    })
}

/// A client that watches a job.
struct Watcher {
    app: Arc<App>,
    id: String,
    news: Option<Receiver<Told>>,
    number: u64,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        loop {
            let Some(receiver) = &mut self.news else { return None };
            match receiver.recv().await {
                Ok(Told { number, news }) => {
                    self.number = number;
                    if let Some(event) = self.event(news).await {
                        return Some(event);
                    }
                }
                // The client is slow: it gets the state instead of what it missed.
                Err(RecvError::Lagged(_)) => return self.job("job").await,
                Err(RecvError::Closed) => {
                    self.is_over = true;
                    return self.job("end").await;
                }
            }
        }
    }

    async fn event(&mut self, news: News) -> Option<Event> {
        let number = self.number;
        match news {
            News::Job => self.job("job").await,
            News::Progress(progress) => Some(event(number, "progress", &progress)),
            News::Preview(preview) => Some(preview_event(number, &preview)),
            News::Picture(id) => {
                let app = self.app.clone();
                let described = blocking(move || Ok(app.store.describe(&id))).await.ok().flatten()?;
                Some(event(number, "picture", &Picture::from(described)))
            }
            News::Note(text) => Some(event(number, "note", &json!({ "text": text }))),
            News::End => {
                self.is_over = true;
                self.job("end").await
            }
        }
    }

    /// The whole job as an event called `name`; `None` if it was forgotten.
    async fn job(&self, name: &'static str) -> Option<Event> {
        let (app, id, number) = (self.app.clone(), self.id.clone(), self.number);
        let job = blocking(move || Ok(app.queue.get(&id).map(|snapshot| Job::new(&app, snapshot))));
        job.await.ok().flatten().map(|job| event(number, name, &job))
    }
}

fn event(number: u64, name: &str, data: &impl serde::Serialize) -> Event {
    let event = Event::default().id(number.to_string()).event(name);
    event.json_data(data).unwrap_or_default()
}

fn preview_event(number: u64, preview: &Preview) -> Event {
    let data = format!("data:image/png;base64,{}", to_base64(&preview.png()));
    let (width, height) = (preview.picture.width, preview.picture.height);
    event(
        number,
        "preview",
        &json!({ "image": preview.image, "step": preview.step, "data": data, "width": width, "height": height }),
    )
}
