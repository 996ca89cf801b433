//! The library's events on standard error: notes as lines, tasks as a bar, previews.

use sdq::{Event, Watch};

use crate::{interrupt, preview::Previews, progress::Progress};

/// Runs `work` with a watch that reports to standard error and is cancelled by Ctrl-C.
pub(crate) fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    drawn(&mut Previews::none(), work)
}

/// The same with previews.
pub(crate) fn drawn<T>(previews: &mut Previews, work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
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
        Event::Note(words) => above(progress.as_ref(), || note!("{words}")),
        Event::Step { image, preview: Some(picture), .. } => {
            previews.show(&picture, image, |print| above(progress.as_ref(), print));
        }
        _ => {}
    };
    let result = work(&mut Watch::new(&mut observer, interrupt::cancel()));
    if let Some(bar) = progress {
        bar.finish();
    }
    result
}

/// Runs `print` while the bar is hidden.
fn above(bar: Option<&Progress>, print: impl FnOnce()) {
    match bar {
        Some(bar) => bar.above(print),
        None => print(),
    }
}
