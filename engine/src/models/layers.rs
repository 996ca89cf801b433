//! Blocks that several networks contain.

use crate::graph::{GraphBuilder, TensorId, Window};

/// A residual block: two normalised 3x3 convolutions around a shortcut, which is a 1x1 convolution where the
/// number of channels changes.
pub(super) struct ResidualBlock<'a> {
    /// Prefix of its weights.
    pub name: &'a str,
    pub out_channels: usize,
    pub groups: usize,
    pub eps: f32,
}

impl ResidualBlock<'_> {
    /// `x [b, h, w, in]` → `[b, h, w, out]`; `time_bias [b or 1, out]` is added between the convolutions.
    pub(super) fn build(
        &self,
        graph: &mut GraphBuilder,
        x: TensorId,
        time_bias: Option<TensorId>,
    ) -> TensorId {
        let ResidualBlock { name, out_channels, groups, eps } = *self;
        let hidden = graph.group_norm(&format!("{name}.norm1"), x, groups, eps, true);
        let hidden = conv3x3(graph, &format!("{name}.conv1"), hidden, out_channels, time_bias);
        let hidden = graph.group_norm(&format!("{name}.norm2"), hidden, groups, eps, true);
        let shortcut = match graph.channels(x) == out_channels {
            true => x,
            false => conv1x1(graph, &format!("{name}.conv_shortcut"), x, out_channels),
        };
        let hidden = conv3x3(graph, &format!("{name}.conv2"), hidden, out_channels, None);
        graph.add(hidden, shortcut)
    }
}

/// A 3x3 convolution that keeps the picture's size.
pub(super) fn conv3x3(
    graph: &mut GraphBuilder,
    name: &str,
    x: TensorId,
    out_channels: usize,
    channel_bias: Option<TensorId>,
) -> TensorId {
    graph.conv2d(name, x, out_channels, Window::SAME_3X3, channel_bias)
}

/// A 1x1 convolution: the same matrix for every pixel.
pub(super) fn conv1x1(graph: &mut GraphBuilder, name: &str, x: TensorId, out_channels: usize) -> TensorId {
    graph.conv2d(name, x, out_channels, Window::POINT, None)
}
