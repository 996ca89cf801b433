//! The weights that a model needs from a file: name, role and shape of each.
//!
//! Models list their weights as [`WeightSpec`]s; the converter checks a checkpoint against that list and
//! packs each weight for its role; the reader checks the `.sdq` file against the same list before a kernel
//! reads it.

/// How the kernels read a weight, which determines its layout in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightRole {
    /// `[n]`: biases, norm scales and shifts. Always stored as f32, row-major.
    Vector,
    /// `[rows, width]`: embeddings, read row by row. Row-major.
    Table,
    /// `[n, k]`: output features by input features (`y = W x`). Packed in panels, see [`crate::layout`].
    Matrix,
    /// `[out_channels, in_channels, kernel_height, kernel_width]`, as in PyTorch. Packed as the matrix
    /// `[out_channels, kernel_height * kernel_width * in_channels]`, in-channels fastest.
    Conv,
}

impl WeightRole {
    /// Every role, in the order in which documentation and errors list them.
    pub const ALL: [WeightRole; 4] =
        [WeightRole::Vector, WeightRole::Table, WeightRole::Matrix, WeightRole::Conv];

    /// The name in the file's table of contents and in errors.
    pub fn name(self) -> &'static str {
        match self {
            WeightRole::Vector => "vector",
            WeightRole::Table => "table",
            WeightRole::Matrix => "matrix",
            WeightRole::Conv => "convolution",
        }
    }

    /// The role called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<WeightRole> {
        WeightRole::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A weight that a model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name within its component, as in diffusers: `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// How the kernels read it.
    pub role: WeightRole,
    /// Logical shape, as documented at [`WeightRole`]. A 1x1 convolution is a [`WeightRole::Matrix`].
    pub shape: Vec<usize>,
    /// If the weight reads tensors that were concatenated along their channels (a U-Net's skips): the
    /// channels of each, in order. Empty otherwise. The concatenated tensors have different ranges, so a
    /// quantized weight has scales for each.
    pub inputs: Vec<usize>,
}

impl WeightSpec {
    /// A weight that reads a single tensor.
    pub fn new(name: impl Into<String>, role: WeightRole, shape: &[usize]) -> WeightSpec {
        WeightSpec { name: name.into(), role, shape: shape.to_vec(), inputs: Vec::new() }
    }

    /// Whether a weight stored as `stored` in `weight_type` can be read as this one. Weights that are not
    /// quantized do not depend on concatenated inputs, so their files need not contain them.
    pub fn is_met_by(&self, stored: &WeightSpec, weight_type: WeightType) -> bool {
        let same_inputs = !weight_type.is_quantized() || self.inputs == stored.inputs;
        self.name == stored.name && self.role == stored.role && self.shape == stored.shape && same_inputs
    }
}

/// How much a picture suffers when a weight is stored in fewer bits. The model rates each of its weights; the
/// precision of a conversion decides what follows from the rating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sensitivity {
    /// 4 bits are barely visible.
    Low,
    /// 4 bits are visible, 8 bits are not.
    Medium,
    /// 4 bits spoil the picture, 8 bits are not visible.
    High,
    /// 8 bits are measurable, 4 bits spoil the picture.
    VeryHigh,
    /// No later part of the model compensates for an error, and the weight is so small that its size does not
    /// matter.
    Extreme,
}

/// Number format of a stored weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit IEEE floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// 8-bit integers with a scale for each output feature, see [`crate::layout::quantized`].
    Q8,
    /// 4-bit integers with a multiplier for each 32 columns and a scale for each output feature, see
    /// [`crate::layout::quantized`].
    Q4,
}

impl WeightType {
    /// Every type, in the order in which documentation and errors list them.
    pub const ALL: [WeightType; 4] = [WeightType::F32, WeightType::F16, WeightType::Q8, WeightType::Q4];

    /// The name used on the command line and in the file's table of contents.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::F16 => "f16",
            WeightType::Q8 => "q8",
            WeightType::Q4 => "q4",
        }
    }

    /// Whether the weights are integers, and products with them are computed in integers.
    pub fn is_quantized(self) -> bool {
        matches!(self, WeightType::Q8 | WeightType::Q4)
    }

    /// Whether weights of `role` can be stored in this type: vectors are always f32, and a table, which is
    /// read row by row, has no groups of columns that share a multiplier.
    pub fn stores(self, role: WeightRole) -> bool {
        match role {
            WeightRole::Vector => self == WeightType::F32,
            WeightRole::Table => self != WeightType::Q4,
            WeightRole::Matrix | WeightRole::Conv => true,
        }
    }

    /// The type called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<WeightType> {
        WeightType::ALL.into_iter().find(|t| t.name() == name)
    }
}
