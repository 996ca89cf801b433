//! Image to image: a picture and a prompt → a picture that keeps something of the first.
//!
//! ```text
//! cargo run --release -p sdq-engine --example image_to_image -- demo/model.sdq 0.png "a green apple on a blue background"
//! ```

use std::{env::args, error::Error, ops::ControlFlow, path::Path};

use sdq_engine::{Pipeline, PipelineOptions, Request};
use sdq_formats::picture;

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(model), Some(image), Some(prompt)) = (args().nth(1), args().nth(2), args().nth(3)) else {
        return Err("usage: image_to_image MODEL.sdq PICTURE PROMPT".into());
    };
    let pipeline = Pipeline::open(Path::new(&model), &PipelineOptions::default())?;
    // The model's default size; any multiple of 8 is possible.
    let size = pipeline.defaults()?;
    let start = picture::read(image)?.fill(size.width, size.height)?;

    let request = Request::new(prompt).init_image(start).strength(0.7);
    let generated = pipeline.generate(&request, &mut |_event| ControlFlow::Continue(()))?;
    let drawn = &generated.pictures[0];
    Ok(picture::write("image_to_image.png", drawn, &[])?)
}
