//! A server on a free port, and a client for it.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sdq::{
    Cancel, PipelineOptions,
    device::{self, Backend, Wanted},
};
use sdq_serve::{Limits, Options, Server};
use serde_json::{Value, json};

/// How long anything may take before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The device of all servers of a test program, which is measured once.
static DEVICE: LazyLock<Arc<dyn Backend>> =
    LazyLock::new(|| device::open(Wanted::Cpu, None, NonZeroUsize::new(2), Arc::new(|_| {})).unwrap());

/// A server in this process.
pub struct Running {
    pub address: SocketAddr,
    pub folder: Arc<tempfile::TempDir>,
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
}

/// Options for a server on a free port that writes to `folder`.
pub fn options(folder: PathBuf) -> Options {
    Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: None,
        allow_origin: Vec::new(),
        models: Vec::new(),
        model_dir: None,
        lora_dir: None,
        embedding_dir: None,
        output_dir: folder,
        pipeline: PipelineOptions { backend: Some(DEVICE.clone()), ..PipelineOptions::default() },
        parallel: NonZeroUsize::MIN,
        limits: Limits::default(),
    }
}

/// A server with the options that `change` makes.
pub fn start(change: impl FnOnce(&mut Options)) -> Running {
    start_in(Arc::new(tempfile::tempdir().unwrap()), change)
}

/// The same in a folder that an earlier server may have used.
pub fn start_in(folder: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Options)) -> Running {
    let mut options = options(folder.path().to_owned());
    change(&mut options);
    let server = Server::open(options).unwrap();
    let (address, stop) = (server.address(), Cancel::new());
    let own = stop.clone();
    let thread = thread::spawn(move || server.run(&own).unwrap());
    Running { address, folder, stop, thread: Some(thread) }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let agent = ureq::Agent::new_with_config(config.allow_non_standard_methods(true).build());
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body.is_empty() && method != "POST" {
            true => agent.run(request.body(()).unwrap()),
            false => agent.run(request.body(body).unwrap()),
        };
        let mut answer = answer.unwrap();
        let headers = answer.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        Answer {
            status: answer.status().as_u16(),
            headers: headers.collect(),
            bytes: answer.body_mut().with_config().limit(100 << 20).read_to_vec().unwrap(),
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], &[])
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], &[])
    }

    /// A job that draws with a few fast steps.
    pub fn draw(&self, request: Value) -> Value {
        let mut body = json!({ "kind": "generate", "request": { "prompt": "a red apple", "width": 32, "height": 32, "steps": 2 } });
        for (key, value) in request.as_object().unwrap() {
            body["request"][key] = value.clone();
        }
        self.post("/api/v1/jobs", &body).expect(201)
    }

    /// The job when it has ended.
    pub fn ended(&self, job: &Value) -> Value {
        let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
        self.until(&path, |job| !matches!(job["state"].as_str(), Some("waiting" | "running")))
    }

    /// The JSON at `path` as soon as `is_done` holds.
    pub fn until(&self, path: &str, is_done: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let found = self.get(path).expect(200);
            if is_done(&found) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{found}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The JSON of the answer to `body` as soon as `is_done` holds.
    pub fn until_answer(&self, path: &str, body: &Value, is_done: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let found = self.post(path, body).expect(200);
            if is_done(&found) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{found}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The pixels of a picture of the gallery.
    pub fn pixels(&self, picture: &Value) -> sdq::Picture {
        let bytes = self.get(picture["url"].as_str().unwrap()).bytes;
        let path = self.folder.path().join("answer.png");
        fs::write(&path, bytes).unwrap();
        let read = sdq::picture::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        read
    }

    /// A connection for bytes that no client library would send.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The events of a stream with their data, until it ends or `is_enough`.
    pub fn events(&self, path: &str, is_enough: impl Fn(&str, &Value) -> bool) -> Vec<(String, Value)> {
        self.stream("GET", path, &Value::Null, is_enough)
    }

    /// The same for a request with a body.
    pub fn stream(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        is_enough: impl Fn(&str, &Value) -> bool,
    ) -> Vec<(String, Value)> {
        use std::io::Write as _;
        let mut stream = self.connect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut events = Vec::new();
        let mut name = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            if let Some(found) = line.strip_prefix("event: ") {
                name = found.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
                let is_last = is_enough(&name, &data) || name == "end";
                events.push((name.clone(), data));
                if is_last {
                    return events;
                }
            } else if line == "0" {
                return events;
            }
        }
        events
    }
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The bytes of a PNG picture of one colour.
pub fn png(width: usize, height: usize, value: u8) -> Vec<u8> {
    let picture = sdq::Picture { width, height, rgb: vec![value; width * height * 3] };
    sdq::picture::to_bytes(&picture, sdq::picture::PictureFormat::Png, &[]).unwrap()
}

/// `bytes` in base64.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The bytes of `text` in base64.
pub fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
