//! Handing a file's weights to the kernels: the mapped bytes themselves, under their types.

use half::f16;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    sdq::{Component, Weight},
};

use super::embedding::{Table, TableValues};
use super::kernels::{PackedMatrix, Panels};
use crate::{Error, graph::WeightId};

/// The weights of a graph, by [`WeightId`].
pub(super) struct BoundWeights<'w> {
    weights: Vec<Bound<'w>>,
}

enum Bound<'w> {
    Vector(&'w [f32]),
    Table(Table<'w>),
    Matrix(PackedMatrix<'w>),
}

impl<'w> BoundWeights<'w> {
    /// Looks up every weight of `specs` in `component`.
    pub(super) fn new(specs: &[WeightSpec], component: &Component<'w>) -> Result<BoundWeights<'w>, Error> {
        let find = |spec: &WeightSpec| match component.weight(&spec.name) {
            Some(weight) if weight.spec == spec => Ok(bind(weight)),
            _ => Err(Error::MissingWeight {
                component: component.name().to_owned(),
                name: spec.name.clone(),
                role: spec.role,
                shape: spec.shape.clone(),
            }),
        };
        Ok(BoundWeights { weights: specs.iter().map(find).collect::<Result<_, _>>()? })
    }

    pub(super) fn vector(&self, id: WeightId) -> &'w [f32] {
        match self.weights[id.0] {
            Bound::Vector(values) => values,
            _ => unreachable!("the op's weight was declared a vector"),
        }
    }

    pub(super) fn table(&self, id: WeightId) -> Table<'w> {
        match self.weights[id.0] {
            Bound::Table(table) => table,
            _ => unreachable!("the op's weight was declared a table"),
        }
    }

    pub(super) fn matrix(&self, id: WeightId) -> PackedMatrix<'w> {
        match self.weights[id.0] {
            Bound::Matrix(matrix) => matrix,
            _ => unreachable!("the op's weight was declared a matrix or convolution"),
        }
    }
}

/// The reader has checked role, shape, length and alignment; what is left is to name the element type.
fn bind(weight: Weight<'_>) -> Bound<'_> {
    let shape = &weight.spec.shape;
    let f32s = || bytemuck::cast_slice::<u8, f32>(weight.bytes);
    let f16s = || bytemuck::cast_slice::<u8, f16>(weight.bytes);
    match weight.spec.role {
        WeightRole::Vector => Bound::Vector(f32s()),
        WeightRole::Table => Bound::Table(Table {
            width: shape[1],
            values: match weight.weight_type {
                WeightType::F32 => TableValues::F32(f32s()),
                WeightType::F16 => TableValues::F16(f16s()),
            },
        }),
        WeightRole::Matrix | WeightRole::Conv => {
            let panels = match weight.weight_type {
                WeightType::F32 => Panels::F32(f32s()),
                WeightType::F16 => Panels::F16(f16s()),
            };
            Bound::Matrix(PackedMatrix::new(shape[0], shape[1..].iter().product(), panels))
        }
    }
}
