//! The role that maps pictures to pictures.

use super::StoredNetwork;
use crate::graph::Graph;

/// Picture → picture, `scale` times as large along each axis.
pub trait PictureNetwork: StoredNetwork {
    /// Pixels of the output for each pixel of the input, along each axis.
    fn scale(&self) -> usize;

    /// The graph for a picture of `height x width`: one input `[1, height, width, 3]` and one output
    /// `[1, scale * height, scale * width, 3]`, both in -1..=1.
    fn graph(&self, height: usize, width: usize) -> Graph;
}
