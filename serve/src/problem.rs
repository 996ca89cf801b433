//! Refusals and failures of requests, and their form in each of the three interfaces.

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use sdq::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Why a request has no result. Its texts name no local paths.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The part of the request, in its own spelling.
    pub(crate) field: Option<String>,
    /// Seconds after which it is worth trying again.
    pub(crate) retry_after: Option<u64>,
}

/// An error in this server's own interface.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetail,
}

/// The code of an error and a sentence about it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// Stable: a code of docs/errors.md, or one of the server's own, which docs/server.md lists.
    pub(crate) code: String,
    pub(crate) message: String,
    /// The part of the request that is to be changed.
    #[serde(default)]
    pub(crate) field: Option<String>,
}

/// The interfaces, which differ in the form of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Own,
    OpenAi,
    A1111,
}

impl Dialect {
    pub(crate) fn of_path(path: &str) -> Dialect {
        match path {
            path if path.starts_with("/v1/") => Dialect::OpenAi,
            path if path.starts_with("/sdapi/") => Dialect::A1111,
            _ => Dialect::Own,
        }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), field: None, retry_after: None }
    }

    /// A value of the request that is not valid.
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Problem {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "request.invalid", message);
        Problem { field: Some(field.into()), ..problem }
    }

    /// A request that cannot be read.
    pub(crate) fn malformed(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "request.invalid", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn internal() -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed")
    }

    /// The state of a job or a picture does not allow what is asked.
    pub(crate) fn conflict(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "request.invalid", message)
    }

    /// An error of the library, with its message as it may be shown to a client.
    pub(crate) fn of_library(error: &Error, message: String) -> Problem {
        let kind = error.kind();
        let status = match kind {
            ErrorKind::ModelNotFound => StatusCode::NOT_FOUND,
            ErrorKind::Cancelled => StatusCode::CONFLICT,
            ErrorKind::RequestInvalid
            | ErrorKind::OptionInvalid
            | ErrorKind::AddOnInvalid
            | ErrorKind::PictureInvalid
            | ErrorKind::ModelInvalid
            | ErrorKind::MemoryDoesNotFit => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let field = error.field().map(own_name);
        Problem { field, ..Problem::new(status, kind.code(), message) }
    }

    pub(crate) fn detail(&self) -> ErrorDetail {
        let (code, message) = (self.code.to_owned(), self.message.clone());
        ErrorDetail { code, message, field: self.field.clone() }
    }

    /// The answer in the form of `dialect`.
    pub(crate) fn answer(self, dialect: Dialect) -> Response<Body> {
        let body = match dialect {
            Dialect::Own => serde_json::to_value(ErrorBody { error: self.detail() }).unwrap_or_default(),
            Dialect::OpenAi => self.of_openai(),
            // The web UI's own handler of exceptions writes the first four.
            Dialect::A1111 => json!({
                "error": self.code, "detail": self.message, "body": "", "errors": self.message, "field": self.field,
            }),
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    fn of_openai(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.field, "code": self.code } })
    }
}

/// The name of a field of the library's request in the JSON of this server.
fn own_name(field: &str) -> String {
    match field {
        "init-image" => "start_picture".to_owned(),
        "no-paste" => "paste".to_owned(),
        other => other.replace('-', "_"),
    }
}

impl IntoResponse for Problem {
    /// In the own form; the outermost layer writes it again in the form of the path's interface.
    fn into_response(self) -> Response<Body> {
        let mut response = self.clone().answer(Dialect::Own);
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_has_its_own_form() {
        let problem = Problem { retry_after: Some(7), ..Problem::invalid("width", "too wide") };
        let openai = problem.of_openai();
        assert_eq!(openai["error"]["param"], "width");
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        for dialect in [Dialect::Own, Dialect::OpenAi, Dialect::A1111] {
            let response = problem.clone().answer(dialect);
            assert_eq!(response.status(), 422);
            assert_eq!(response.headers()["retry-after"], "7");
        }
        assert_eq!(Dialect::of_path("/v1/models"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/sdapi/v1/options"), Dialect::A1111);
        assert_eq!(Dialect::of_path("/api/v1/jobs"), Dialect::Own);
    }
}
