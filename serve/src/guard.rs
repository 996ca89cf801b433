//! Who may use the server: the token, the name under which it is called, and the page that calls it.
//!
//! At loopback there is no token by default, so a page of another site must not reach the server through the browser of
//! its user: the `Host` header must be a name of this computer (a DNS entry that points here is another name), and
//! `Origin` must be this server's own or one that is allowed.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{Options, ServeError, app::App, problem::Problem};

/// The cookie with the token.
pub(crate) const COOKIE: &str = "sdq_token";
/// Longest token in bytes.
const MAX_TOKEN: usize = 256;

/// Checks of requests.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The hash of the token, so that the time of a comparison tells nothing of its length.
    token: Option<[u8; 32]>,
    /// Origins of other pages that may use the server.
    origins: Vec<String>,
    /// Names under which the server may be called; `None` where the token decides.
    hosts: Option<Vec<String>>,
}

/// Refuses options with which anyone could use the server.
pub(crate) fn check(options: &Options) -> Result<(), ServeError> {
    match &options.token {
        None if !options.listen.ip().is_loopback() => {
            return Err(ServeError::TokenRequired { address: options.listen });
        }
        Some(token)
            if !(1..=MAX_TOKEN).contains(&token.len())
                || !token.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            return Err(ServeError::Token);
        }
        _ => {}
    }
    match options.allow_origin.iter().find(|origin| host_of(origin).is_none()) {
        Some(origin) => Err(ServeError::Origin { origin: origin.clone() }),
        None => Ok(()),
    }
}

/// Name and port of an origin.
fn host_of(origin: &str) -> Option<&str> {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    let uri: Uri = origin.parse().ok()?;
    let is_bare = uri.authority().is_some_and(|authority| authority.as_str() == host);
    (is_bare && !host.contains('@')).then_some(host)
}

impl Guard {
    pub(crate) fn new(token: Option<&str>, allow_origin: &[String], address: SocketAddr) -> Guard {
        let port = address.port();
        let hosts = address.ip().is_loopback().then(|| {
            let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
            let address = address.ip().to_string();
            let names = own.into_iter().chain([address]);
            let mut hosts: Vec<String> = names.map(|name| format!("{name}:{port}")).collect();
            if port == 80 {
                // Browsers leave the usual port out.
                hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
            }
            hosts.extend(allow_origin.iter().filter_map(|origin| host_of(origin)).map(str::to_lowercase));
            hosts
        });
        let origins = allow_origin.iter().map(|origin| origin.to_lowercase()).collect();
        Guard { token: token.map(hash), origins, hosts }
    }

    /// Whether clients need a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether `given` is the token.
    pub(crate) fn is_token(&self, given: &str) -> bool {
        self.token.is_none_or(|token| bool::from(hash(given).ct_eq(&token)))
    }

    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
        let is_own = host.is_some_and(|host| hosts.iter().any(|own| own.eq_ignore_ascii_case(host)));
        match is_own && headers.get_all(header::HOST).iter().count() <= 1 {
            true => Ok(()),
            false => {
                Err(forbidden("the Host header names another server; --allow-origin allows further names"))
            }
        }
    }

    /// The origin that an answer is to be shared with, if the request comes from another page.
    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
        let refused = || forbidden("a page of another origin sent the request; --allow-origin allows it");
        let Some(value) = headers.get(header::ORIGIN) else {
            let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
            let is_navigation = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
            return match site {
                // Pictures of other pages have no Origin header.
                Some(b"cross-site" | b"same-site") if !is_navigation => Err(refused()),
                _ => Ok(None),
            };
        };
        let origin = value.to_str().map_err(|_| refused())?.to_lowercase();
        if self.origins.contains(&origin) {
            return Ok(Some(value.clone()));
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        match host.is_some_and(|host| host_of(&origin).is_some_and(|own| own.eq_ignore_ascii_case(host))) {
            true => Ok(None),
            false => Err(refused()),
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let basic = authorization.and_then(|value| value.strip_prefix("Basic ")).and_then(password);
        let is_known = bearer.is_some_and(|given| self.is_token(given.trim()))
            || basic.is_some_and(|given| self.is_token(&given))
            || cookie(headers).is_some_and(|given| self.is_token(given));
        match self.token.is_none() || is_known {
            true => Ok(()),
            false => Err(unauthorized()),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The password of HTTP's basic authentication, which is all that some clients of the web UI can send.
fn password(credentials: &str) -> Option<String> {
    if credentials.len() > 4 * MAX_TOKEN {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

fn forbidden(message: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", message)
}

pub(crate) fn unauthorized() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "the token of this server is missing or wrong")
}

/// Paths that need no token: the page, which asks for it, and what tells that the server is there.
fn is_open(path: &str) -> bool {
    path == "/"
        || path == "/health"
        || path == "/api/v1/session"
        || path.starts_with("/assets/")
        || path == "/favicon.ico"
}

/// The checks of every request, and the headers of every answer.
pub(crate) async fn check_request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let checked = app.guard.check_host(headers, request.uri()).and_then(|()| app.guard.check_origin(headers));
    let shared_with = match checked {
        Ok(shared_with) => shared_with,
        Err(problem) => return problem.into_response(),
    };
    let is_preflight =
        request.method() == Method::OPTIONS && headers.contains_key("access-control-request-method");
    let path = request.uri().path();
    let mut response = match () {
        // Browsers send no token with it.
        () if is_preflight && shared_with.is_some() => StatusCode::NO_CONTENT.into_response(),
        () if !is_open(path) && request.method() != Method::OPTIONS => match app.guard.check_token(headers) {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        },
        () => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if let Some(origin) = shared_with {
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let (methods, allowed) = ("GET, POST, DELETE, OPTIONS", "authorization, content-type, last-event-id");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>, address: &str) -> Guard {
        Guard::new(token, &["https://example.org".to_owned()], address.parse().unwrap())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_names_of_this_computer_are_answered_at_loopback() {
        let guard = guard(None, "127.0.0.1:7860");
        let uri = Uri::from_static("/");
        for (host, is_own) in [
            ("127.0.0.1:7860", true),
            ("localhost:7860", true),
            ("LOCALHOST:7860", true),
            ("[::1]:7860", true),
            ("example.org", true),
            ("localhost", false),
            ("localhost:7861", false),
            ("evil.example:7860", false),
            ("127.0.0.1.evil.example:7860", false),
            ("", false),
        ] {
            assert_eq!(guard.check_host(&headers(&[("host", host)]), &uri).is_ok(), is_own, "{host}");
        }
        assert!(guard.check_host(&HeaderMap::new(), &uri).is_err());
        let mut twice = headers(&[("host", "localhost:7860")]);
        twice.append("host", "evil.example".parse().unwrap());
        assert!(guard.check_host(&twice, &uri).is_err());
        let open = super::Guard::new(Some("x"), &[], "0.0.0.0:7860".parse().unwrap());
        assert!(open.check_host(&headers(&[("host", "my-computer:7860")]), &uri).is_ok());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let guard = guard(None, "127.0.0.1:7860");
        let with = |origin: &str| headers(&[("host", "127.0.0.1:7860"), ("origin", origin)]);
        assert_eq!(guard.check_origin(&with("http://127.0.0.1:7860")).unwrap(), None);
        assert!(guard.check_origin(&with("https://example.org")).unwrap().is_some());
        for origin in
            ["null", "http://127.0.0.1", "http://127.0.0.1:7861", "https://evil.example", "file://", ""]
        {
            assert!(guard.check_origin(&with(origin)).is_err(), "{origin}");
        }
        let fetched = |site: &str, mode: &str| headers(&[("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        assert!(guard.check_origin(&fetched("cross-site", "no-cors")).is_err());
        assert!(guard.check_origin(&fetched("cross-site", "navigate")).is_ok());
        assert!(guard.check_origin(&fetched("same-origin", "cors")).is_ok());
    }

    #[test]
    fn the_token_comes_in_three_ways() {
        let guard = guard(Some("s3cret"), "0.0.0.0:7860");
        for (name, value) in [
            ("authorization", "Bearer s3cret"),
            ("authorization", "Basic dXNlcjpzM2NyZXQ="),
            ("cookie", "a=b; sdq_token=s3cret"),
        ] {
            assert!(guard.check_token(&headers(&[(name, value)])).is_ok(), "{value}");
        }
        for (name, value) in [
            ("authorization", "Bearer s3cre"),
            ("authorization", "Bearer s3cret2"),
            ("authorization", "Basic s3cret"),
            ("authorization", "s3cret"),
            ("cookie", "sdq_token="),
            ("cookie", "xsdq_token=s3cret"),
            ("x-token", "s3cret"),
        ] {
            assert_eq!(guard.check_token(&headers(&[(name, value)])).unwrap_err().status, 401, "{value}");
        }
        assert!(
            super::Guard::new(None, &[], "127.0.0.1:1".parse().unwrap())
                .check_token(&HeaderMap::new())
                .is_ok()
        );
    }

    #[test]
    fn an_origin_is_scheme_and_host() {
        for origin in ["https://a.example", "http://127.0.0.1:8000", "http://[::1]:80"] {
            assert!(host_of(origin).is_some(), "{origin}");
        }
        for text in [
            "a.example",
            "https://",
            "https://a/b",
            "https://a/",
            "ftp://a",
            "*",
            "https://u@a",
            "http://a b",
        ] {
            assert!(host_of(text).is_none(), "{text}");
        }
    }
}
