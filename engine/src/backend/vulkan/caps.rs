//! The capabilities of a device, and the decisions that follow from them.

use std::fmt;

use ash::vk;

/// The set of kernels that a device runs. Each tier can do everything that the lower ones can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Any device: bytes are extracted and multiplied one by one.
    Plain,
    /// Products of four bytes in one instruction.
    Dot,
    /// Products of small matrices of bytes in one instruction.
    Matrix,
}

impl Tier {
    /// All tiers, the plainest first.
    pub const ALL: [Tier; 3] = [Tier::Plain, Tier::Dot, Tier::Matrix];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Plain => "plain",
            Tier::Dot => "dot",
            Tier::Matrix => "matrix",
        }
    }

    /// Describes the problem if `wanted`, a value of `SDQ_VK_TIER`, has no effect.
    pub fn unusable(wanted: &str) -> Option<String> {
        let names = Tier::ALL.map(Tier::name).join(", ");
        let has_it = wanted.is_empty() || Tier::from_name(wanted).is_some();
        (!has_it).then(|| format!("SDQ_VK_TIER is {wanted:?} and has no effect, expected one of {names}"))
    }

    /// The tier with this name.
    pub fn from_name(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A device with memory of its own.
    Discrete,
    /// A part of the processor, whose memory it shares.
    Integrated,
    /// A part of a device, assigned to a virtual machine.
    Virtual,
    /// No hardware: kernels run on the processor.
    Software,
    /// The driver does not say.
    Other,
}

impl DeviceKind {
    /// The order by expected speed; the faster kind has the higher rank.
    pub(super) fn rank(self) -> u32 {
        match self {
            DeviceKind::Discrete => 4,
            DeviceKind::Integrated => 3,
            DeviceKind::Virtual => 2,
            DeviceKind::Other => 1,
            DeviceKind::Software => 0,
        }
    }

    /// The name that `sdq info` shows.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Discrete => "discrete",
            DeviceKind::Integrated => "integrated",
            DeviceKind::Virtual => "virtual",
            DeviceKind::Software => "software",
            DeviceKind::Other => "other",
        }
    }
}

/// A product of matrices that the device computes in one instruction, `[m, k]` times `[k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MatrixShape {
    /// Rows of the result.
    pub(super) m: u32,
    /// Columns of the result.
    pub(super) n: u32,
    /// The inner dimension.
    pub(super) k: u32,
}

/// How a workgroup computes products of matrices.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixTile {
    pub(super) shape: MatrixShape,
    /// Subgroups of a workgroup; each multiplies on its own.
    pub(super) subgroups: u32,
}

/// The properties of a device.
#[derive(Clone)]
pub(super) struct Capabilities {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) driver_id: vk::DriverId,
    pub(super) kind: DeviceKind,
    pub(super) api: u32,
    /// Identifies device and driver for data that is cached about them.
    pub(super) cache_key: String,
    pub(super) compute_family: Option<u32>,
    /// Maximum number of bytes of one buffer that a kernel can access.
    pub(super) max_binding: u64,
    pub(super) max_allocation: u64,
    /// Alignment of the offset of a binding, in bytes.
    pub(super) alignment: u64,
    pub(super) shared_memory: u32,
    /// Maximum number of invocations of a workgroup.
    pub(super) invocations: u32,
    pub(super) bindings: u32,
    /// Maximum number of workgroups of a dispatch, along the first two axes.
    pub(super) groups: [u32; 2],
    pub(super) timestamp_nanoseconds: Option<f64>,
    pub(super) dot: bool,
    pub(super) dot_accelerated: bool,
    /// Invocations of a subgroup, unless a kernel requests another number.
    pub(super) subgroup: u32,
    /// Shapes of products of signed bytes with 32-bit sums.
    pub(super) matrices: Vec<MatrixShape>,
    /// Shapes of products of halves with sums in single precision.
    pub(super) half_matrices: Vec<MatrixShape>,
    /// Alignment of host pages that the device can read without a copy; `None` where it can read none.
    pub(super) import_alignment: Option<u64>,
    pub(super) has_budget: bool,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
}

/// Maximum number of bindings of a kernel.
pub(super) const BINDINGS: u32 = 10;
/// Invocations of the kernels' workgroups.
const INVOCATIONS: u32 = 256;
/// Bytes of shared memory for the smallest tiles.
const SHARED_MEMORY: u32 = 16 << 10;
/// Bytes of shared memory for products of matrices, with their largest tiles.
const MATRIX_SHARED_MEMORY: u32 = 32 << 10;

/// Largest alignment of a binding that the layout of weights meets, in bytes.
const MAX_ALIGNMENT: u64 = 256;

impl Capabilities {
    /// The first requirement of every kernel that the device does not meet.
    pub(super) fn lacks(&self) -> Option<String> {
        let version = |api| format!("{}.{}", vk::api_version_major(api), vk::api_version_minor(api));
        if self.api < vk::API_VERSION_1_3 {
            return Some(format!("Vulkan 1.3 (found {})", version(self.api)));
        }
        if self.compute_family.is_none() {
            return Some("a compute queue".to_owned());
        }
        let needs = [
            (self.invocations, INVOCATIONS, "invocations in a workgroup"),
            (self.shared_memory, SHARED_MEMORY, "bytes of shared memory"),
            (self.bindings, BINDINGS, "storage buffers at once"),
        ];
        let unmet = needs.into_iter().find(|(has, wanted, _)| has < wanted);
        let unmet = unmet.map(|(has, wanted, what)| format!("{wanted} {what} (found {has})"));
        let is_aligned = self.alignment <= MAX_ALIGNMENT;
        unmet.or_else(|| {
            let found = self.alignment;
            (!is_aligned).then(|| format!("an alignment of at most {MAX_ALIGNMENT} bytes (found {found})"))
        })
    }

    /// Tiers that the device offers, the plainest first.
    pub(super) fn tiers(&self) -> Vec<Tier> {
        let offers = |tier: &Tier| match tier {
            Tier::Plain => true,
            Tier::Dot => self.dot,
            Tier::Matrix => {
                self.dot && self.matrix_shape().is_some() && self.shared_memory >= MATRIX_SHARED_MEMORY
            }
        };
        Tier::ALL.into_iter().filter(offers).collect()
    }

    /// The tier that is used unless the user or `sdq doctor` chooses another.
    pub(super) fn best_tier(&self) -> Tier {
        if self.tiers().contains(&Tier::Matrix) && self.kind != DeviceKind::Software {
            return Tier::Matrix;
        }
        // Where dot products are not an instruction, the driver's emulation is as fast as the plain tier.
        if self.dot && (self.dot_accelerated || self.kind == DeviceKind::Software) {
            Tier::Dot
        } else {
            Tier::Plain
        }
    }

    /// The matrix shape of the matrix tier: one whose multiples fill a workgroup's tile.
    pub(super) fn matrix_shape(&self) -> Option<MatrixShape> {
        let fits = |shape: &&MatrixShape| {
            [8, 16].contains(&shape.m) && [8, 16].contains(&shape.n) && [8, 16, 32, 64].contains(&shape.k)
        };
        self.matrices.iter().filter(fits).max_by_key(|shape| shape.m * shape.n * shape.k).copied()
    }

    /// How a workgroup computes products of matrices of bytes.
    pub(super) fn matrix_tile(&self) -> Option<MatrixTile> {
        let shape = self.matrix_shape()?;
        Some(MatrixTile { shape, subgroups: INVOCATIONS / self.subgroup })
    }

    /// How a workgroup computes products of matrices of halves: with shapes that divide sixteen, to which
    /// heads are padded.
    pub(super) fn half_matrix_tile(&self) -> Option<MatrixTile> {
        let fits =
            |shape: &&MatrixShape| [shape.m, shape.n, shape.k].iter().all(|side| [8, 16].contains(side));
        let shape =
            *self.half_matrices.iter().filter(fits).max_by_key(|shape| shape.m * shape.n * shape.k)?;
        Some(MatrixTile { shape, subgroups: INVOCATIONS / self.subgroup })
    }

    /// Whether the device shares the processor's memory.
    pub(super) fn shares_memory(&self) -> bool {
        matches!(self.kind, DeviceKind::Integrated | DeviceKind::Software)
    }

    /// Why the device is never chosen automatically; `None` where it may be.
    pub(super) fn avoided_because(&self) -> Option<String> {
        if let Some(lacks) = self.lacks() {
            return Some(format!("lacks {lacks}"));
        }
        let reasons = [
            (self.kind == DeviceKind::Software, "runs on the processor, which the CPU backend uses better"),
            (
                !self.dot_accelerated && self.matrix_shape().is_none(),
                "has no instruction for products of bytes, which most processors have",
            ),
            // The GPU of the Raspberry Pi: slower than its processor in every report (llama.cpp #5237).
            (self.driver_id == vk::DriverId::MESA_V3DV, "is slower than the processor beside it"),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason.to_owned())
    }
}
