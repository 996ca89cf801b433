//! Saves a run while it draws: when it was stopped, the next start resumes it from the file.
//!
//! ```text
//! cargo run --release -p sdq-engine --example save_and_resume -- demo/model.sdq "a house on a yellow background"
//! ```

use std::{env::args, error::Error, fs, ops::ControlFlow, path::Path};

use sdq_engine::{Event, Pipeline, PipelineOptions, Request, SavedRun};
use sdq_formats::picture;

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(model), Some(prompt)) = (args().nth(1), args().nth(2)) else {
        return Err("usage: save_and_resume MODEL.sdq PROMPT".into());
    };
    let pipeline = Pipeline::open(Path::new(&model), &PipelineOptions::default())?;
    let path = Path::new("house.sdq-run");
    let mut failure = None;
    let save = &mut |event: Event<'_>| {
        if let Event::Saveable(checkpoint) = event {
            failure = checkpoint.save(path, &[]).err();
        }
        if failure.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    // A saved run contains its own prompt.
    let generated = match path.exists() {
        true => pipeline.resume(&SavedRun::open(path)?, save),
        false => pipeline.generate(&Request::new(prompt).steps(50), save),
    };
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let drawn = &generated?.pictures[0];
    picture::write("house.png", drawn, &[])?;
    Ok(fs::remove_file(path)?)
}
