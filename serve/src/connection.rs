//! Connections: how many, how long they may take for a request, and their end.

use std::{convert::Infallible, io, net::TcpListener, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, response::IntoResponse as _};
use futures_util::FutureExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use sdq::Cancel;
use tokio::{sync::Semaphore, time::sleep};
use tower::Service as _;

use crate::{
    LOOK, PATIENCE,
    app::{App, router},
    patient::Patient,
    problem::Problem,
};

/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Most bytes of a request's head, and of the part of a body that is read ahead.
const MAX_HEAD: usize = 32 << 10;
/// After an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections of `listener` until `stop` is used.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener, stop: &Cancel) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(app.limits.connections));
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.head_time)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    let router = router(app.clone());
    let stopped = stopped(stop);
    tokio::pin!(stopped);
    loop {
        let accept = async {
            // Whoever comes when all places are taken waits in the system's queue.
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stopped => break,
        };
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            sleep(PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            answer(router.clone(), request.map(Body::new))
        });
        let stream = TokioIo::new(Patient::new(stream, app.limits.answer_time));
        let connection = graceful.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            // A client that does not speak HTTP, is too slow, or goes away.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    app.queue.close();
    tokio::select! {
        () = graceful.shutdown() => {}
        () = sleep(PATIENCE) => {}
    }
    Ok(())
}

/// The answer to a request; a panic is one, too.
async fn answer(mut router: axum::Router, request: Request) -> Result<axum::response::Response, Infallible> {
    let answered = AssertUnwindSafe(async move { router.call(request).await }).catch_unwind().await;
    Ok(answered
        .unwrap_or_else(|_| Ok(Problem::internal().into_response()))
        .unwrap_or_else(|never| match never {}))
}

/// Returns when `stop` is used.
async fn stopped(stop: &Cancel) {
    while !stop.is_cancelled() {
        sleep(LOOK).await;
    }
}
