//! Previews: their similarity to the final picture, measured with the full decoder.

use std::ops::ControlFlow;

use sdq_engine::{Event, Picture, Request, metrics::psnr};
use sdq_formats::WeightType;
use sdq_tests::models::{Model, demo_model};

/// The picture reduced to the size of its latents: means of squares.
fn shrunk(picture: &Picture, width: usize) -> Vec<u8> {
    let factor = picture.width / width;
    let mut sums = vec![0_usize; picture.rgb.len() / factor / factor];
    for (index, value) in picture.rgb.iter().enumerate() {
        let (color, x, y) = (index % 3, index / 3 % picture.width, index / 3 / picture.width);
        sums[(y / factor * width + x / factor) * 3 + color] += usize::from(*value);
    }
    sums.iter().map(|sum| (sum / factor / factor) as u8).collect()
}

/// With the trained model: the last preview is the picture in small, and one at half of the steps shows it
/// already. The best linear map reaches 18 to 22 dB on this decoder.
#[test]
fn previews_show_the_picture_that_comes() {
    let pipeline = Model::convert_folder(&demo_model(), WeightType::F16).open(2);
    for (prompt, seed) in [
        ("a red apple on a blue background", 1),
        ("a cat on a green background", 2),
        ("a robot on a black background", 3),
    ] {
        let mut previews = Vec::new();
        let request = Request::new(prompt).steps(20).scheduler("ddim").seed(seed);
        let observer = &mut |event: Event<'_>| {
            if let Event::Step { preview, .. } = event {
                previews.push(preview.picture().unwrap());
            }
            ControlFlow::Continue(())
        };
        let picture = &pipeline.generate(&request, observer).unwrap().pictures[0];
        let small = shrunk(picture, previews[0].width);
        let found: Vec<f64> = previews.iter().map(|preview| psnr(&preview.rgb, &small)).collect();
        assert!(found[19] > 17.0 && found[9] > 16.0 && found[0] < found[9], "{prompt}: {found:.1?}");
    }
}
