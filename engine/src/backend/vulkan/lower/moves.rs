//! Ops that move values without computing: concatenation, repeating pixels, and lookup of table rows.

use super::super::{
    error::VulkanError,
    kernels::{Constants, EmbeddingPush, Kernel, MovePush, Push, constants},
    weights::Form,
};
use super::{Call, Lowering, flat, read, word, written};
use crate::graph::{ELEMENT_WORK, PreparedNode, TensorId, WeightId};

impl Lowering<'_> {
    /// Concatenates two tensors along the channels.
    pub(super) fn concat(&mut self, node: &PreparedNode) -> Result<(), VulkanError> {
        let (rows, all) = (self.rows_of(node.output), self.channels(node.output));
        let mut at = 0;
        for &input in &node.inputs {
            let width = self.channels(input);
            let push = MovePush { out_at: word(at), out_stride: word(all), ..plain_move(rows, width) };
            self.move_words(input, node.output, &push)?;
            at += width;
        }
        Ok(())
    }

    /// Upsamples pixels of floats.
    pub(super) fn upsample(&mut self, node: &PreparedNode) -> Result<(), VulkanError> {
        let push = self.upsampling(node, self.channels(node.output), 0, 0);
        self.move_words(node.inputs[0], node.output, &push)
    }

    /// Upsamples pixels of bytes, and then their factors.
    pub(super) fn upsample_bytes(&mut self, node: &PreparedNode) -> Result<(), VulkanError> {
        let (x, out) = (node.inputs[0], node.output);
        let layout = &self.layouts[&out];
        let (words, factors) = (layout.width() / 4, 2 * layout.block_count());
        let (small, large) = (self.rows_of(x), self.rows_of(out));
        for (width, in_at, out_at) in [(words, 0, 0), (factors, small * words, large * words)] {
            let push = self.upsampling(node, width, in_at, out_at);
            self.move_words(x, out, &push)?;
        }
        Ok(())
    }

    fn upsampling(&self, node: &PreparedNode, width: usize, in_at: usize, out_at: usize) -> MovePush {
        let [_, in_height, in_width, _] = self.picture(node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(node.output);
        MovePush {
            in_at: word(in_at),
            out_at: word(out_at),
            in_height: word(in_height),
            in_width: word(in_width),
            out_height: word(out_height),
            out_width: word(out_width),
            ..plain_move(self.rows_of(node.output), width)
        }
    }

    fn move_words(&mut self, from: TensorId, to: TensorId, push: &MovePush) -> Result<(), VulkanError> {
        let words = u64::from(push.rows) * u64::from(push.width);
        self.call(Call {
            kernel: Kernel::Move,
            constants: Constants::default(),
            bindings: vec![read(0, self.tensor(from)), written(1, self.tensor(to))],
            push: Push::new(*push),
            groups: flat(words.div_ceil(256)),
            work: words * ELEMENT_WORK as u64,
        })
    }

    pub(super) fn embedding(
        &mut self,
        node: &PreparedNode,
        tokens: WeightId,
        positions: WeightId,
    ) -> Result<(), VulkanError> {
        let shape = self.graph.shape(node.output);
        let (length, width) = (shape[1], shape[2]);
        let count = self.rows_of(node.output);
        let push = EmbeddingPush {
            count: word(count),
            tokens: word(length),
            width: word(width),
            vocabulary: word(self.graph.weight(tokens).shape[0]),
        };
        let mut bindings = vec![read(0, self.tensor(node.inputs[0])), written(6, self.tensor(node.output))];
        bindings.extend(node.inputs.get(1).map(|&words| read(5, self.tensor(words))));
        let mut number = |weight, binding| {
            let placed = self.weights.get(weight);
            bindings.push(read(binding, placed.values));
            bindings.extend(placed.scales.map(|scales| read(binding + 1, scales)));
            match placed.form {
                Form::Floats => 0,
                Form::Halves => 1,
                Form::Bytes => 2,
                Form::Integers(_) => unreachable!("tables are not in panels"),
            }
        };
        let constants = constants([number(tokens, 1), number(positions, 3)]);
        self.call(Call {
            kernel: Kernel::Embedding,
            constants,
            bindings,
            push: Push::new(push),
            groups: flat((count * width).div_ceil(256) as u64),
            work: (count * width * ELEMENT_WORK) as u64,
        })
    }
}

/// A copy of rows of `width` words.
fn plain_move(rows: usize, width: usize) -> MovePush {
    MovePush {
        rows: word(rows),
        width: word(width),
        in_at: 0,
        in_stride: word(width),
        out_at: 0,
        out_stride: word(width),
        in_height: 1,
        in_width: 1,
        out_height: 1,
        out_width: 1,
    }
}
