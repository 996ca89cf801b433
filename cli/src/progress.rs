//! Progress: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Minimum time between plain lines, so that a log stays readable.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of a task of known length.
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    length: u64,
    started: Option<Instant>,
    last_line: Option<Instant>,
}

impl Progress {
    /// A task of `length` units, such as "step".
    pub(crate) fn new(unit: &'static str, length: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let template = format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {unit}s, {{pace}}, {{eta}} left");
        let pace = move |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            let seconds = state.elapsed().as_secs_f64() / state.pos().max(1) as f64;
            let _ = write!(out, "{seconds:.2} s/{unit}");
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.with_key("pace", pace));
        }
        Progress { bar, unit, length, started: None, last_line: None }
    }

    /// Sets the number of finished units. The clock starts with the first call.
    pub(crate) fn set(&mut self, done: u64, what: &str) {
        let started = *self.started.get_or_insert_with(|| {
            self.bar.reset_elapsed();
            Instant::now()
        });
        self.bar.set_message(what.to_owned());
        self.bar.set_position(done);
        if self.bar.is_hidden() && done > 0 {
            self.line(done, what, started);
        }
    }

    /// Runs `print` while the bar is hidden.
    pub(crate) fn above(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&mut self, done: u64, what: &str, started: Instant) {
        let now = Instant::now();
        let due = self.last_line.is_none_or(|last| now.duration_since(last) >= LINE_INTERVAL);
        if due || done == self.length {
            self.last_line = Some(now);
            let pace = started.elapsed().as_secs_f64() / done as f64;
            let left = pace * self.length.saturating_sub(done) as f64;
            let (unit, length) = (self.unit, self.length);
            note!("{what}: {unit} {done}/{length}, {pace:.2} s/{unit}, {left:.0} s left");
        }
    }
}
