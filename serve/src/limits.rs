//! Bounds of everything that a client can ask for.

use std::time::Duration;

/// Bounds of requests and of the server's own lists.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most pictures of one request.
    pub count: usize,
    /// Most denoising steps.
    pub steps: usize,
    /// Largest width in pixels.
    pub width: usize,
    /// Largest height in pixels.
    pub height: usize,
    /// Most bytes of an uploaded picture.
    pub upload_bytes: usize,
    /// Most bytes of all uploaded pictures that are kept. Those of jobs that have ended make room for new ones.
    pub uploads_bytes: u64,
    /// Most jobs that wait.
    pub queue: usize,
    /// Most open connections.
    pub connections: usize,
    /// Most streams of events.
    pub watchers: usize,
    /// Most ended jobs that are remembered; the oldest are forgotten, and their pictures stay.
    pub history: usize,
    /// Time for the head of a request, and between two requests on one connection.
    pub head_time: Duration,
    /// Time for the body of a request.
    pub body_time: Duration,
    /// Time in which a client has to take a part of an answer.
    pub answer_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            count: 64,
            steps: 500,
            width: 4096,
            height: 4096,
            upload_bytes: 24 << 20,
            uploads_bytes: 4 << 30,
            queue: 128,
            connections: 256,
            watchers: 64,
            history: 1000,
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(60),
            answer_time: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Most bytes of JSON with two uploaded pictures in base64.
    pub(crate) fn request_bytes(&self) -> usize {
        self.upload_bytes * 2 / 3 * 4 + SMALL_BODY
    }
}

/// Most bytes of a body without pictures.
pub(crate) const SMALL_BODY: usize = 1 << 20;

/// Most bodies larger than [`SMALL_BODY`] that are in memory at once.
pub(crate) const LARGE_BODIES: usize = 4;

impl Limits {
    /// Most memory that reading an uploaded picture may take: twice the largest picture in three bytes a pixel.
    pub(crate) fn picture_bytes(&self) -> u64 {
        let pixels = (self.width as u64).saturating_mul(self.height as u64);
        pixels.saturating_mul(4 + 3).clamp(16 << 20, sdq::picture::MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_documentation() {
        let documented =
            include_str!("../../docs/server.md").split_whitespace().collect::<Vec<_>>().join(" ");
        let limits = Limits::default();
        for figure in [
            format!(
                "{} pictures, {} steps, {}x{} pixels",
                limits.count, limits.steps, limits.width, limits.height
            ),
            format!("uploaded pictures of {} MiB", limits.upload_bytes >> 20),
            format!("in {} GiB at most", limits.uploads_bytes >> 30),
            format!("{} connections, {} watchers of jobs", limits.connections, limits.watchers),
            format!("{} seconds for the head of a request", limits.head_time.as_secs()),
            format!("{} for its body", limits.body_time.as_secs()),
            format!("{} for a client to take a part of the answer", limits.answer_time.as_secs()),
            format!("a queue of {}", limits.queue),
            format!("The last {} jobs", limits.history),
        ] {
            assert!(documented.contains(&figure), "docs/server.md: {figure}");
        }
    }
}
