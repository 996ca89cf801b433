//! Gives the weights of a file to the kernels: the mapped bytes themselves, by type.

use half::f16;
use sdq_formats::{
    WeightRole, WeightSpec,
    layout::{PANEL, WeightData, columns::Columns},
    sdq::Weight,
};

use super::embedding::{Table, TableValues};
use super::kernels::{Integers, PackedMatrix, Panels, QuantizedMatrix};
use crate::{
    Error,
    backend::{WeightSource, prepare::GraphWeights},
    graph::WeightId,
};

/// The weights of a graph, by [`WeightId`].
pub(super) struct BoundWeights<'w> {
    weights: Vec<Bound<'w>>,
}

/// Values for weights of which only shape and type matter.
pub(super) struct Blank {
    floats: Vec<f32>,
    halves: Vec<f16>,
    bytes: Vec<i8>,
}

impl Blank {
    /// Allocates enough for weights of up to `len` values, padding included.
    pub(super) fn new(len: usize) -> Blank {
        let value = |index: usize| ((index * 7919) % 2003) as f32 / 20_030.0 - 0.05;
        let floats: Vec<f32> = (0..len).map(value).collect();
        Blank {
            halves: floats.iter().map(|&value| f16::from_f32(value)).collect(),
            bytes: floats.iter().map(|&value| (value * 2000.0) as i8).collect(),
            floats,
        }
    }
}

enum Bound<'w> {
    Vector(&'w [f32]),
    Table(Table<'w>),
    Matrix(PackedMatrix<'w>),
    Quantized(QuantizedMatrix<'w>),
}

/// The weight of a product.
pub(super) enum Product<'a> {
    /// Floats; the other operand is floats too.
    Float(&'a PackedMatrix<'a>),
    /// Integers; the other operand is quantized rows.
    Integer(&'a QuantizedMatrix<'a>),
}

impl<'w> BoundWeights<'w> {
    /// Looks up every weight of `specs` in `source`.
    pub(super) fn new(specs: &[WeightSpec], source: &WeightSource<'w>) -> Result<BoundWeights<'w>, Error> {
        let weights = specs.iter().map(|spec| source.bind(spec, bind));
        Ok(BoundWeights { weights: weights.collect::<Result<_, _>>()? })
    }

    /// Weights of the types that a file might have, made of `blank`: for measurements, not for drawing.
    pub(super) fn blank(specs: &[WeightSpec], integers: bool, blank: &'w Blank) -> BoundWeights<'w> {
        let bind = |spec: &WeightSpec| {
            let (n, k) = (spec.shape[0], spec.shape[1..].iter().product::<usize>());
            let lanes = n.next_multiple_of(PANEL);
            match (spec.role, Columns::of(spec)) {
                (WeightRole::Vector, _) => Bound::Vector(&blank.floats[..n]),
                (WeightRole::Table, _) => {
                    let values = TableValues::F32(&blank.floats[..n * k]);
                    Bound::Table(Table { width: k, rows: n, values })
                }
                (_, Some(columns)) if integers => {
                    let values = Integers::Q8(&blank.bytes[..lanes * columns.padded()]);
                    let scales = &blank.floats[..columns.inputs().len() * lanes];
                    Bound::Quantized(QuantizedMatrix::new(n, columns, values, scales))
                }
                _ => Bound::Matrix(PackedMatrix::new(n, k, Panels::F16(&blank.halves[..lanes * k]))),
            }
        };
        BoundWeights { weights: specs.iter().map(bind).collect() }
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

    pub(super) fn product(&self, id: WeightId) -> Product<'_> {
        match &self.weights[id.0] {
            Bound::Matrix(matrix) => Product::Float(matrix),
            Bound::Quantized(matrix) => Product::Integer(matrix),
            _ => unreachable!("the op's weight was declared a matrix or convolution"),
        }
    }

    /// Size of the list itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let each = self.weights.iter().map(|weight| match weight {
            Bound::Quantized(matrix) => matrix.heap_bytes(),
            _ => 0,
        });
        size_of_val(self.weights.as_slice()) + each.sum::<usize>()
    }
}

impl GraphWeights for BoundWeights<'_> {
    fn is_quantized(&self, id: WeightId) -> bool {
        matches!(self.weights[id.0], Bound::Quantized(_))
    }
}

/// Determines the element type; the reader has checked role, shape, length and alignment. `None` where no
/// kernel reads the type in this role.
fn bind(weight: Weight<'_>) -> Option<Bound<'_>> {
    let shape = &weight.spec.shape;
    let (n, k) = (shape[0], shape[1..].iter().product());
    let table = |values| Bound::Table(Table { width: k, rows: n, values });
    let matrix = |panels| Bound::Matrix(PackedMatrix::new(n, k, panels));
    let bound = match (weight.spec.role, weight.data) {
        (WeightRole::Vector, WeightData::F32(values)) => Bound::Vector(values),
        (WeightRole::Table, WeightData::F32(values)) => table(TableValues::F32(values)),
        (WeightRole::Table, WeightData::F16(values)) => table(TableValues::F16(values)),
        (WeightRole::Matrix | WeightRole::Conv, WeightData::F32(panels)) => matrix(Panels::F32(panels)),
        (WeightRole::Matrix | WeightRole::Conv, WeightData::F16(panels)) => matrix(Panels::F16(panels)),
        (WeightRole::Table, WeightData::Q8 { values, scales }) => table(TableValues::Q8 { values, scales }),
        (WeightRole::Matrix | WeightRole::Conv, WeightData::Q8 { values, scales }) => {
            let columns = Columns::of(weight.spec)?;
            Bound::Quantized(QuantizedMatrix::new(n, columns, Integers::Q8(values), scales))
        }
        (WeightRole::Matrix | WeightRole::Conv, WeightData::Q4 { values, multipliers, scales }) => {
            let integers = Integers::Q4 { values, multipliers };
            Bound::Quantized(QuantizedMatrix::new(n, Columns::of(weight.spec)?, integers, scales))
        }
        _ => return None,
    };
    Some(bound)
}
