//! The Vulkan backend: a graph becomes a list of kernels, recorded once and submitted in every run.
//!
//! `lower/` chooses the kernels of a node and `schedule.rs` divides them into submissions; both are
//! independent of Vulkan. `weights.rs` brings weights to the device in the file's format, `executable.rs`
//! runs graphs. The code that calls the driver, and contains unsafe code, is `device.rs`, `buffer.rs`,
//! `pipelines.rs` and `commands.rs`; one function of `weights.rs` passes addresses of pages.

mod buffer;
mod caps;
mod commands;
mod context;
mod cost;
mod device;
mod error;
mod executable;
mod kernels;
mod limits;
mod lower;
mod memory;
mod pipelines;
mod schedule;
#[cfg(test)]
mod tests;
mod transfer;
mod weights;

use std::sync::{Arc, OnceLock, atomic::Ordering};

use ash::vk::{PhysicalDevice, api_version_major, api_version_minor, api_version_patch};

use super::{
    Backend, Cost, Executable, Footprint, Limits, WeightSource,
    conformance::Conformance,
    prepare::{self, Preparation},
};
use crate::{Error, graph::Graph};
use caps::Capabilities;
use context::Context;
use cost::Rates;
use device::{Gpu, Instance};
use executable::VulkanExecutable;
use lower::{Bounds, Lowered, lower};
use pipelines::Pipelines;
use weights::Placement;

pub use caps::{DeviceKind, Tier};
pub use device::validation_errors;
pub use error::VulkanError;
pub use memory::{Memory, Verdict};

/// A device as `sdq info` shows it.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its index in the loader's list.
    pub index: usize,
    /// The name that the driver reports.
    pub name: String,
    /// Name and version of the driver.
    pub driver: String,
    /// The kind of device.
    pub kind: DeviceKind,
    /// The Vulkan version that it supports, such as `1.3.280`.
    pub api: String,
    /// Tiers of kernels that it can run, the plainest first; empty if it can run none.
    pub tiers: Vec<Tier>,
    /// The tier that is used; `None` where none works.
    pub tier: Option<Tier>,
    /// Why it is never chosen automatically; `None` where it may be.
    pub avoided_because: Option<String>,
    /// The results of `sdq doctor` for every tier that it tried with this driver.
    pub verdicts: Vec<Verdict>,
    /// Identifies device and driver.
    pub key: String,
}

/// All devices of this machine, suitable or not.
///
/// # Errors
/// When there is no Vulkan on this machine.
pub fn devices() -> Result<Vec<DeviceInfo>, VulkanError> {
    let memory = Memory::of_user();
    let found = Instance::new()?.devices()?;
    Ok(found.iter().enumerate().map(|(index, (_, device))| describe(index, device, &memory)).collect())
}

fn describe(index: usize, device: &Capabilities, memory: &Memory) -> DeviceInfo {
    let usable = device.lacks().is_none();
    let verdicts = memory.verdicts(&device.cache_key);
    DeviceInfo {
        index,
        name: device.name.clone(),
        driver: device.driver.clone(),
        kind: device.kind,
        api: version(device.api),
        tiers: if usable { device.tiers() } else { Vec::new() },
        tier: if usable { trusted_tier(device, &verdicts) } else { None },
        avoided_because: device.avoided_because(),
        verdicts,
        key: device.cache_key.clone(),
    }
}

fn version(api: u32) -> String {
    format!("{}.{}.{}", api_version_major(api), api_version_minor(api), api_version_patch(api))
}

/// The best tier that was not found wrong. `SDQ_VK_TIER` is an upper bound.
fn trusted_tier(device: &Capabilities, verdicts: &[Verdict]) -> Option<Tier> {
    let wrong = |tier: Tier| verdicts.iter().any(|verdict| verdict.tier == tier && !verdict.right);
    let bound = std::env::var("SDQ_VK_TIER").ok().and_then(|name| Tier::from_name(&name));
    // A tier that is named explicitly is used even where the device is not faster with it.
    let best = bound.unwrap_or_else(|| device.best_tier());
    device.tiers().into_iter().rev().find(|&tier| tier <= best && !wrong(tier))
}

/// A device that runs graphs.
pub struct VulkanBackend {
    context: Context,
    rates: OnceLock<Rates>,
}

impl std::fmt::Debug for VulkanBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VulkanBackend").field("gpu", &self.context.gpu).finish()
    }
}

impl VulkanBackend {
    /// Opens the device called `wanted`, by its number or a part of its name; without a name, the first that
    /// may be chosen automatically, or else any.
    ///
    /// # Errors
    /// When there is no such device, or it lacks something that kernels need.
    pub fn open(wanted: Option<&str>) -> Result<VulkanBackend, VulkanError> {
        VulkanBackend::open_trusted(wanted.map_or(Pick::Best, Pick::Named))
    }

    /// Opens the first device that may be chosen automatically; `None` where there is none, or it cannot be
    /// opened.
    pub fn open_unasked() -> Option<VulkanBackend> {
        VulkanBackend::open_trusted(Pick::Worthwhile).ok()
    }

    fn open_trusted(pick: Pick<'_>) -> Result<VulkanBackend, VulkanError> {
        let memory = Memory::of_user();
        let backend = VulkanBackend::choose(pick, None, &memory)?;
        let capabilities = &backend.context.gpu.capabilities;
        let mut verdicts = memory.verdicts(&capabilities.cache_key);
        let is_known = verdicts.iter().any(|verdict| verdict.tier == Tier::Matrix);
        if backend.tier() != Tier::Matrix || is_known {
            return Ok(backend);
        }
        // Some drivers list matrix shapes that they multiply incorrectly (Mesa issue 15932): each device is
        // tested once.
        let right = backend.multiplies_right();
        verdicts.push(Verdict { tier: Tier::Matrix, right });
        // Where the result cannot be stored, the test is repeated next time.
        let _ = memory.set_verdicts(&capabilities.cache_key, &verdicts);
        if right {
            return Ok(backend);
        }
        match trusted_tier(capabilities, &verdicts) {
            Some(tier) => VulkanBackend::choose(pick, Some(tier), &memory),
            None => Err(VulkanError::Distrusted { device: capabilities.name.clone() }),
        }
    }

    /// Whether products of whole numbers agree with the processor's.
    fn multiplies_right(&self) -> bool {
        let Ok(table) = Conformance::exact() else { return false };
        let agrees = |case| table.check(case, self).is_ok_and(|outcome| outcome.agrees);
        table.cases().iter().all(agrees)
    }

    /// Opens a device for kernels of `tier`, ignoring stored verdicts. Nothing is written to disk.
    ///
    /// # Errors
    /// As [`open`](VulkanBackend::open), and when the device does not offer the tier.
    pub fn with_tier(wanted: Option<&str>, tier: Tier) -> Result<VulkanBackend, VulkanError> {
        let pick = wanted.map_or(Pick::Best, Pick::Named);
        VulkanBackend::choose(pick, Some(tier), &Memory::none())
    }

    fn choose(pick: Pick<'_>, tier: Option<Tier>, memory: &Memory) -> Result<VulkanBackend, VulkanError> {
        let instance = Instance::new()?;
        let mut devices = instance.devices()?;
        let index = pick.among(&devices)?;
        let (physical, capabilities) = devices.swap_remove(index);
        if let Some(lacks) = capabilities.lacks() {
            return Err(VulkanError::Unsuitable { device: capabilities.name, lacks });
        }
        let tier = match tier {
            Some(tier) if capabilities.tiers().contains(&tier) => tier,
            Some(tier) => {
                let lacks = format!("kernels of tier `{tier}`");
                return Err(VulkanError::Unsuitable { device: capabilities.name, lacks });
            }
            None => trusted_tier(&capabilities, &memory.verdicts(&capabilities.cache_key))
                .ok_or_else(|| VulkanError::Distrusted { device: capabilities.name.clone() })?,
        };
        let cache = memory.pipelines(&capabilities.cache_key);
        let open = || {
            let gpu = Gpu::open(&instance, physical, capabilities.clone(), tier)?;
            let pipelines = Arc::new(Pipelines::new(&gpu, cache.clone())?);
            Ok::<Context, VulkanError>(Context { gpu, pipelines, reads_in_place: false })
        };
        let mut context = open()?;
        if weights::may_read_in_place(&capabilities) {
            match weights::reads_in_place(&context) {
                Ok(reads) => context.reads_in_place = reads,
                // The attempt may have lost the device.
                Err(_) => context = open()?,
            }
        }
        Ok(VulkanBackend { context, rates: OnceLock::new() })
    }

    /// Copies weights to device memory, even where the device could read the file's own pages.
    pub fn copying_weights(mut self) -> VulkanBackend {
        self.context.reads_in_place = false;
        self
    }

    /// Bytes of device memory in use by graphs and their weights, without pages of files.
    pub fn allocated_bytes(&self) -> u64 {
        self.context.gpu.allocated.load(Ordering::Relaxed)
    }

    /// The kernels in use.
    pub fn tier(&self) -> Tier {
        self.context.gpu.tier
    }

    fn bounds(&self) -> Bounds {
        let capabilities = &self.context.gpu.capabilities;
        Bounds {
            tier: self.context.gpu.tier,
            max_binding: capabilities.max_binding,
            max_buffer: capabilities.max_allocation,
            groups: capabilities.groups,
            shared_memory: capabilities.shared_memory,
            matrix: match self.context.gpu.tier {
                Tier::Matrix => capabilities.matrix_tile(),
                Tier::Plain | Tier::Dot => None,
            },
            half_matrix: match self.context.gpu.tier {
                Tier::Matrix => capabilities.half_matrix_tile(),
                Tier::Plain | Tier::Dot => None,
            },
        }
    }
}

/// The choice among the devices.
#[derive(Clone, Copy)]
enum Pick<'a> {
    /// The device with this name.
    Named(&'a str),
    /// The best one: a software device is better than none.
    Best,
    /// The best one that may be chosen automatically.
    Worthwhile,
}

impl Pick<'_> {
    fn among(self, devices: &[(PhysicalDevice, Capabilities)]) -> Result<usize, VulkanError> {
        if let Pick::Named(wanted) = self {
            return find(wanted, devices);
        }
        let is_offered = |device: &Capabilities| match self {
            Pick::Worthwhile => device.avoided_because().is_none(),
            _ => true,
        };
        let rank = |device: &Capabilities| {
            (device.lacks().is_none(), device.avoided_because().is_none(), device.kind.rank())
        };
        // Among equal devices, the loader's first.
        let offered = devices.iter().enumerate().rev().filter(|(_, (_, device))| is_offered(device));
        let best = offered.max_by_key(|(_, (_, device))| rank(device));
        best.map(|(index, _)| index).ok_or(VulkanError::NoDevice)
    }
}

fn find(wanted: &str, devices: &[(PhysicalDevice, Capabilities)]) -> Result<usize, VulkanError> {
    let by_number = wanted.parse().ok().filter(|&index: &usize| index < devices.len());
    let lower = wanted.to_lowercase();
    let by_name = || devices.iter().position(|(_, device)| device.name.to_lowercase().contains(&lower));
    by_number.or_else(by_name).ok_or_else(|| VulkanError::UnknownDevice {
        wanted: wanted.to_owned(),
        found: devices
            .iter()
            .enumerate()
            .map(|(index, (_, device))| format!("{index}: {}", device.name))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

impl Backend for VulkanBackend {
    fn description(&self) -> String {
        let capabilities = &self.context.gpu.capabilities;
        format!("vulkan, {}, {} kernels", capabilities.name, self.context.gpu.tier)
    }

    fn compile<'w>(
        &self,
        graph: Graph,
        weights: &WeightSource<'w>,
    ) -> Result<Box<dyn Executable + 'w>, Error> {
        let prepared = prepare(graph, weights)?;
        Ok(Box::new(VulkanExecutable::new(&self.context, prepared, &self.bounds())?))
    }

    fn footprint(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Footprint, Error> {
        let prepared = prepare(graph, weights)?;
        match prepared.lower(&self.bounds()) {
            Ok(lowered) => {
                // Pages of a file are not counted, as on the processor.
                let weights = if self.context.reads_in_place { 0 } else { prepared.weights.bytes() };
                Ok(Footprint { executable: prepared.bytes(&lowered) + weights, scratch: 0 })
            }
            // It can never fit, whatever the free memory, so the graph has to be cut.
            Err(VulkanError::TooLarge { .. }) => Ok(Footprint { executable: u64::MAX >> 4, scratch: 0 }),
            Err(error) => Err(error.into()),
        }
    }

    fn cost(&self, graph: Graph, weights: &WeightSource<'_>) -> Result<Cost, Error> {
        let rates = match self.rates.get() {
            Some(rates) => rates,
            None => {
                let measured = Rates::measure(&self.context, &self.bounds())?;
                self.rates.get_or_init(|| measured)
            }
        };
        Ok(rates.cost(&prepare(graph, weights)?))
    }

    fn row_step(&self, _graph: Graph, _weights: &WeightSource<'_>) -> Result<usize, Error> {
        // Convolutions are direct.
        Ok(1)
    }

    fn rounds_to_halves(&self) -> bool {
        self.bounds().half_matrix.is_some()
    }

    fn limits(&self) -> Result<Limits, Error> {
        Ok(limits::measure(&self.context)?)
    }

    fn memory_left(&self) -> Option<u64> {
        Some(self.context.gpu.memory_left())
    }

    fn fallback(&self) -> Option<Arc<dyn Backend>> {
        None
    }
}

type Prepared<'w> = prepare::Prepared<Placement<'w>>;

/// Attention is in floats.
const PREPARATION: Preparation =
    Preparation { alignment: weights::ALIGNMENT as usize / size_of::<f32>(), key_elements: None };

fn prepare<'w>(graph: Graph, source: &WeightSource<'w>) -> Result<Prepared<'w>, Error> {
    Prepared::new(graph, source, &PREPARATION, Placement::new)
}

impl Prepared<'_> {
    /// Its kernels, with weights at the places of the placement.
    fn lower(&self, bounds: &Bounds) -> Result<Lowered, VulkanError> {
        lower(&self.graph, &self.plan, &self.layouts, &self.weights, bounds)
    }

    /// Device memory beside weights, and host memory of the tensors that are transferred.
    fn bytes(&self, lowered: &Lowered) -> u64 {
        let ports = self.graph.inputs.iter().chain(&self.graph.outputs).chain(&self.graph.kept);
        let crossing: u64 = ports.map(|port| self.plan.range(port.tensor.0).len() as u64 * 4).sum();
        let tables = lowered.tables.len() as u64 * 4;
        lowered.arena + self.weights.column_sum_bytes() + tables + 2 * crossing
    }
}
