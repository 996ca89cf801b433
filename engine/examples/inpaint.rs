//! Inpainting: a picture, a mask and a prompt → the picture with the white part of the mask redrawn.
//!
//! ```text
//! cargo run --release -p sdq-engine --example inpaint -- demo/model.sdq 0.png "a red apple on a blue background"
//! ```

use std::{env::args, error::Error, ops::ControlFlow, path::Path};

use sdq_engine::{Mask, Pipeline, PipelineOptions, Request};
use sdq_formats::picture;

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(model), Some(image), Some(prompt)) = (args().nth(1), args().nth(2), args().nth(3)) else {
        return Err("usage: inpaint MODEL.sdq PICTURE PROMPT".into());
    };
    let pipeline = Pipeline::open(Path::new(&model), &PipelineOptions::default())?;
    let size = pipeline.defaults()?;
    let start = picture::read(image)?.fill(size.width, size.height)?;
    let (width, height) = (start.width, start.height);
    // The right half; `Picture::luma` turns a picture into a mask.
    let values = (0..width * height).map(|pixel| if pixel % width < width / 2 { 0 } else { 255 }).collect();

    let request = Request::new(prompt).init_image(start).mask(Mask { width, height, values });
    let generated = pipeline.generate(&request, &mut |_event| ControlFlow::Continue(()))?;
    let drawn = &generated.pictures[0];
    Ok(picture::write("inpainted.png", drawn, &[])?)
}
