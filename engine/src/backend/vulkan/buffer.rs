//! Memory of the device.
#![expect(unsafe_code, reason = "every call of Vulkan is one into foreign code")]

use std::{
    ptr::NonNull,
    slice,
    sync::{Arc, atomic::Ordering},
};

use ash::vk;

use super::{device::Gpu, error::VulkanError};

/// The purpose of a buffer, which decides in which memory it is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Kernels read and write it; the host does not.
    Device,
    /// The host writes it once; kernels read it.
    Weights,
    /// For transfers between host and device.
    Staging,
}

/// Properties of memory.
type Flags = vk::MemoryPropertyFlags;

const DEVICE: Flags = Flags::DEVICE_LOCAL;
const VISIBLE: Flags = Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw());
const CACHED: Flags = Flags::from_raw(VISIBLE.as_raw() | Flags::HOST_CACHED.as_raw());
const BOTH: Flags = Flags::from_raw(VISIBLE.as_raw() | DEVICE.as_raw());

impl Purpose {
    /// Properties in order of preference.
    fn preferences(self, shared: bool) -> &'static [Flags] {
        match self {
            Purpose::Weights if shared => const { &[BOTH, DEVICE, Flags::empty()] },
            Purpose::Device | Purpose::Weights => const { &[DEVICE, Flags::empty()] },
            // Reading uncached memory is very slow.
            Purpose::Staging => const { &[CACHED, VISIBLE] },
        }
    }
}

/// A buffer with memory of its own.
pub(super) struct Buffer {
    gpu: Arc<Gpu>,
    pub(super) raw: vk::Buffer,
    memory: vk::DeviceMemory,
    size: u64,
    /// Its address for the host, if the host can access it.
    mapped: Option<NonNull<u8>>,
    /// Bytes that count as allocated.
    counted: u64,
}

// SAFETY: the pointer is to memory that belongs to the buffer alone, and is only followed through `&` and `&mut` of it.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Buffer {}

const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

impl Buffer {
    /// Allocates at least `size` bytes, with undefined content.
    pub(super) fn new(gpu: &Arc<Gpu>, size: u64, purpose: Purpose) -> Result<Buffer, VulkanError> {
        let size = size.max(4).next_multiple_of(4);
        let limit = gpu.capabilities.max_allocation;
        if size > limit {
            return Err(VulkanError::TooLarge { what: "a buffer".to_owned(), bytes: size, limit });
        }
        let info = vk::BufferCreateInfo::default().size(size).usage(USAGE);
        let mut buffer = Buffer::without_memory(gpu, &info)?;
        // SAFETY: the buffer is the device's.
        let needs = unsafe { gpu.raw.get_buffer_memory_requirements(buffer.raw) };
        let types = gpu.capabilities.memory;
        let types = &types.memory_types[..types.memory_type_count as usize];
        let mut error = VulkanError::OutOfMemory { bytes: needs.size };
        // Uses the first kind of memory that has room.
        for &wanted in purpose.preferences(gpu.capabilities.shares_memory()) {
            let fits = |&(index, memory): &(usize, &vk::MemoryType)| {
                needs.memory_type_bits & (1 << index) != 0 && memory.property_flags.contains(wanted)
            };
            let Some((index, memory)) = types.iter().enumerate().find(fits) else { continue };
            let info =
                vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(index as u32);
            // SAFETY: type and size are those that the buffer requires.
            match unsafe { gpu.raw.allocate_memory(&info, None) } {
                Ok(allocated) => {
                    buffer.take(allocated, needs.size)?;
                    if memory.property_flags.contains(
                        vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT,
                    ) {
                        buffer.map()?;
                    }
                    return Ok(buffer);
                }
                Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY) => {}
                Err(result) => error = VulkanError::new("allocate memory", result),
            }
        }
        Err(error)
    }

    fn without_memory(gpu: &Arc<Gpu>, info: &vk::BufferCreateInfo<'_>) -> Result<Buffer, VulkanError> {
        // SAFETY: the device is alive, and the size within its limits.
        let raw = unsafe { gpu.raw.create_buffer(info, None) }
            .map_err(|result| VulkanError::new("make a buffer", result))?;
        let memory = vk::DeviceMemory::null();
        Ok(Buffer { gpu: gpu.clone(), raw, memory, size: info.size, mapped: None, counted: 0 })
    }

    /// A buffer over `length` bytes of whole pages of the host, which kernels read and never write.
    ///
    /// # Safety
    /// The pages must stay mapped as long as the buffer lives, and the parts that kernels read must not
    /// change.
    pub(super) unsafe fn import(
        gpu: &Arc<Gpu>,
        pages: *const u8,
        length: usize,
    ) -> Result<Buffer, VulkanError> {
        let unsuitable = VulkanError::Call {
            what: "read mapped pages in place",
            result: vk::Result::ERROR_INVALID_EXTERNAL_HANDLE,
        };
        let (Some(functions), Some(alignment)) = (&gpu.import, gpu.capabilities.import_alignment) else {
            return Err(unsuitable);
        };
        let size = length as u64;
        if !(pages.addr() as u64).is_multiple_of(alignment) || !size.is_multiple_of(alignment) {
            return Err(unsuitable);
        }
        let handle = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let mut found = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the pointer has the alignment that the device requires, and the pages are mapped.
        unsafe {
            (functions.fp().get_memory_host_pointer_properties_ext)(
                functions.device(),
                handle,
                pages.cast(),
                &mut found,
            )
        }
        .result()
        .map_err(|result| VulkanError::new("read mapped pages in place", result))?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle);
        let info = vk::BufferCreateInfo::default().size(size).usage(USAGE).push_next(&mut external);
        let mut buffer = Buffer::without_memory(gpu, &info)?;
        // SAFETY: the buffer is the device's.
        let needs = unsafe { gpu.raw.get_buffer_memory_requirements(buffer.raw) };
        let types = needs.memory_type_bits & found.memory_type_bits;
        if types == 0 || needs.size > size {
            return Err(unsuitable);
        }
        let mut host = vk::ImportMemoryHostPointerInfoEXT::default()
            .handle_type(handle)
            .host_pointer(pages.cast_mut().cast());
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut host);
        // SAFETY: the caller keeps the pages, the type is one that both sides allow. Kernels do not write the buffer.
        let memory = unsafe { gpu.raw.allocate_memory(&info, None) }
            .map_err(|result| VulkanError::new("read mapped pages in place", result))?;
        buffer.take(memory, 0)?;
        Ok(buffer)
    }

    fn take(&mut self, memory: vk::DeviceMemory, bytes: u64) -> Result<(), VulkanError> {
        (self.memory, self.counted) = (memory, bytes);
        self.gpu.allocated.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: buffer and memory are new and of one device.
        unsafe { self.gpu.raw.bind_buffer_memory(self.raw, memory, 0) }
            .map_err(|result| VulkanError::new("bind memory", result))
    }

    fn map(&mut self) -> Result<(), VulkanError> {
        // SAFETY: the memory is visible to the host and not mapped yet.
        let pointer =
            unsafe { self.gpu.raw.map_memory(self.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) };
        let pointer = pointer.map_err(|result| VulkanError::new("map memory", result))?;
        self.mapped = NonNull::new(pointer.cast());
        Ok(())
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes, if the host can access them.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        let pointer = self.mapped?;
        // SAFETY: the map covers the buffer and lives as long as it. The device writes it only between submission and
        // fence, when nobody reads.
        Some(unsafe { slice::from_raw_parts(pointer.as_ptr(), self.size as usize) })
    }

    /// The bytes, if the host can access them.
    pub(super) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let pointer = self.mapped?;
        // SAFETY: as above, and `self` is borrowed alone.
        Some(unsafe { slice::from_raw_parts_mut(pointer.as_ptr(), self.size as usize) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu.allocated.fetch_sub(self.counted, Ordering::Relaxed);
        // SAFETY: whoever submits work with the buffer waits for it; freeing memory unmaps it.
        unsafe {
            self.gpu.raw.destroy_buffer(self.raw, None);
            self.gpu.raw.free_memory(self.memory, None);
        }
    }
}
