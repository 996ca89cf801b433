//! Bodies of requests: read in bounded time and memory, and parsed.

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{app::App, limits::SMALL_BODY, problem::Problem};

/// A body, and its right to be large, which ends with it.
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    _large: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// When it is longer, or takes longer than the server waits.
pub(crate) async fn read(app: &App, body: Body, limit: usize) -> Result<ReadBody, Problem> {
    let slow =
        || Problem::new(StatusCode::REQUEST_TIMEOUT, "request.invalid", "the body did not arrive in time");
    timeout(app.limits.body_time, collect(app, body, limit)).await.map_err(|_| slow())?
}

async fn collect(app: &App, mut body: Body, limit: usize) -> Result<ReadBody, Problem> {
    let mut bytes = BytesMut::new();
    let mut large = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::malformed("the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(Problem::too_large(format!("the body has more than {limit} bytes")));
        }
        if bytes.len() + data.len() > SMALL_BODY && large.is_none() {
            let permit = app.large_bodies.clone().acquire_owned().await;
            large = Some(permit.map_err(|_| Problem::internal())?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(ReadBody { bytes: bytes.freeze(), _large: large })
}

/// What was parsed of a body, which may be as large: the right to that ends with it.
pub(crate) struct Held<T> {
    pub(crate) value: T,
    _large: Option<OwnedSemaphorePermit>,
}

/// A body of JSON that may have pictures.
///
/// # Errors
/// As [`read`], and when it is no JSON of the expected form.
pub(crate) async fn large_json<T: DeserializeOwned>(app: &App, body: Body) -> Result<Held<T>, Problem> {
    let body = read(app, body, app.limits.request_bytes()).await?;
    Ok(Held { value: parse(&body.bytes)?, _large: body._large })
}

/// A small body of JSON.
///
/// # Errors
/// As [`read`], and when it is no JSON of the expected form.
pub(crate) async fn json<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Problem> {
    let body = read(app, body, SMALL_BODY).await?;
    parse(&body.bytes)
}

/// `bytes` as JSON.
///
/// # Errors
/// When they are no JSON of the expected form; the field is named where it is known.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = error.to_string();
        match error.is_data() {
            true => Problem {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                field: quoted(&message),
                ..Problem::malformed(sentence(&message))
            },
            false => Problem::malformed(format!("the body is not valid JSON: {}", sentence(&message))),
        }
    })
}

/// The first name between back quotes.
fn quoted(message: &str) -> Option<String> {
    let (_, rest) = message.split_once('`')?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

/// A message of a bounded length, without what a terminal could obey.
fn sentence(message: &str) -> String {
    sdq::text::printable(message, 400).into_owned()
}
