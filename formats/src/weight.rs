//! What a model needs from a file: the name, role and shape of every weight.
//!
//! Models list their weights as [`WeightSpec`]s; the converter checks a checkpoint against that list and packs
//! each weight for its role; the reader checks the `.sdq` file against the same list before a kernel sees a byte.

/// How the kernels read a weight, which decides its layout in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightRole {
    /// `[n]`: biases, norm scales and shifts. Always stored as f32, row-major.
    Vector,
    /// `[rows, width]`: embeddings, read row by row. Row-major.
    Table,
    /// `[n, k]`: output features by input features (`y = W x`). Packed in panels, see [`crate::layout`].
    Matrix,
    /// `[out_channels, in_channels, kernel_height, kernel_width]`, as PyTorch has it. Packed as the matrix
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

/// One weight that a model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name inside its component, in diffusers' words: `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// How the kernels read it.
    pub role: WeightRole,
    /// Logical shape, as documented at [`WeightRole`]. A 1x1 convolution is a [`WeightRole::Matrix`].
    pub shape: Vec<usize>,
}

/// Number format of a stored weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit IEEE floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
}

impl WeightType {
    /// Every type, in the order in which documentation and errors list them.
    pub const ALL: [WeightType; 2] = [WeightType::F32, WeightType::F16];

    /// The name used on the command line and in the file's table of contents.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::F16 => "f16",
        }
    }

    /// The type called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<WeightType> {
        WeightType::ALL.into_iter().find(|t| t.name() == name)
    }
}
