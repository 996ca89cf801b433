//! Clients that mean harm: other sites, wrong tokens, requests that are no requests, and ones that never end.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    thread,
    time::Duration,
};

use sdq_serve::{ServeError, Server};
use serde_json::json;
use support::{base64, options, png, start};

/// The status of the answer to `bytes`; `None` if the server closes the connection without one.
fn answer(stream: &mut TcpStream, bytes: &[u8]) -> Option<u16> {
    // The server may have closed the connection already.
    let _ = stream.write_all(bytes);
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

#[test]
fn other_computers_need_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut open = options(folder.path().to_owned());
    open.listen = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into();
    assert!(matches!(Server::open(open.clone()), Err(ServeError::TokenRequired { .. })));
    for token in ["", "with space", "é", &"x".repeat(257)] {
        open.token = Some(token.to_owned());
        assert!(matches!(Server::open(open.clone()), Err(ServeError::Token)), "{token}");
    }
    open.token = Some("s3cret".to_owned());
    Server::open(open).unwrap();
    let server = start(|options| options.token = Some("s3cret".to_owned()));
    for path in [
        "/api/v1/status",
        "/api/v1/pictures",
        "/v1/models",
        "/sdapi/v1/options",
        "/api/v1/jobs/x/events",
        "/none",
    ] {
        let refused = server.get(path);
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        let known = server.request("GET", path, &[("authorization", "Bearer s3cret")], &[]);
        assert_ne!(known.status, 401, "{path}");
    }
    for path in ["/", "/health"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.post("/api/v1/session", &json!({ "token": "wrong" })).status, 401);
    let set = server.post("/api/v1/session", &json!({ "token": "s3cret" }));
    assert_eq!(set.status, 204);
    let cookie = set.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(server.request("GET", "/api/v1/status", &[("cookie", cookie)], &[]).status, 200);
}

#[test]
fn other_sites_reach_nothing() {
    let server = start(|options| options.allow_origin = vec!["https://friend.example".to_owned()]);
    let own = format!("http://{}", server.address);
    let job = json!({ "kind": "generate", "request": { "prompt": "x" } }).to_string();
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        for path in ["/api/v1/jobs", "/sdapi/v1/txt2img", "/v1/images/generations", "/sdapi/v1/interrupt"] {
            let refused = server.request(
                "POST",
                path,
                &[("origin", origin), ("content-type", "text/plain")],
                job.as_bytes(),
            );
            assert_eq!(refused.status, 403, "{origin} {path}");
            assert_eq!(refused.header("access-control-allow-origin"), None);
        }
        let preflight = [("origin", origin), ("access-control-request-method", "POST")];
        assert_eq!(server.request("OPTIONS", "/api/v1/jobs", &preflight, &[]).status, 403);
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost"] {
        let mut stream = server.connect();
        let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(answer(&mut stream, request.as_bytes()), Some(403), "{host}");
    }
    assert_eq!(server.request("GET", "/api/v1/status", &[("origin", &own)], &[]).status, 200);
    let friend = server.request("GET", "/api/v1/status", &[("origin", "https://friend.example")], &[]);
    assert_eq!(friend.header("access-control-allow-origin"), Some("https://friend.example"));
    let preflight = [("origin", "https://friend.example"), ("access-control-request-method", "POST")];
    assert_eq!(server.request("OPTIONS", "/api/v1/jobs", &preflight, &[]).status, 204);
    assert!(server.get("/api/v1/jobs").expect(200)["jobs"].as_array().unwrap().is_empty());
}

#[test]
fn bodies_are_bounded() {
    let server = start(|options| {
        options.limits.upload_bytes = 10_000;
        options.limits.width = 256;
        options.limits.height = 256;
    });
    let large = base64(&vec![0; 20_000]);
    let job = json!({ "kind": "generate", "request": { "prompt": "x", "start_picture": { "data": large } } });
    assert_eq!(server.post("/api/v1/jobs", &job).status, 413);
    assert_eq!(server.request("POST", "/api/v1/recipe", &[], &vec![0; 20_000]).status, 413);
    // A body of which only the length is large is refused before it comes.
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/images/generations HTTP/1.1\r\nHost: {}\r\nContent-Length: 99999999999\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&[b' '; 1 << 16]).is_ok() {
        sent += 1 << 16;
    }
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    // Few bytes, many pixels.
    let bomb = base64(&png(4000, 4000, 0)[..]);
    let server = start(|options| {
        options.limits.width = 256;
        options.limits.height = 256;
    });
    let job = json!({ "kind": "generate", "request": { "prompt": "x", "start_picture": { "data": bomb } } });
    let refused = server.post("/api/v1/jobs", &job).expect(422);
    assert_eq!(refused["error"]["field"], "start_picture", "{refused}");
}

#[test]
fn slow_clients_are_dropped_and_others_served() {
    let server = start(|options| {
        options.limits.head_time = Duration::from_millis(300);
        options.limits.body_time = Duration::from_millis(300);
        options.limits.connections = 8;
    });
    let mut slow: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HT").unwrap();
    }
    // All places are taken until they are dropped.
    assert_eq!(server.get("/health").status, 200);
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    let mut stream = server.connect();
    let head =
        format!("POST /api/v1/tokens HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\n{{", server.address);
    assert_eq!(answer(&mut stream, head.as_bytes()), Some(408));
}

#[test]
fn a_client_that_takes_no_answer_loses_its_place() {
    let server = start(|options| {
        options.limits.answer_time = Duration::from_millis(300);
        options.limits.connections = 1;
    });
    let mut stream = server.connect();
    let request = format!("GET /api/v1/openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    // Answers fill the buffers of the system, until no request is read any more.
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..10_000 {
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(server.get("/health").status, 200);
}

/// Pseudo-random bytes.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// 10⁴ of them: a few hundred here, all with `SDQ_SERVE_MALFORMED`.
#[test]
fn malformed_requests_do_no_harm() {
    let count = std::env::var("SDQ_SERVE_MALFORMED").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    let server = start(|options| options.limits.head_time = Duration::from_millis(200));
    let host = server.address;
    let bodies = [
        json!({ "kind": "generate", "request": { "prompt": "x", "width": 8, "height": 8, "steps": 1 } })
            .to_string(),
        json!({ "prompt": "x", "steps": 1, "width": 8, "height": 8, "init_images": [base64(&png(8, 8, 1))] })
            .to_string(),
        json!({ "prompt": "x", "size": "8x8", "n": 1 }).to_string(),
    ];
    let paths = [
        "/api/v1/jobs",
        "/sdapi/v1/img2img",
        "/v1/images/generations",
        "/api/v1/tokens",
        "/v1/images/edits",
        "/api/v1/plan",
    ];
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut answered = 0;
    for _ in 0..count {
        let (path, body) = (paths[noise.below(paths.len())], &bodies[noise.below(bodies.len())]);
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
        for _ in 0..1 + noise.below(8) {
            if request.len() < 2 {
                break;
            }
            let at = noise.below(request.len());
            match noise.below(4) {
                0 => request[at] = noise.next() as u8,
                1 => drop(request.remove(at)),
                2 => request.insert(at, noise.next() as u8),
                _ => request.truncate(at + 1),
            }
        }
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let status = answer(&mut stream, &[]);
        assert!(
            status.is_none_or(|status| status < 500 || status == 503),
            "{status:?}: {}",
            String::from_utf8_lossy(&request)
        );
        answered += usize::from(status.is_some());
    }
    assert!(answered > count / 10, "only {answered} of {count} were answered");
    let done = server.ended(&server.draw(json!({})));
    assert_eq!(done["state"], "done", "{done}");
}

#[test]
fn watchers_are_bounded() {
    let server = start(|options| options.limits.watchers = 2);
    let job = server.draw(json!({ "steps": 400, "width": 64, "height": 64 }));
    let path = format!("/api/v1/jobs/{}/events", job["id"].as_str().unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    let mut watchers: Vec<TcpStream> = (0..2).map(|_| server.connect()).collect();
    for watcher in &mut watchers {
        assert_eq!(answer(watcher, request.as_bytes()), Some(200));
    }
    assert_eq!(server.get(&path).status, 503);
    drop(watchers);
    // Their places are free when the server notices.
    for _ in 0..1000 {
        let mut stream = server.connect();
        if answer(&mut stream, request.as_bytes()) == Some(200) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the places of watchers that have gone are still taken");
}

#[test]
fn a_call_whose_client_has_gone_is_cancelled() {
    let server = start(|_| {});
    for (path, body) in [
        ("/sdapi/v1/txt2img", json!({ "prompt": "x", "steps": 400, "width": 64, "height": 64 })),
        ("/v1/images/generations", json!({ "prompt": "x", "steps": 400, "size": "64x64" })),
        ("/v1/images/generations", json!({ "prompt": "x", "steps": 400, "size": "64x64", "stream": true })),
    ] {
        let mut stream = server.connect();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            server.address,
            body.len()
        )
        .unwrap();
        server.until("/api/v1/jobs?state=running", |jobs| {
            jobs["jobs"]
                .as_array()
                .is_some_and(|jobs| jobs.iter().any(|job| job["progress"]["done"].as_u64() > Some(0)))
        });
        drop(stream);
        let jobs = server.until("/api/v1/jobs", |jobs| jobs["jobs"][0]["state"] == "cancelled");
        assert_eq!(jobs["jobs"][0]["resumable"], false, "nobody would resume it");
    }
}
