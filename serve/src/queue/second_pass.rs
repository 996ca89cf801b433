//! Pictures that are drawn twice: small, then over the enlarged picture.

use sdq::{
    DrawOptions, Error, Event, Request, Session, Watch,
    picture::{self, PictureError, PictureFormat},
    run::{RunFiles, RunOptions},
};

use crate::{app::App, draw::Enlarge};

/// Draws the pictures of `request`, enlarges each, and draws over it. `files` gets the results; their recipes name the small
/// pictures, which are kept with those that clients sent.
pub(super) fn draw(
    app: &App,
    session: &Session,
    request: &Request,
    files: &RunFiles,
    enlarge: &Enlarge,
    options: &RunOptions,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let drawn = {
        let cancel = watch.cancel().clone();
        // The small pictures are not the job's.
        let mut observer = |event: Event| {
            if !matches!(event, Event::Drawn { .. }) {
                watch.tell(event);
            }
        };
        let small = DrawOptions { preview_every: options.preview_every };
        session.draw(request, small, &mut Watch::new(&mut observer, &cancel))?
    };
    let outputs = files.pictures(request.count)?;
    for (index, (small, output)) in drawn.pictures.iter().zip(outputs).enumerate() {
        let failed = |problem| Error::Picture(PictureError { path: output.clone(), problem });
        let (width, height) = enlarge.size(small.width, small.height);
        let bytes = picture::to_bytes(small, PictureFormat::Png, &[]).map_err(failed)?;
        let start = app.store.keep(&bytes).map_err(|error| Error::Write { path: output.clone(), error })?;
        let large = Request {
            width: Some(width),
            height: Some(height),
            steps: enlarge.steps.or(request.steps),
            strength: Some(enlarge.strength),
            init_image: Some(small.fill(width, height).map_err(failed)?),
            count: 1,
            ..request_of(request, index)
        };
        let files = RunFiles { output, init_image: Some(start), ..files.clone() };
        session.generate(&large, &files, options, watch)?;
    }
    Ok(())
}

/// The request for one picture alone.
fn request_of(request: &Request, index: usize) -> Request {
    let index = index as u64;
    let mut own = request.clone();
    match &mut own.variation {
        Some(variation) => variation.seed = variation.seed.wrapping_add(index),
        None => own.seed = own.seed.wrapping_add(index),
    }
    own
}
