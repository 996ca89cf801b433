//! The interface of sdq's own, `/api/v1`: jobs as resources, and everything that the page shows.

pub(crate) mod events;
mod jobs;
pub(crate) mod lists;
pub(crate) mod pictures;
mod plan;
mod recipes;
mod status;

use std::sync::Arc;

use axum::{extract::State, http::header, response::IntoResponse, routing::get};
use utoipa::{Modify, OpenApi, openapi::security};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// The document of the interface.
#[derive(OpenApi)]
#[openapi(
    info(title = "sdq", description = "Draws pictures from words on this machine. docs/server.md explains the interface."),
    modifiers(&Token)
)]
pub(crate) struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = security::HttpBuilder::new().scheme(security::HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", security::SecurityScheme::Http(bearer));
    }
}

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::session))
        .routes(routes!(lists::models))
        .routes(routes!(lists::schedulers))
        .routes(routes!(lists::loras))
        .routes(routes!(lists::embeddings))
        .routes(routes!(plan::tokens))
        .routes(routes!(plan::plan))
        .routes(routes!(recipes::recipe))
        .routes(routes!(recipes::recipe_of_picture))
        .routes(routes!(jobs::list, jobs::create))
        .routes(routes!(jobs::get, jobs::forget))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::resume))
        .routes(routes!(events::events))
        .routes(routes!(pictures::list))
        .routes(routes!(pictures::get, pictures::remove))
        .route("/api/v1/openapi.json", get(openapi))
}

async fn openapi(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone())
}
