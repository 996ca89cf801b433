//! What a device can do, and what follows from it.

use std::fmt;

use ash::vk;

/// Which kernels a device runs. Each tier can do what those below it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Any device: bytes are taken apart and multiplied one by one.
    Plain,
    /// Products of four bytes in one instruction.
    Dot,
    /// Products of small matrices of bytes in one instruction.
    Matrix,
}

impl Tier {
    /// All of them, the plainest first.
    pub const ALL: [Tier; 3] = [Tier::Plain, Tier::Dot, Tier::Matrix];

    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Plain => "plain",
            Tier::Dot => "dot",
            Tier::Matrix => "matrix",
        }
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

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// With memory of its own.
    Discrete,
    /// Part of the processor, whose memory it shares.
    Integrated,
    /// A part of some device, lent to a virtual machine.
    Virtual,
    /// No device at all: kernels run on the processor.
    Software,
    /// The driver does not say.
    Other,
}

impl DeviceKind {
    /// Which of two devices is likely to be the faster.
    pub(super) fn rank(self) -> u32 {
        match self {
            DeviceKind::Discrete => 4,
            DeviceKind::Integrated => 3,
            DeviceKind::Virtual => 2,
            DeviceKind::Other => 1,
            DeviceKind::Software => 0,
        }
    }

    /// What `sdq info` calls it.
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

/// A product of matrices that the device multiplies at once, `[m, k]` times `[k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MatrixShape {
    /// Rows of the result.
    pub(super) m: u32,
    /// Columns of the result.
    pub(super) n: u32,
    /// What is summed over.
    pub(super) k: u32,
}

/// Products of matrices as a workgroup makes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixTile {
    pub(super) shape: MatrixShape,
    /// Subgroups of a workgroup, each of which multiplies on its own.
    pub(super) subgroups: u32,
}

/// A device as it describes itself.
#[derive(Clone)]
pub(super) struct Capabilities {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) driver_id: vk::DriverId,
    pub(super) kind: DeviceKind,
    pub(super) api: u32,
    /// Tells devices and drivers apart, for what is remembered of them.
    pub(super) cache_key: String,
    pub(super) compute_family: Option<u32>,
    /// Bytes that a kernel sees of one buffer at most.
    pub(super) max_binding: u64,
    pub(super) max_allocation: u64,
    /// Of the offset at which a kernel begins to see a buffer, in bytes.
    pub(super) alignment: u64,
    pub(super) shared_memory: u32,
    /// Of a workgroup.
    pub(super) invocations: u32,
    pub(super) bindings: u32,
    /// Workgroups of a dispatch, along the first two axes.
    pub(super) groups: [u32; 2],
    pub(super) timestamp_nanoseconds: Option<f64>,
    pub(super) dot: bool,
    pub(super) dot_accelerated: bool,
    /// Invocations of a subgroup, unless a kernel asks for another number.
    pub(super) subgroup: u32,
    /// Of signed bytes with sums of 32 bits.
    pub(super) matrices: Vec<MatrixShape>,
    /// Of halves with sums in single precision.
    pub(super) half_matrices: Vec<MatrixShape>,
    /// Of pages that can be read without copying them; `None` where none can.
    pub(super) import_alignment: Option<u64>,
    pub(super) has_budget: bool,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
}

/// What all kernels together bind at once.
pub(super) const BINDINGS: u32 = 10;
/// Invocations of the kernels' workgroups.
const INVOCATIONS: u32 = 256;
/// Bytes of shared memory that the smallest tiles take.
const SHARED_MEMORY: u32 = 16 << 10;
/// Those that products of matrices take with their largest.
const MATRIX_SHARED_MEMORY: u32 = 32 << 10;

impl Capabilities {
    /// What every kernel needs and the device has not.
    pub(super) fn lacks(&self) -> Option<String> {
        let version = |api| format!("{}.{}", vk::api_version_major(api), vk::api_version_minor(api));
        if self.api < vk::API_VERSION_1_3 {
            return Some(format!("Vulkan 1.3 (it has {})", version(self.api)));
        }
        if self.compute_family.is_none() {
            return Some("a queue that computes".to_owned());
        }
        let needs = [
            (self.invocations, INVOCATIONS, "invocations in a workgroup"),
            (self.shared_memory, SHARED_MEMORY, "bytes of shared memory"),
            (self.bindings, BINDINGS, "storage buffers at once"),
            (256, self.alignment.try_into().unwrap_or(u32::MAX), "bytes of alignment"),
        ];
        needs
            .into_iter()
            .find(|(has, wanted, _)| has < wanted)
            .map(|(has, wanted, what)| format!("{wanted} {what} (it has {has})"))
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

    /// The tier that is taken unless the user or `sdq doctor` knows better.
    pub(super) fn best_tier(&self) -> Tier {
        if self.tiers().contains(&Tier::Matrix) && self.kind != DeviceKind::Software {
            return Tier::Matrix;
        }
        // Where dot products are not an instruction, the driver takes bytes apart as well as the plain tier does.
        if self.dot && (self.dot_accelerated || self.kind == DeviceKind::Software) {
            Tier::Dot
        } else {
            Tier::Plain
        }
    }

    /// The shape in which the matrix tier multiplies: one whose tiles fill a workgroup's.
    pub(super) fn matrix_shape(&self) -> Option<MatrixShape> {
        let fits = |shape: &&MatrixShape| {
            [8, 16].contains(&shape.m) && [8, 16].contains(&shape.n) && [8, 16, 32, 64].contains(&shape.k)
        };
        self.matrices.iter().filter(fits).max_by_key(|shape| shape.m * shape.n * shape.k).copied()
    }

    /// How a workgroup divides products of matrices of bytes.
    pub(super) fn matrix_tile(&self) -> Option<MatrixTile> {
        let shape = self.matrix_shape()?;
        Some(MatrixTile { shape, subgroups: INVOCATIONS / self.subgroup })
    }

    /// The same of halves: shapes that divide sixteen, to which heads are padded.
    pub(super) fn half_matrix_tile(&self) -> Option<MatrixTile> {
        let fits =
            |shape: &&MatrixShape| [shape.m, shape.n, shape.k].iter().all(|side| [8, 16].contains(side));
        let shape =
            *self.half_matrices.iter().filter(fits).max_by_key(|shape| shape.m * shape.n * shape.k)?;
        Some(MatrixTile { shape, subgroups: INVOCATIONS / self.subgroup })
    }

    /// Whether it shares the processor's memory.
    pub(super) fn shares_memory(&self) -> bool {
        matches!(self.kind, DeviceKind::Integrated | DeviceKind::Software)
    }

    /// Why the device is never taken unasked; `None` where it may be.
    pub(super) fn avoided_because(&self) -> Option<String> {
        if let Some(lacks) = self.lacks() {
            return Some(format!("lacks {lacks}"));
        }
        let reasons = [
            (self.kind == DeviceKind::Software, "runs on the processor, which the CPU backend uses better"),
            (
                !self.dot_accelerated && self.matrix_shape().is_none(),
                "has no instruction for products of bytes, which a processor mostly has",
            ),
            // The GPU of the Raspberry Pi: slower than its processor in every report (llama.cpp #5237).
            (self.driver_id == vk::DriverId::MESA_V3DV, "is slower than the processor beside it"),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason.to_owned())
    }
}
