//! The library's events on standard error: notes as lines, tasks as a bar.

use sdq::{Event, Watch};

use crate::{interrupt, progress::Progress};

/// Runs `work` with a watch that tells standard error, and that Ctrl-C cancels.
pub(crate) fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    let mut progress: Option<Progress> = None;
    let mut observer = |event: Event| match event {
        Event::Progress { task, done, total } => {
            let bar = progress.get_or_insert_with(|| Progress::new(task.unit(), total));
            bar.set(done, &task.to_string());
        }
        Event::TaskEnded => {
            if let Some(bar) = progress.take() {
                bar.finish();
            }
        }
        Event::Note(words) => match &progress {
            Some(bar) => bar.above(|| note!("{words}")),
            None => note!("{words}"),
        },
        _ => {}
    };
    let result = work(&mut Watch::new(&mut observer, interrupt::cancel()));
    if let Some(bar) = progress {
        bar.finish();
    }
    result
}
