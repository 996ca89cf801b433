//! Devices: a list of them, their capabilities, and an open one.
#![expect(unsafe_code, reason = "every call of Vulkan is one into foreign code")]

use std::{
    borrow::Cow,
    ffi::{CStr, c_void},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ash::{ext, khr, vk};

use super::{
    caps::{Capabilities, DeviceKind, MatrixShape, Tier},
    error::VulkanError,
};

/// Errors that the validation layer has reported to this process.
static VALIDATION_ERRORS: AtomicUsize = AtomicUsize::new(0);

/// How many errors the validation layer has reported to this process; 0 without `SDQ_VK_VALIDATE`.
pub fn validation_errors() -> usize {
    VALIDATION_ERRORS.load(Ordering::Relaxed)
}

const VALIDATION: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Component types of the operands and sums of matrix products.
const INTEGERS: [vk::ComponentTypeKHR; 2] = [vk::ComponentTypeKHR::SINT8, vk::ComponentTypeKHR::SINT32];
const HALVES: [vk::ComponentTypeKHR; 2] = [vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32];

/// The properties that a device reports.
struct Properties {
    base: vk::PhysicalDeviceProperties,
    driver: vk::PhysicalDeviceDriverProperties<'static>,
    vulkan13: vk::PhysicalDeviceVulkan13Properties<'static>,
    /// Invocations of a subgroup.
    subgroup: u32,
    max_allocation: u64,
    import_alignment: Option<u64>,
}

/// The optional features of a device.
struct Features {
    dot: bool,
    /// All features that kernels with matrices need.
    matrix: bool,
    /// Arithmetic with halves.
    halves: bool,
}

fn text(text: Result<&CStr, std::ffi::FromBytesUntilNulError>) -> String {
    text.map_or(Cow::Borrowed("?"), CStr::to_string_lossy).into_owned()
}

fn kind(of: vk::PhysicalDeviceType) -> DeviceKind {
    match of {
        vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
        vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::Integrated,
        vk::PhysicalDeviceType::VIRTUAL_GPU => DeviceKind::Virtual,
        vk::PhysicalDeviceType::CPU => DeviceKind::Software,
        _ => DeviceKind::Other,
    }
}

/// The loader and the Vulkan instance. All other Vulkan objects are destroyed before it.
pub(super) struct Instance {
    /// Keeps the loader's library open.
    _entry: ash::Entry,
    raw: ash::Instance,
    messages: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
}

impl Instance {
    pub(super) fn new() -> Result<Arc<Instance>, VulkanError> {
        // SAFETY: loading a library runs its initialisers; the Vulkan loader is made for being loaded at run time.
        let entry =
            unsafe { ash::Entry::load() }.map_err(|error| VulkanError::NoLoader(error.to_string()))?;
        let validate = std::env::var_os("SDQ_VK_VALIDATE").is_some_and(|value| value != "0");
        if validate {
            // SAFETY: the entry is loaded.
            let layers = unsafe { entry.enumerate_instance_layer_properties() }
                .map_err(|result| VulkanError::new("list layers", result))?;
            let found = layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(VALIDATION));
            if !found {
                return Err(VulkanError::NoValidation);
            }
        }
        let application =
            vk::ApplicationInfo::default().application_name(c"sdq").api_version(vk::API_VERSION_1_3);
        let layers = if validate { vec![VALIDATION.as_ptr()] } else { Vec::new() };
        let extensions = if validate { vec![ext::debug_utils::NAME.as_ptr()] } else { Vec::new() };
        let info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&extensions);
        // SAFETY: the names live until the call returns, and the layer was listed.
        let raw = unsafe { entry.create_instance(&info, None) }.map_err(|result| match result {
            // The loader has no driver.
            vk::Result::ERROR_INCOMPATIBLE_DRIVER => VulkanError::NoDevice,
            result => VulkanError::new("start", result),
        })?;
        let mut instance = Instance { _entry: entry, raw, messages: None };
        if validate {
            let debug = ext::debug_utils::Instance::new(&instance._entry, &instance.raw);
            let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
                .message_severity(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR)
                .message_type(
                    vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION
                        | vk::DebugUtilsMessageTypeFlagsEXT::GENERAL,
                )
                .pfn_user_callback(Some(on_message));
            // SAFETY: the callback is a function of this program and takes no user data.
            let messenger = unsafe { debug.create_debug_utils_messenger(&info, None) }
                .map_err(|result| VulkanError::new("report errors", result))?;
            instance.messages = Some((debug, messenger));
        }
        Ok(Arc::new(instance))
    }

    /// Every device, suitable or not, in the loader's order.
    pub(super) fn devices(&self) -> Result<Vec<(vk::PhysicalDevice, Capabilities)>, VulkanError> {
        // SAFETY: the instance is alive.
        let devices = unsafe { self.raw.enumerate_physical_devices() }
            .map_err(|result| VulkanError::new("list devices", result))?;
        Ok(devices.into_iter().map(|device| (device, self.capabilities(device))).collect())
    }

    fn capabilities(&self, device: vk::PhysicalDevice) -> Capabilities {
        // SAFETY: the handle came from this instance.
        let extensions =
            unsafe { self.raw.enumerate_device_extension_properties(device) }.unwrap_or_default();
        let has = |name: &CStr| extensions.iter().any(|found| found.extension_name_as_c_str() == Ok(name));
        let can_import = has(ext::external_memory_host::NAME);
        let Properties { base, driver, vulkan13, subgroup, max_allocation, import_alignment } =
            self.properties(device, can_import);
        let features = self.features(device, base.api_version, has(khr::cooperative_matrix::NAME));
        let matrix_ready = features.matrix
            && vulkan13.required_subgroup_size_stages.contains(vk::ShaderStageFlags::COMPUTE)
            && (vulkan13.min_subgroup_size..=vulkan13.max_subgroup_size).contains(&subgroup);
        let shapes =
            |wanted: bool, types| if wanted { self.matrix_shapes(device, types) } else { Vec::new() };
        // SAFETY: the handle came from this instance.
        let memory = unsafe { self.raw.get_physical_device_memory_properties(device) };
        // SAFETY: as above.
        let families = unsafe { self.raw.get_physical_device_queue_family_properties(device) };
        let computes =
            |family: &vk::QueueFamilyProperties| family.queue_flags.contains(vk::QueueFlags::COMPUTE);
        let limits = base.limits;
        Capabilities {
            name: text(base.device_name_as_c_str()),
            driver: format!(
                "{} {}",
                text(driver.driver_name_as_c_str()),
                text(driver.driver_info_as_c_str())
            )
            .trim()
            .to_owned(),
            driver_id: driver.driver_id,
            kind: kind(base.device_type),
            api: base.api_version,
            cache_key: format!(
                "{:08x}-{:08x}-{:08x}-{}",
                base.vendor_id,
                base.device_id,
                base.driver_version,
                base.pipeline_cache_uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            ),
            compute_family: families.iter().position(computes).map(|family| family as u32),
            max_binding: limits.max_storage_buffer_range.into(),
            max_allocation,
            alignment: limits.min_storage_buffer_offset_alignment,
            shared_memory: limits.max_compute_shared_memory_size,
            invocations: limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0]),
            bindings: limits.max_per_stage_descriptor_storage_buffers,
            groups: [limits.max_compute_work_group_count[0], limits.max_compute_work_group_count[1]],
            timestamp_nanoseconds: (limits.timestamp_compute_and_graphics == vk::TRUE)
                .then(|| f64::from(limits.timestamp_period)),
            dot: features.dot,
            dot_accelerated: vulkan13.integer_dot_product4x8_bit_packed_signed_accelerated != 0,
            subgroup: subgroup.clamp(1, 128),
            matrices: shapes(matrix_ready, INTEGERS),
            half_matrices: shapes(matrix_ready && features.halves, HALVES),
            import_alignment,
            has_budget: has(ext::memory_budget::NAME),
            memory,
        }
    }

    fn properties(&self, device: vk::PhysicalDevice, can_import: bool) -> Properties {
        // SAFETY: the handle came from this instance.
        let api = unsafe { self.raw.get_physical_device_properties(device) }.api_version;
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut subgroups = vk::PhysicalDeviceSubgroupProperties::default();
        let mut maintenance3 = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut maintenance4 = vk::PhysicalDeviceMaintenance4Properties::default();
        let mut vulkan13 = vk::PhysicalDeviceVulkan13Properties::default();
        let mut import = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut chain = vk::PhysicalDeviceProperties2::default()
            .push_next(&mut driver)
            .push_next(&mut subgroups)
            .push_next(&mut maintenance3);
        if api >= vk::API_VERSION_1_3 {
            chain = chain.push_next(&mut vulkan13).push_next(&mut maintenance4);
        }
        if can_import {
            chain = chain.push_next(&mut import);
        }
        // SAFETY: the chain holds only structures that this version and these extensions define.
        unsafe { self.raw.get_physical_device_properties2(device, &mut chain) };
        let base = chain.properties;
        let allocation = maintenance3.max_memory_allocation_size;
        Properties {
            base,
            driver: vk::PhysicalDeviceDriverProperties { p_next: std::ptr::null_mut(), ..driver },
            vulkan13: vk::PhysicalDeviceVulkan13Properties { p_next: std::ptr::null_mut(), ..vulkan13 },
            subgroup: subgroups.subgroup_size,
            max_allocation: match maintenance4.max_buffer_size {
                0 => allocation,
                buffer => buffer.min(allocation),
            },
            import_alignment: can_import.then_some(import.min_imported_host_pointer_alignment),
        }
    }

    fn features(&self, device: vk::PhysicalDevice, api: u32, can_matrix: bool) -> Features {
        let mut features13 = vk::PhysicalDeviceVulkan13Features::default();
        let mut features12 = vk::PhysicalDeviceVulkan12Features::default();
        let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut chain = vk::PhysicalDeviceFeatures2::default();
        if api >= vk::API_VERSION_1_3 {
            chain = chain.push_next(&mut features13).push_next(&mut features12);
        }
        if can_matrix {
            chain = chain.push_next(&mut matrix);
        }
        // SAFETY: the handle is the instance's, the chain holds what this version and extension define.
        unsafe { self.raw.get_physical_device_features2(device, &mut chain) };
        let needed = [
            matrix.cooperative_matrix,
            features12.vulkan_memory_model,
            features12.shader_int8,
            features13.subgroup_size_control,
            features13.compute_full_subgroups,
        ];
        Features {
            dot: features13.shader_integer_dot_product != 0,
            matrix: needed.iter().all(|feature| *feature != 0),
            halves: features12.shader_float16 != 0,
        }
    }

    fn matrix_shapes(
        &self,
        device: vk::PhysicalDevice,
        [operand, sum]: [vk::ComponentTypeKHR; 2],
    ) -> Vec<MatrixShape> {
        let functions = khr::cooperative_matrix::Instance::new(&self._entry, &self.raw);
        // SAFETY: the device has the extension.
        let found = unsafe { functions.get_physical_device_cooperative_matrix_properties(device) };
        let wanted = |shape: &&vk::CooperativeMatrixPropertiesKHR<'_>| {
            shape.a_type == operand
                && shape.b_type == operand
                && shape.c_type == sum
                && shape.result_type == sum
                && shape.scope == vk::ScopeKHR::SUBGROUP
                && shape.saturating_accumulation == 0
        };
        let found = found.unwrap_or_default();
        found
            .iter()
            .filter(wanted)
            .map(|shape| MatrixShape { m: shape.m_size, n: shape.n_size, k: shape.k_size })
            .collect()
    }

    /// Remaining budget of this process in each heap, in bytes.
    fn budget(&self, device: vk::PhysicalDevice) -> [u64; vk::MAX_MEMORY_HEAPS] {
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut memory = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the caller has seen the extension, and the handle is the instance's.
        unsafe { self.raw.get_physical_device_memory_properties2(device, &mut memory) };
        let mut left = [0; vk::MAX_MEMORY_HEAPS];
        for (left, (all, used)) in left.iter_mut().zip(budget.heap_budget.iter().zip(budget.heap_usage)) {
            *left = all.saturating_sub(used);
        }
        left
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: everything made of the instance holds a reference to it and is gone by now.
        unsafe {
            if let Some((debug, messenger)) = &self.messages {
                debug.destroy_debug_utils_messenger(*messenger, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}

extern "system" fn on_message(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    _user: *mut c_void,
) -> vk::Bool32 {
    VALIDATION_ERRORS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the layer passes a valid structure for the time of the call, whose text is null or ends in zero.
    let text = unsafe { data.as_ref().and_then(|data| data.message_as_c_str()) };
    eprintln!("validation: {}", text.map_or(Cow::Borrowed("?"), CStr::to_string_lossy));
    vk::FALSE
}

/// An open device.
pub(super) struct Gpu {
    pub(super) raw: ash::Device,
    pub(super) capabilities: Capabilities,
    pub(super) tier: Tier,
    pub(super) import: Option<ext::external_memory_host::Device>,
    physical: vk::PhysicalDevice,
    queue: Mutex<vk::Queue>,
    pub(super) family: u32,
    /// Bytes of device memory that are allocated.
    pub(super) allocated: AtomicU64,
    /// Last, because everything above is created from it.
    instance: Arc<Instance>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("name", &self.capabilities.name).field("tier", &self.tier).finish()
    }
}

impl Gpu {
    /// Opens a device for kernels of `tier`, which it must offer.
    pub(super) fn open(
        instance: &Arc<Instance>,
        physical: vk::PhysicalDevice,
        capabilities: Capabilities,
        tier: Tier,
    ) -> Result<Arc<Gpu>, VulkanError> {
        if let Some(lacks) = capabilities.lacks() {
            return Err(VulkanError::Unsuitable { device: capabilities.name, lacks });
        }
        let family = capabilities.compute_family.unwrap_or(0);
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(std::slice::from_ref(&1.0))];
        let mut extensions = Vec::new();
        if capabilities.import_alignment.is_some() {
            extensions.push(ext::external_memory_host::NAME.as_ptr());
        }
        if capabilities.has_budget {
            extensions.push(ext::memory_budget::NAME.as_ptr());
        }
        let matrix_tier = tier == Tier::Matrix;
        let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut features13 = vk::PhysicalDeviceVulkan13Features::default()
            .shader_integer_dot_product(tier >= Tier::Dot)
            .subgroup_size_control(matrix_tier)
            .compute_full_subgroups(matrix_tier);
        let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
            .shader_int8(matrix_tier)
            .shader_float16(matrix_tier && !capabilities.half_matrices.is_empty())
            .vulkan_memory_model(matrix_tier);
        if matrix_tier {
            extensions.push(khr::cooperative_matrix::NAME.as_ptr());
        }
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut features13)
            .push_next(&mut features12);
        if matrix_tier {
            info = info.push_next(&mut matrix);
        }
        // SAFETY: family, extensions and features are those that the device listed; the names live until the call
        // returns.
        let raw = unsafe { instance.raw.create_device(physical, &info, None) }
            .map_err(|result| VulkanError::new("open the device", result))?;
        // SAFETY: one queue of this family was asked for.
        let queue = unsafe { raw.get_device_queue(family, 0) };
        let import = capabilities
            .import_alignment
            .map(|_| ext::external_memory_host::Device::new(&instance.raw, &raw));
        Ok(Arc::new(Gpu {
            raw,
            capabilities,
            tier,
            import,
            physical,
            queue: Mutex::new(queue),
            family,
            allocated: AtomicU64::new(0),
            instance: instance.clone(),
        }))
    }

    /// The queue, for one submission: Vulkan allows only one at a time.
    pub(super) fn queue(&self) -> MutexGuard<'_, vk::Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that graphs may still allocate: the driver's budget, or else most of the largest heap.
    pub(super) fn memory_left(&self) -> u64 {
        let memory = &self.capabilities.memory;
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        let local = heaps
            .iter()
            .enumerate()
            .filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        let Some((index, heap)) = local.max_by_key(|(_, heap)| heap.size) else { return 0 };
        match self.capabilities.has_budget {
            true => self.instance.budget(self.physical)[index],
            // The memory that other programs use is unknown.
            false => (heap.size / 10 * 8).saturating_sub(self.allocated.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: everything made of the device holds a reference to it and is gone by now.
        unsafe {
            // A lost device cannot be waited for, and need not be.
            let _ = self.raw.device_wait_idle();
            self.raw.destroy_device(None);
        }
    }
}
