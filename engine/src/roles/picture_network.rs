//! The role that maps pictures to pictures.

use std::fmt::Debug;

use sdq_formats::WeightSpec;

use crate::graph::Graph;

/// Picture → picture, `scale` times as large along each axis.
pub trait PictureNetwork: Debug + Send + Sync {
    /// Name of the component that has its weights.
    fn component(&self) -> &'static str;

    /// Its weights, in reading order.
    fn weights(&self) -> Vec<WeightSpec>;

    /// Pixels of the output for each pixel of the input, along each axis.
    fn scale(&self) -> usize;

    /// The graph for a picture of `height x width`: one input `[1, height, width, 3]` and one output
    /// `[1, scale * height, scale * width, 3]`, both in -1..=1.
    fn graph(&self, height: usize, width: usize) -> Graph;
}
