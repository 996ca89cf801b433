//! Pipelines of kernels for a device: each is created once, and the driver's cache is stored on disk.
#![expect(unsafe_code, reason = "every call of Vulkan is one into foreign code")]

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ash::vk;
use sdq_formats::atomic::AtomicFile;

use super::{
    caps::BINDINGS,
    device::Gpu,
    error::VulkanError,
    kernels::{PUSH_BYTES, Specialized},
};

/// Start of a stored cache, followed by the checksum of the rest. Not all drivers handle damaged caches
/// safely.
const MAGIC: &[u8; 8] = b"sdqpipe1";

/// The pipelines of a device.
pub(super) struct Pipelines {
    gpu: Arc<Gpu>,
    pub(super) set_layout: vk::DescriptorSetLayout,
    pub(super) layout: vk::PipelineLayout,
    cache: vk::PipelineCache,
    file: Option<PathBuf>,
    made: Mutex<HashMap<Specialized, vk::Pipeline>>,
    changed: AtomicBool,
}

impl Pipelines {
    /// Starts without pipelines. The cache in `file` is used if it belongs to this device and driver.
    pub(super) fn new(gpu: &Arc<Gpu>, file: Option<PathBuf>) -> Result<Pipelines, VulkanError> {
        let bindings: Vec<vk::DescriptorSetLayoutBinding<'_>> = (0..BINDINGS)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let remembered = file.as_ref().and_then(|file| read_cache(&fs::read(file).ok()?).map(<[u8]>::to_vec));
        let mut pipelines = Pipelines {
            gpu: gpu.clone(),
            set_layout: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            cache: vk::PipelineCache::null(),
            file,
            made: Mutex::default(),
            changed: AtomicBool::new(false),
        };
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is alive and allows as many storage buffers.
        pipelines.set_layout = unsafe { gpu.raw.create_descriptor_set_layout(&info, None) }
            .map_err(|result| VulkanError::new("lay out bindings", result))?;
        let push = vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(PUSH_BYTES as u32);
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(std::slice::from_ref(&pipelines.set_layout))
            .push_constant_ranges(std::slice::from_ref(&push));
        // SAFETY: the set layout is the device's; 128 bytes of push constants are allowed everywhere.
        pipelines.layout = unsafe { gpu.raw.create_pipeline_layout(&info, None) }
            .map_err(|result| VulkanError::new("lay out pipelines", result))?;
        let create = |data: &[u8]| {
            let info = vk::PipelineCacheCreateInfo::default().initial_data(data);
            // SAFETY: the checksum shows that a driver wrote the data; drivers ignore that of others.
            unsafe { gpu.raw.create_pipeline_cache(&info, None) }
        };
        pipelines.cache = create(&remembered.unwrap_or_default())
            .or_else(|_| create(&[]))
            .map_err(|result| VulkanError::new("make a pipeline cache", result))?;
        Ok(pipelines)
    }

    /// Creates those of `wanted` that are missing, on all cores.
    pub(super) fn prepare(&self, wanted: &HashSet<Specialized>) -> Result<(), VulkanError> {
        let missing: Vec<Specialized> = {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.iter().filter(|wanted| !made.contains_key(wanted)).copied().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let results: Vec<Result<(), VulkanError>> = std::thread::scope(|scope| {
            let parts = missing.chunks(missing.len().div_ceil(threads));
            let make = |part: &[Specialized]| part.iter().try_for_each(|&wanted| self.make(wanted));
            // Where the system refuses a thread, its part is made here.
            let start = |part| {
                let worker = std::thread::Builder::new().spawn_scoped(scope, move || make(part));
                worker.map_err(|_| make(part))
            };
            let workers: Vec<_> = parts.map(start).collect();
            let join = |worker: Result<std::thread::ScopedJoinHandle<'_, _>, _>| match worker {
                Ok(worker) => worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(made) => made,
            };
            workers.into_iter().map(join).collect()
        });
        self.changed.store(true, Ordering::Relaxed);
        results.into_iter().collect()
    }

    fn make(&self, wanted: Specialized) -> Result<(), VulkanError> {
        let raw = &self.gpu.raw;
        let info = vk::ShaderModuleCreateInfo::default().code(wanted.kernel.spirv());
        // SAFETY: the words are a module that spirv-val has passed.
        let module = unsafe { raw.create_shader_module(&info, None) }
            .map_err(|result| VulkanError::new("load a shader", result))?;
        let entries: Vec<vk::SpecializationMapEntry> = (0..wanted.constants.len() as u32)
            .map(|id| vk::SpecializationMapEntry { constant_id: id, offset: 4 * id, size: 4 })
            .collect();
        let specialization = vk::SpecializationInfo::default()
            .map_entries(&entries)
            .data(bytemuck::cast_slice(&wanted.constants));
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main")
            .specialization_info(&specialization);
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
            .required_subgroup_size(self.gpu.capabilities.subgroup);
        let stage = match wanted.kernel.counts_on_subgroups() {
            true => {
                stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS).push_next(&mut size)
            }
            false => stage,
        };
        let info = vk::ComputePipelineCreateInfo::default()
            // Large dispatches are submitted in parts.
            .flags(vk::PipelineCreateFlags::DISPATCH_BASE)
            .stage(stage)
            .layout(self.layout);
        // SAFETY: module, layout and cache are the device's; the cache may be used by several threads at once.
        let made = unsafe { raw.create_compute_pipelines(self.cache, &[info], None) };
        // SAFETY: nothing uses the module once its pipeline is there.
        unsafe { raw.destroy_shader_module(module, None) };
        let pipeline = made.map_err(|(_, result)| VulkanError::new("compile a shader", result))?[0];
        match self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(wanted) {
            Entry::Vacant(place) => {
                place.insert(pipeline);
            }
            // Another thread was faster, and may have recorded its own already.
            // SAFETY: nobody has seen this one.
            Entry::Occupied(_) => unsafe { raw.destroy_pipeline(pipeline, None) },
        }
        Ok(())
    }

    /// A pipeline that was [prepared](Pipelines::prepare).
    pub(super) fn get(&self, wanted: Specialized) -> vk::Pipeline {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)[&wanted]
    }

    /// Stores the compiled kernels. A failure is ignored: they are compiled again next time.
    fn remember(&self) {
        let Some(file) = &self.file else { return };
        // SAFETY: the cache is the device's and nobody else uses it any more.
        let Ok(data) = (unsafe { self.gpu.raw.get_pipeline_cache_data(self.cache) }) else { return };
        let write = || {
            fs::create_dir_all(file.parent()?).ok()?;
            let mut writer = AtomicFile::create(file).ok()?;
            writer.write_all(MAGIC).ok()?;
            writer.write_all(&crc32fast::hash(&data).to_le_bytes()).ok()?;
            writer.write_all(&data).ok()?;
            writer.commit().ok()
        };
        let _ = write();
    }
}

/// The driver's part of a stored cache, if it is intact.
fn read_cache(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, data) = rest.split_first_chunk()?;
    (crc32fast::hash(data) == u32::from_le_bytes(*sum)).then_some(data)
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if self.changed.load(Ordering::Relaxed) {
            self.remember();
        }
        let made = std::mem::take(self.made.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: command buffers that use them hold a reference to this and are gone by now.
        unsafe {
            made.into_values().for_each(|pipeline| self.gpu.raw.destroy_pipeline(pipeline, None));
            self.gpu.raw.destroy_pipeline_cache(self.cache, None);
            self.gpu.raw.destroy_pipeline_layout(self.layout, None);
            self.gpu.raw.destroy_descriptor_set_layout(self.set_layout, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let data = b"what a driver wrote";
        let mut file = MAGIC.to_vec();
        file.extend(crc32fast::hash(data).to_le_bytes());
        file.extend(data);
        assert_eq!(read_cache(&file), Some(&data[..]));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(read_cache(&damaged), None, "byte {at}");
            assert_eq!(read_cache(&file[..at]), None, "cut at {at}");
        }
    }
}
