//! Text to image: the shortest program that draws pictures from a prompt.
//!
//! ```text
//! cargo run --release -p sdq-engine --example text_to_image -- demo/model.sdq "a red apple on a blue background"
//! ```

use std::{env::args, error::Error, ops::ControlFlow, path::Path};

use sdq_engine::{Pipeline, PipelineOptions, Request};
use sdq_formats::picture;

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(model), Some(prompt)) = (args().nth(1), args().nth(2)) else {
        return Err("usage: text_to_image MODEL.sdq PROMPT".into());
    };
    let pipeline = Pipeline::open(Path::new(&model), &PipelineOptions::default())?;
    let request = Request::new(prompt).steps(20).seed(7).count(2);
    let generated = pipeline.generate(&request, &mut |_event| ControlFlow::Continue(()))?;
    for (number, drawn) in generated.pictures.iter().enumerate() {
        picture::write(format!("{number}.png"), drawn, &[])?;
    }
    Ok(())
}
