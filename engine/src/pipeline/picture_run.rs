//! Runs a network that maps a picture to a picture, in strips where memory is short.

use super::stages::Stager;
use crate::{
    Error, Network, Picture,
    picture::{from_pixels, to_tensor},
    roles::PictureNetwork,
    tensor::channels_last,
};

/// The result of `role`, with the weights of `network`, for `picture`, in at most `max_memory` bytes beside
/// the two pictures. The result does not depend on the division into strips.
///
/// # Errors
/// [`Error::DoesNotFit`] when no division fits; otherwise when the device fails.
pub fn map_picture(
    network: &Network,
    role: &dyn PictureNetwork,
    picture: &Picture,
    max_memory: Option<u64>,
) -> Result<Picture, Error> {
    let (height, width, scale) = (picture.height, picture.width, role.scale());
    let graph = role.graph(height, width);
    let stager = Stager::new(&graph, network, 0)?;
    let stages = match max_memory {
        None => stager.whole()?,
        Some(limit) => match stager.cheapest(limit)? {
            Some(stages) => stages,
            None => {
                return Err(Error::DoesNotFit {
                    size: format!("{width}x{height}"),
                    limit,
                    needed: stager.smallest()?.memory(),
                    advice: "use a smaller picture".to_owned(),
                });
            }
        },
    };
    let pixels = to_tensor(picture)?;
    let pixels = channels_last(pixels.values(), 3, height * width);
    let (height, width) = (scale * height, scale * width);
    let mapped = stager.run(&stages, &pixels)?;
    from_pixels(role.component(), &mapped[..3 * height * width], width, height)
}
