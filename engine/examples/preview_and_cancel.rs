//! Shows previews of a picture during drawing, and stops the run early.
//!
//! ```text
//! cargo run --release -p sdq-engine --example preview_and_cancel -- demo/model.sdq "a cat on a green background"
//! ```

use std::{
    env::args,
    error::Error,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use sdq_engine::{Error as EngineError, Event, Pipeline, PipelineOptions, Request};
use sdq_formats::picture;

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(model), Some(prompt)) = (args().nth(1), args().nth(2)) else {
        return Err("usage: preview_and_cancel MODEL.sdq PROMPT".into());
    };
    let pipeline = Pipeline::open(Path::new(&model), &PipelineOptions::default())?;
    let patience = Instant::now() + Duration::from_secs(10);
    let mut failure = None;
    let generated = pipeline.generate(&Request::new(prompt).steps(500), &mut |event| {
        if let Event::Step { step, steps, preview, .. } = event
            && step % 20 == 0
        {
            println!("step {step} of {steps}");
            let shown = preview
                .picture()
                .map_err(Into::into)
                .and_then(|small| picture::write("preview.png", &small, &[]).map_err(Box::<dyn Error>::from));
            failure = shown.err();
        }
        match failure.is_none() && Instant::now() < patience {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    match (failure, generated) {
        (Some(failure), _) => Err(failure),
        (None, Err(EngineError::Cancelled { step, steps })) => {
            println!("stopped after {step} of {steps} steps; preview.png is what there is");
            Ok(())
        }
        (None, Err(error)) => Err(error.into()),
        (None, Ok(generated)) => {
            let drawn = &generated.pictures[0];
            Ok(picture::write("preview.png", drawn, &[])?)
        }
    }
}
