//! Streams of partial pictures, as OpenAI has them: a partial picture is the estimate at a step, enlarged.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use axum::response::{
    IntoResponse as _, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use sdq::picture;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{output_format, request::Answer, seconds, usage};
use crate::{
    api::events::watcher,
    app::App,
    call::{Call, blocking},
    draw::{Format, to_base64},
    problem::Problem,
    queue::{News, Preview, Told},
    store::Work,
};

/// A job whose pictures are streamed. Dropping it, as when the connection closes, cancels the job.
struct Streamed {
    app: Arc<App>,
    call: Call,
    partial_images: usize,
    /// `image_generation` or `image_edit`.
    kind: &'static str,
    /// Partial pictures that were sent of each picture.
    sent: Vec<usize>,
    size: Option<(usize, usize)>,
    format: Format,
    output_format: &'static str,
    /// Finished pictures that were sent.
    completed: Vec<String>,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) fn stream(
    app: Arc<App>,
    call: Call,
    answer: Answer,
    kind: &'static str,
) -> Result<Response, Problem> {
    let permit = watcher(&app)?;
    let Work::Generate { request } = call.job()?.entry.work else { return Err(Problem::internal()) };
    let streamed = Streamed {
        app,
        call,
        partial_images: answer.partial_images.unwrap_or(0),
        kind,
        sent: vec![0; request.count.unwrap_or(1)],
        size: request.width.zip(request.height),
        format: request.format.unwrap_or_default(),
        output_format: output_format(&request),
        completed: Vec::new(),
        is_over: false,
        _permit: permit,
    };
    let events = stream::unfold(streamed, |mut streamed| async move {
        let event = streamed.next().await?;
        Some((Ok::<_, Infallible>(event), streamed))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

impl Streamed {
    async fn next(&mut self) -> Option<Event> {
        while !self.is_over {
            let event = match self.call.next().await {
                Some(Told { news: News::Preview(preview), .. }) => self.partial(preview).await,
                Some(Told { news: News::Picture(id), .. }) => self.completed(id).await,
                Some(_) => None,
                // A slow client may have missed the news of a picture.
                None => match self.missed() {
                    Some(id) => self.completed(id).await,
                    None => {
                        self.is_over = true;
                        self.failure()
                    }
                },
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// The preview as a partial picture, if it is time for one: they divide the steps evenly.
    async fn partial(&mut self, preview: Arc<Preview>) -> Option<Event> {
        let steps = preview.steps;
        let sent = self.sent.get_mut(preview.image)?;
        let is_due = *sent < self.partial_images
            && preview.step * (self.partial_images + 1) >= (*sent + 1) * steps
            && preview.step < steps;
        if !is_due {
            return None;
        }
        let index = *sent;
        *sent += 1;
        let factor = |own: usize| own * 8;
        let own = (preview.picture.width, preview.picture.height);
        let (width, height) = self.size.unwrap_or((factor(own.0), factor(own.1)));
        let format = self.format;
        let encoded = blocking(move || {
            let large = preview.picture.fill(width, height);
            let bytes = large.and_then(|large| picture::to_bytes(&large, format.of_file(), &[]));
            bytes.map(|bytes| to_base64(&bytes)).map_err(|_| Problem::internal())
        });
        let mut data = self.data("partial_image", &encoded.await.ok()?, (width, height));
        data["partial_image_index"] = index.into();
        Some(self.event("partial_image", &data))
    }

    /// A finished picture that was not sent.
    fn missed(&self) -> Option<String> {
        let pictures = self.call.job().ok()?.entry.pictures;
        pictures.into_iter().find(|id| !self.completed.contains(id))
    }

    async fn completed(&mut self, id: String) -> Option<Event> {
        self.completed.push(id.clone());
        let app = self.app.clone();
        let read = blocking(move || {
            let path = app.store.source(&id).ok_or_else(Problem::internal)?;
            let bytes = std::fs::read(path).map_err(|_| Problem::internal())?;
            let size = app.store.describe(&id).map(|picture| (picture.width, picture.height));
            Ok((to_base64(&bytes), size))
        });
        let (encoded, size) = read.await.ok()?;
        let mut data = self.data("completed", &encoded, size.or(self.size).unwrap_or_default());
        data["usage"] = usage();
        Some(self.event("completed", &data))
    }

    /// What went wrong, if the job did not draw all pictures.
    fn failure(&self) -> Option<Event> {
        let problem = match self.call.job() {
            Ok(job) if job.entry.state == crate::store::State::Done => return None,
            Ok(job) => job.entry.error.map(|error| (error.code, error.message)),
            Err(problem) => Some((problem.code.to_owned(), problem.message)),
        };
        let (code, message) =
            problem.unwrap_or_else(|| ("cancelled".to_owned(), "the job was cancelled".to_owned()));
        let error = json!({ "type": "server_error", "code": code, "message": message, "param": null });
        let data = json!({ "type": "error", "error": error });
        Event::default().event("error").json_data(data).ok()
    }

    fn data(&self, name: &str, encoded: &str, (width, height): (usize, usize)) -> Value {
        json!({
            "type": format!("{}.{name}", self.kind),
            "b64_json": encoded,
            "created_at": seconds(SystemTime::now()),
            "size": format!("{width}x{height}"),
            "quality": "auto",
            "background": "opaque",
            "output_format": self.output_format,
        })
    }

    fn event(&self, name: &str, data: &Value) -> Event {
        Event::default().event(format!("{}.{name}", self.kind)).json_data(data).unwrap_or_default()
    }
}
