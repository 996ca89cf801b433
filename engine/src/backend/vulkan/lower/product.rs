//! Products: matrices and convolutions, with weights of integers or floats.

use sdq_formats::{WeightSpec, layout::PANEL};

use super::super::{
    caps::{MatrixShape, MatrixTile},
    error::VulkanError,
    kernels::{
        ColumnSumsPush, GemmPush, HAS_BIAS, HAS_CHANNEL_BIAS, HAS_RESIDUAL, Kernel, ONE_CHANNEL_BIAS, Push,
        constants,
    },
    schedule::Binding,
    weights::{Form, Integers, Placed},
};
use super::{Call, Lowering, flat, read, word, written};
use crate::graph::{Padding, PreparedNode, TensorId, WeightId, Window};

/// The terms that are added to a product.
pub(super) struct Ending {
    pub(super) bias: Option<WeightId>,
    pub(super) channel_bias: Option<TensorId>,
    pub(super) residual: Option<TensorId>,
}

impl Lowering<'_> {
    pub(super) fn column_sums(&mut self, spec: &WeightSpec, placed: &Placed) -> Result<(), VulkanError> {
        let (Form::Integers(integers), Some(sums)) = (&placed.form, placed.column_sums) else {
            return Ok(());
        };
        let blocks = self.blocks(&integers.layout);
        let (panels, taps) = (spec.shape[0].div_ceil(PANEL), integers.columns.taps());
        let push = ColumnSumsPush {
            panels: word(panels),
            taps: word(taps),
            blocks: word(integers.layout.block_count()),
            groups: word(integers.columns.groups() / taps),
            row_words: word(integers.layout.width() / 4),
        };
        let pairs = panels * taps * integers.layout.block_count() * PANEL / 2;
        let mut bindings = vec![read(0, placed.values), read(2, blocks), written(3, sums)];
        bindings.extend(placed.multipliers.map(|multipliers| read(1, multipliers)));
        let dispatch = self.checked(Call {
            kernel: Kernel::ColumnSums,
            constants: constants([integers.packed.into()]),
            bindings,
            push: Push::new(push),
            groups: flat(pairs.div_ceil(64) as u64),
            work: (panels * PANEL * integers.columns.padded()) as u64,
        })?;
        self.lowered.preparation.push(dispatch);
        Ok(())
    }

    pub(super) fn geometry(&self, node: &PreparedNode, window: &Window) -> GemmPush {
        let [_, in_height, in_width, _] = self.picture(node.inputs[0]);
        let [_, out_height, out_width, _] = self.picture(node.output);
        let Padding { top, left, .. } = window.padding;
        GemmPush {
            out_pixels: word(out_height * out_width),
            out_width: word(out_width),
            in_height: word(in_height),
            in_width: word(in_width),
            kernel: word(window.kernel),
            stride: word(window.stride),
            pad_top: word(top),
            pad_left: word(left),
            ..GemmPush::default()
        }
    }

    pub(super) fn product(
        &mut self,
        node: &PreparedNode,
        weight: WeightId,
        geometry: GemmPush,
        ending: &Ending,
    ) -> Result<(), VulkanError> {
        let spec = self.graph.weight(weight);
        let (m, n) = (self.rows_of(node.output), spec.shape[0]);
        let k: usize = spec.shape[1..].iter().product();
        let placed = self.weights.get(weight).clone();
        let mut push = GemmPush { m: word(m), n: word(n), ..geometry };
        let mut bindings = vec![
            read(0, self.tensor(node.inputs[0])),
            read(1, placed.values),
            written(9, self.tensor(node.output)),
        ];
        self.end(ending, n, &mut push, &mut bindings);
        let (kernel, last_constant) = match &placed.form {
            Form::Integers(Integers { columns, layout, packed }) => {
                let blocks = self.blocks(layout);
                push.row_words = word(layout.width() / 4);
                push.factors_at = word(self.rows_of(node.inputs[0]) * layout.width() / 4);
                push.blocks = word(layout.block_count());
                push.groups = word(columns.groups() / columns.taps());
                push.padded = word(columns.padded());
                bindings.push(read(4, blocks));
                bindings.extend(placed.multipliers.map(|multipliers| read(2, multipliers)));
                bindings.extend(placed.scales.map(|scales| read(3, scales)));
                bindings.extend(placed.column_sums.map(|sums| read(5, sums)));
                (Kernel::gemm_u8s8(self.bounds.tier), u32::from(*packed))
            }
            form => {
                push.row_words = word(spec.shape[1]);
                push.padded = word(k);
                (Kernel::GemmF32, u32::from(matches!(form, Form::Halves)))
            }
        };
        let (kernel, [rows, columns], of_matrices) =
            self.with_matrices(kernel, &placed.form, self.tile(m, n));
        let mut constants = constants([rows, columns, last_constant]);
        constants[3..].copy_from_slice(&of_matrices);
        self.call(Call {
            kernel,
            constants,
            bindings,
            push: Push::new(push),
            groups: [n.div_ceil(16 * columns as usize) as u64, m.div_ceil(16 * rows as usize) as u64],
            work: (m as u64).saturating_mul((n * k) as u64),
        })
    }

    /// `kernel` and its tile, or the matrix kernel where the device has one, with its constants.
    fn with_matrices(&self, kernel: Kernel, form: &Form, tile: [u32; 2]) -> (Kernel, [u32; 2], [u32; 4]) {
        let offered = match form {
            Form::Integers(_) => self.bounds.matrix.map(|matrix| (matrix, Kernel::GemmU8S8Matrix)),
            Form::Halves => self.bounds.half_matrix.map(|matrix| (matrix, Kernel::GemmF16Matrix)),
            Form::Floats | Form::Bytes => None,
        };
        let fitting = offered.and_then(|(matrix, kernel)| {
            let smaller = tile.map(|steps| steps.min(4));
            let fits = |tile: &[u32; 2]| matrix.fits(*tile, self.bounds.shared_memory);
            let MatrixTile { shape: MatrixShape { m, n, k }, subgroups } = matrix;
            Some((kernel, [tile, smaller].into_iter().find(fits)?, [m, n, k, subgroups]))
        });
        fitting.unwrap_or((kernel, tile, [0; 4]))
    }

    /// Rows and columns of a workgroup's tile, in units of sixteen.
    fn tile(&self, m: usize, n: usize) -> [u32; 2] {
        // Tiles of 128 by 128 need 18 KiB of shared memory, and pay off where there are many.
        let large = self.bounds.shared_memory >= 24 << 10 && m.div_ceil(128) * n.div_ceil(128) >= 64;
        let most = if large { 8 } else { 4 };
        let steps = |size: usize, most: u32| (size.div_ceil(16) as u32).next_power_of_two().min(most);
        [steps(m, most), steps(n, most)]
    }

    fn end(&self, ending: &Ending, n: usize, push: &mut GemmPush, bindings: &mut Vec<Binding>) {
        if let Some(bias) = ending.bias {
            push.flags |= HAS_BIAS;
            bindings.push(read(6, self.weights.get(bias).values));
        }
        if let Some(channel_bias) = ending.channel_bias {
            push.flags |= HAS_CHANNEL_BIAS;
            if self.graph.elements(channel_bias) == n {
                push.flags |= ONE_CHANNEL_BIAS;
            }
            bindings.push(read(7, self.tensor(channel_bias)));
        }
        if let Some(residual) = ending.residual {
            push.flags |= HAS_RESIDUAL;
            bindings.push(read(8, self.tensor(residual)));
        }
    }
}
