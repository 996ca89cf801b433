//! Many clients at once, some of which go away, and a server that is killed again and again.
//!
//! In the suite for seconds; `SDQ_SERVE_LOAD=200` sends so many requests from 50 connections, and `SDQ_SERVE_JOBS=1000`
//! draws so many pictures.

#![cfg(target_os = "linux")]

mod support;

use std::{
    collections::HashMap,
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sdq::Cancel;
use sdq_serve::Server;
use serde_json::{Value, json};
use support::{PATIENCE, copy_folder, options};

/// Names the folder of a server that runs in a process of its own.
const FOLDER: &str = "SDQ_SERVE_FOLDER";
/// The file in which such a server writes its address.
const ADDRESS: &str = "address";

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Not a test: the server that the tests below start and kill.
#[test]
#[ignore = "a server for the tests of this file"]
fn server_of_its_own() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut options = options(folder.join("pictures"));
    options.model_dir = Some(folder.join("models"));
    options.limits.history = 10_000;
    options.limits.queue = 1000;
    let server = Server::open(options).unwrap();
    fs::write(folder.join("address.new"), server.address().to_string()).unwrap();
    fs::rename(folder.join("address.new"), folder.join(ADDRESS)).unwrap();
    server.run(&Cancel::new()).unwrap();
}

/// A server in another process.
struct Process {
    folder: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    fn start(folder: &Path) -> Process {
        Process { folder: folder.to_owned(), child: Mutex::new(spawn(folder)) }
    }

    fn restart(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        *child = spawn(&self.folder);
    }

    fn status(&self, key: &str) -> u64 {
        let id = self.child.lock().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn connect(&self) -> Option<TcpStream> {
        let address = fs::read_to_string(self.folder.join(ADDRESS)).ok()?;
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(stream)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Option<TcpStream> {
        let mut stream = self.connect()?;
        let host = stream.peer_addr().ok()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        Some(stream)
    }

    /// Status and JSON of an answer; `None` if the server went away.
    fn call(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut bytes = Vec::new();
        self.send(method, path, body)?.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.get(9..12)?.parse().ok()?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).ok()? };
        Some((status, body))
    }

    /// The same for a server that is there.
    fn get(&self, path: &str) -> Value {
        let started = Instant::now();
        loop {
            if let Some((200, body)) = self.call("GET", path, &Value::Null) {
                return body;
            }
            assert!(started.elapsed() < PATIENCE, "no answer at {path}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn until_idle(&self) {
        let started = Instant::now();
        loop {
            let queue = &self.get("/api/v1/status")["queue"];
            if queue["waiting"] == 0 && queue["running"].as_array().unwrap().is_empty() {
                return;
            }
            assert!(started.elapsed() < 20 * PATIENCE, "{queue}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// All jobs.
    fn jobs(&self) -> Vec<Value> {
        let mut jobs: Vec<Value> = Vec::new();
        loop {
            let before =
                jobs.last().map(|job| format!("&before={}", job["id"].as_str().unwrap())).unwrap_or_default();
            let page = self.get(&format!("/api/v1/jobs?limit=200{before}"));
            let page = page["jobs"].as_array().unwrap();
            if page.is_empty() {
                return jobs;
            }
            jobs.extend(page.iter().cloned());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    let _ = fs::remove_file(folder.join(ADDRESS));
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "server_of_its_own", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !folder.join(ADDRESS).exists() {
        assert!(started.elapsed() < PATIENCE, "the server does not start");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn nothing_is_lost_and_nothing_doubled() {
    let requests = number("SDQ_SERVE_LOAD", 40);
    let (clients, kills) = (requests.div_ceil(4).min(50), requests.div_ceil(20));
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path());
    let (next, heard) = (AtomicUsize::new(0), Mutex::new(Vec::<String>::new()));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= requests {
                            return;
                        }
                        one_request(&process, index, &heard);
                    }
                })
            })
            .collect();
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(700));
            process.restart();
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    process.until_idle();
    for job in process.jobs() {
        if job["resumable"] == true {
            let path = format!("/api/v1/jobs/{}/resume", job["id"].as_str().unwrap());
            assert_eq!(process.call("POST", &path, &json!({})).unwrap().0, 200);
        }
    }
    process.until_idle();
    check(&process, &heard.into_inner().unwrap(), folder.path());
}

/// The state of a job when it has begun, and later.
fn begun(process: &Process, job: &Value) -> Value {
    loop {
        let found = process.get(&format!("/api/v1/jobs/{}", job["id"].as_str().unwrap()));
        if found["state"] != "waiting" {
            return found;
        }
    }
}

#[test]
fn what_a_killed_server_was_doing_is_done_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    copy_folder(&published, &folder.path().join("models/published"));
    let process = Process::start(folder.path());
    let submit = |body: &Value| process.call("POST", "/api/v1/jobs", body).unwrap();
    let request = json!({ "prompt": "a red apple", "width": 64, "height": 64, "steps": 200, "seed": 5 });
    let draw = json!({ "kind": "generate", "request": request });
    let drawing = submit(&draw).1;
    let path = format!("/api/v1/jobs/{}", drawing["id"].as_str().unwrap());
    while process.get(&path)["progress"]["step"].as_u64().is_none_or(|step| step < 3) {}
    process.restart();
    let found = process.get(&path);
    assert_eq!((&found["state"], &found["resumable"]), (&json!("interrupted"), &json!(true)), "{found}");
    assert_eq!(process.call("POST", &format!("{path}/resume"), &json!({})).unwrap().0, 200);
    let alone = submit(&draw).1;
    process.until_idle();
    let pixels = |job: &Value| {
        let job = process.get(&format!("/api/v1/jobs/{}", job["id"].as_str().unwrap()));
        let name = format!("pictures/{}.png", job["pictures"][0]["id"].as_str().unwrap());
        sdq::picture::read(folder.path().join(name)).unwrap()
    };
    assert_eq!(pixels(&drawing), pixels(&alone));

    let convert = json!({ "kind": "convert", "source": "published", "type": "mixed", "name": "small" });
    let converting = submit(&convert).1;
    begun(&process, &converting);
    process.restart();
    // Unless it was faster than the kill, there is no half of a model, and its name is free.
    let found = begun(&process, &converting);
    let is_interrupted = found["state"] == "interrupted";
    assert!(is_interrupted || found["state"] == "done", "{found}");
    assert_eq!(found["resumable"], false);
    let has_model = folder.path().join("models/small.sdq").exists();
    let (status, again) = submit(&convert);
    assert_eq!(status, if has_model { 422 } else { 201 }, "{again}");
    process.until_idle();
    let listed = process.get("/api/v1/models");
    assert_eq!(
        (&listed["models"][0]["id"], &listed["models"][0]["problem"]),
        (&json!("small"), &Value::Null)
    );
    let left = fs::read_dir(folder.path().join("models")).unwrap().count();
    assert_eq!(left, 2, "the published model, and one converted");
}

/// A job, a call, one of them with a client that goes away, or a job that is cancelled.
fn one_request(process: &Process, index: usize, heard: &Mutex<Vec<String>>) {
    let request =
        json!({ "prompt": "a red apple", "width": 32, "height": 32, "steps": 3 + index % 7, "seed": index });
    let call =
        json!({ "prompt": "a red apple", "width": 32, "height": 32, "steps": 3 + index % 7, "seed": index });
    match index % 5 {
        0 => drop(process.call("POST", "/sdapi/v1/txt2img", &call)),
        1 => {
            let stream = process.send("POST", "/sdapi/v1/txt2img", &call);
            thread::sleep(Duration::from_millis(20));
            drop(stream);
        }
        kind => {
            let body = json!({ "kind": "generate", "request": request });
            let Some((201, job)) = process.call("POST", "/api/v1/jobs", &body) else { return };
            let id = job["id"].as_str().unwrap().to_owned();
            if kind == 2 {
                process.call("POST", &format!("/api/v1/jobs/{id}/cancel"), &json!({}));
            }
            heard.lock().unwrap().push(id);
        }
    }
}

fn check(process: &Process, heard: &[String], folder: &Path) {
    let jobs = process.jobs();
    let by_id: HashMap<&str, &Value> = jobs.iter().map(|job| (job["id"].as_str().unwrap(), job)).collect();
    assert_eq!(by_id.len(), jobs.len(), "a job is listed twice");
    for id in heard {
        assert!(by_id.contains_key(id.as_str()), "{id} is lost");
    }
    let mut pictures = Vec::new();
    for job in &jobs {
        let state = job["state"].as_str().unwrap();
        assert!(matches!(state, "done" | "cancelled"), "{job}");
        let drawn = job["pictures"].as_array().unwrap();
        assert_eq!(drawn.len(), usize::from(state == "done"), "{job}");
        pictures.extend(drawn.iter().map(|picture| format!("{}.png", picture["id"].as_str().unwrap())));
    }
    let files = fs::read_dir(folder.join("pictures")).unwrap().map(|entry| entry.unwrap());
    let names = files.map(|entry| entry.file_name().into_string().unwrap());
    let mut found: Vec<String> =
        names.filter(|name| name.ends_with(".png") && !name.starts_with('.')).collect();
    found.sort();
    pictures.sort();
    assert_eq!(found, pictures, "each picture belongs to one job");
}

#[test]
fn memory_and_threads_stay_as_they_are() {
    let jobs = number("SDQ_SERVE_JOBS", 40);
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path());
    let measured = |process: &Process| (process.status("RssAnon"), process.status("Threads"));
    let mut after_some = (0, 0);
    for index in 0..jobs {
        let body = json!({ "prompt": "a red apple", "width": 32, "height": 32, "steps": 1, "seed": index });
        let (status, _) = process.call("POST", "/sdapi/v1/txt2img", &body).unwrap();
        assert_eq!(status, 200);
        if index == jobs / 4 {
            after_some = measured(&process);
        }
    }
    let (memory, threads) = measured(&process);
    let grown = memory.saturating_sub(after_some.0);
    eprintln!(
        "after {jobs} jobs: {memory} KiB, {grown} more than after a quarter of them; {threads} threads"
    );
    assert!(grown < 8 << 10, "{grown} KiB more");
    // Threads for files come and go.
    assert!(threads <= after_some.1 + 8, "{threads} threads after {}", after_some.1);
}
