//! The kernels, and the constants of each dispatch. Their layouts are those of `shaders/`.

use bytemuck::{Pod, Zeroable};

use super::caps::Tier;
use crate::graph::Activation;

/// A compiled shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kernel {
    GemmU8S8,
    GemmU8S8Dot,
    GemmU8S8Matrix,
    GemmF32,
    GemmF16Matrix,
    AttentionF32,
    AttentionF16Matrix,
    ColumnSums,
    Rows,
    RowStatistics,
    Moments,
    Statistics,
    Embedding,
    Move,
    Peak,
    PeakDot,
    PeakMatrix,
}

/// Aligned for SPIR-V, whose words are read in place.
#[repr(C, align(4))]
struct Aligned<Bytes: ?Sized>(Bytes);

macro_rules! spirv {
    ($name:literal) => {{
        static SPIRV: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("shaders/spv/", $name, ".spv")));
        bytemuck::cast_slice(&SPIRV.0)
    }};
}

impl Kernel {
    /// The words of the kernel's SPIR-V module.
    pub(super) fn spirv(self) -> &'static [u32] {
        match self {
            Kernel::GemmU8S8 => spirv!("gemm_u8s8"),
            Kernel::GemmU8S8Dot => spirv!("gemm_u8s8_dot"),
            Kernel::GemmU8S8Matrix => spirv!("gemm_u8s8_matrix"),
            Kernel::GemmF32 => spirv!("gemm_f32"),
            Kernel::GemmF16Matrix => spirv!("gemm_f16_matrix"),
            Kernel::AttentionF32 => spirv!("attention_f32"),
            Kernel::AttentionF16Matrix => spirv!("attention_f16_matrix"),
            Kernel::ColumnSums => spirv!("column_sums"),
            Kernel::Rows => spirv!("rows"),
            Kernel::RowStatistics => spirv!("row_statistics"),
            Kernel::Moments => spirv!("moments"),
            Kernel::Statistics => spirv!("statistics"),
            Kernel::Embedding => spirv!("embedding"),
            Kernel::Move => spirv!("move"),
            Kernel::Peak => spirv!("peak"),
            Kernel::PeakDot => spirv!("peak_dot"),
            Kernel::PeakMatrix => spirv!("peak_matrix"),
        }
    }

    /// Whether the kernel needs full subgroups of the device's usual size.
    pub(super) fn counts_on_subgroups(self) -> bool {
        matches!(
            self,
            Kernel::GemmU8S8Matrix | Kernel::GemmF16Matrix | Kernel::AttentionF16Matrix | Kernel::PeakMatrix
        )
    }

    /// The kernel for products of bytes and integers on a device of this tier, where the matrix kernel does
    /// not fit.
    pub(super) fn gemm_u8s8(tier: Tier) -> Kernel {
        match tier {
            Tier::Plain => Kernel::GemmU8S8,
            Tier::Dot | Tier::Matrix => Kernel::GemmU8S8Dot,
        }
    }
}

/// Specialization constants by number; unused ones are zero.
pub(super) type Constants = [u32; 7];

/// The constants of a kernel that has few.
pub(super) fn constants<const COUNT: usize>(few: [u32; COUNT]) -> Constants {
    let mut constants = Constants::default();
    constants[..COUNT].copy_from_slice(&few);
    constants
}

/// A kernel with its constants: the key of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Specialized {
    pub(super) kernel: Kernel,
    pub(super) constants: Constants,
}

/// Maximum size of push constants; every device supports it.
pub(super) const PUSH_BYTES: usize = 128;

/// The push constants of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Push {
    bytes: [u8; PUSH_BYTES],
    length: usize,
}

impl Push {
    pub(super) fn new<T: Pod>(values: T) -> Push {
        const { assert!(size_of::<T>() <= PUSH_BYTES && size_of::<T>().is_multiple_of(4)) };
        let mut push = Push { bytes: [0; PUSH_BYTES], length: size_of::<T>() };
        push.bytes[..push.length].copy_from_slice(bytemuck::bytes_of(&values));
        push
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Push constants of `gemm.glsl`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GemmPush {
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) out_pixels: u32,
    pub(super) out_width: u32,
    pub(super) in_height: u32,
    pub(super) in_width: u32,
    pub(super) kernel: u32,
    pub(super) stride: u32,
    pub(super) pad_top: u32,
    pub(super) pad_left: u32,
    pub(super) flags: u32,
    pub(super) row_words: u32,
    pub(super) factors_at: u32,
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) padded: u32,
}

pub(super) const HAS_BIAS: u32 = 1;
pub(super) const HAS_CHANNEL_BIAS: u32 = 2;
pub(super) const ONE_CHANNEL_BIAS: u32 = 4;
pub(super) const HAS_RESIDUAL: u32 = 8;

/// Push constants of `column_sums.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ColumnSumsPush {
    pub(super) panels: u32,
    pub(super) taps: u32,
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) row_words: u32,
}

/// Push constants of `rows.comp`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowsPush {
    pub(super) rows: u32,
    pub(super) channels: u32,
    pub(super) in_channels: u32,
    pub(super) scale: f32,
    pub(super) shift: f32,
    pub(super) image_rows: u32,
    pub(super) groups: u32,
    pub(super) group_channels: u32,
    pub(super) row_words: u32,
    pub(super) blocks: u32,
    pub(super) factors_at: u32,
}

/// The source of the values of `rows.comp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowSource {
    Copy = 0,
    Norm = 1,
    Gate = 2,
    Sum = 3,
}

/// The number of a function in `activation.glsl`; 0 is none.
pub(super) fn activation_number(activation: Option<Activation>) -> u32 {
    match activation {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::QuickGelu) => 2,
        Some(Activation::Gelu) => 3,
        Some(Activation::GeluTanh) => 4,
        Some(Activation::Relu) => 5,
        Some(Activation::Tanh3) => 6,
    }
}

/// Push constants of `row_statistics.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowStatisticsPush {
    pub(super) rows: u32,
    pub(super) channels: u32,
    pub(super) eps: f32,
}

/// Push constants of `moments.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MomentsPush {
    pub(super) channels: u32,
    pub(super) group_channels: u32,
    pub(super) image_pixels: u32,
    pub(super) first_pixel: u32,
    pub(super) pixels: u32,
    pub(super) slice_pixels: u32,
    pub(super) slices: u32,
    pub(super) chunk: u32,
    pub(super) parts: u32,
}

/// Push constants of `statistics.comp`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct StatisticsPush {
    pub(super) groups: u32,
    pub(super) count: u32,
    pub(super) values: f32,
    pub(super) eps: f32,
}

/// The mode of `statistics.comp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatisticsMode {
    Finish = 0,
    Accumulate = 1,
    Given = 2,
}

/// Push constants of `embedding.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct EmbeddingPush {
    pub(super) count: u32,
    pub(super) tokens: u32,
    pub(super) width: u32,
    pub(super) vocabulary: u32,
}

/// Push constants of `move.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MovePush {
    pub(super) rows: u32,
    pub(super) width: u32,
    pub(super) in_at: u32,
    pub(super) in_stride: u32,
    pub(super) out_at: u32,
    pub(super) out_stride: u32,
    pub(super) in_height: u32,
    pub(super) in_width: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
}

/// Push constants of `attention_f32.comp`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AttentionPush {
    pub(super) heads: u32,
    pub(super) queries: u32,
    pub(super) keys: u32,
    pub(super) head_dim: u32,
    pub(super) scale: f32,
    pub(super) causal: u32,
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use sha2::{Digest, Sha256};

    /// Fails for sources that were changed without compiling them again, and for modules of other sources.
    #[test]
    fn modules_are_those_of_the_sources() {
        let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/vulkan/shaders");
        let manifest = fs::read_to_string(shaders.join("MANIFEST")).unwrap();
        let mut listed: Vec<String> = Vec::new();
        for line in manifest.lines() {
            let (hash, name) = line.split_once("  ").unwrap();
            let found = Sha256::digest(fs::read(shaders.join(name)).unwrap());
            let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, hash, "{name}: run shaders/compile.sh");
            listed.push(name.to_owned());
        }
        let files = |folder: &str| {
            let entries = fs::read_dir(shaders.join(folder)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.map(move |name| format!("{folder}{name}")).collect::<Vec<_>>()
        };
        let sources = files("").into_iter().filter(|name| name.ends_with(".comp") || name.ends_with(".glsl"));
        for name in sources.chain(files("spv/")) {
            assert!(listed.contains(&name), "{name} is not in MANIFEST: run shaders/compile.sh");
        }
    }
}
