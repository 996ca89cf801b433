//! Parts of a request's address, with problems in place of axum's own texts.

use axum::{
    extract::{FromRequestParts, Path as AxumPath, Query as AxumQuery},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The values after the question mark.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parsed = AxumQuery::<T>::from_request_parts(parts, state).await;
        let invalid = "a value after the question mark has the wrong type";
        parsed.map(|AxumQuery(values)| Query(values)).map_err(|_| Problem::malformed(invalid))
    }
}

/// The id in the path.
pub(crate) struct Path(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parsed = AxumPath::<String>::from_request_parts(parts, state).await;
        parsed.map(|AxumPath(id)| Path(id)).map_err(|_| Problem::not_found("there is nothing of this name"))
    }
}
