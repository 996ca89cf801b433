//! Records commands once, and submits them any number of times.
#![expect(unsafe_code, reason = "every call of Vulkan is one into foreign code")]

use std::sync::Arc;

use ash::vk;

use super::{
    buffer::Buffer,
    caps::BINDINGS,
    context::Context,
    device::Gpu,
    error::VulkanError,
    kernels::{Push, Specialized},
    pipelines::Pipelines,
};

/// A range of bytes of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A command for a device.
pub(super) enum Command<'a> {
    /// Runs a kernel over some workgroups. Bindings are numbered as in the shader.
    Dispatch {
        kernel: Specialized,
        bindings: Vec<(u32, Slice<'a>)>,
        push: Push,
        /// Workgroups along the first axis.
        width: u32,
        /// Workgroups along the second axis: the first, and their number.
        rows: [u32; 2],
    },
    /// Makes earlier writes visible to later commands.
    Barrier,
    /// Copies bytes from one buffer to another.
    Copy { from: Slice<'a>, to: Slice<'a> },
    /// Writes a timestamp to the query of this number.
    Timestamp(u32),
}

/// Recorded commands. The buffers that they refer to must outlive them.
#[derive(Clone, Copy)]
pub(super) struct Recorded(vk::CommandBuffer);

/// Records and submits commands. Recorded commands must not outlive it.
pub(super) struct Commands {
    gpu: Arc<Gpu>,
    pipelines: Arc<Pipelines>,
    pool: vk::CommandPool,
    sets: Vec<vk::DescriptorPool>,
    fence: vk::Fence,
    times: Option<(vk::QueryPool, u32)>,
}

// SAFETY: handles are plain numbers, and `&mut self` is needed for every operation that Vulkan allows only
// one thread at a time.
unsafe impl Send for Commands {}

impl Commands {
    pub(super) fn new(context: &Context) -> Result<Commands, VulkanError> {
        let Context { gpu, pipelines, .. } = context;
        let mut commands = Commands {
            gpu: gpu.clone(),
            pipelines: pipelines.clone(),
            pool: vk::CommandPool::null(),
            sets: Vec::new(),
            fence: vk::Fence::null(),
            times: None,
        };
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(gpu.family);
        // SAFETY: the device is alive and has the family.
        commands.pool = unsafe { gpu.raw.create_command_pool(&info, None) }
            .map_err(|result| VulkanError::new("make a command pool", result))?;
        // SAFETY: the device is alive.
        commands.fence = unsafe { gpu.raw.create_fence(&vk::FenceCreateInfo::default(), None) }
            .map_err(|result| VulkanError::new("make a fence", result))?;
        Ok(commands)
    }

    /// Records `commands`, whose kernels have been prepared.
    pub(super) fn record(&mut self, commands: &[Command<'_>]) -> Result<Recorded, VulkanError> {
        let sets = self.describe(commands)?;
        let info = vk::CommandBufferAllocateInfo::default().command_pool(self.pool).command_buffer_count(1);
        // SAFETY: the pool is the device's and used by one thread.
        let buffer = unsafe { self.gpu.raw.allocate_command_buffers(&info) }
            .map_err(|result| VulkanError::new("make a command buffer", result))?[0];
        // SAFETY: all handles are the device's and alive; kernels, bindings and ranges fit each other by
        // construction of the dispatches, which the validation layer checks in tests.
        unsafe { self.write(buffer, commands, &sets) }
            .map_err(|result| VulkanError::new("record commands", result))?;
        Ok(Recorded(buffer))
    }

    /// Creates a descriptor set for each dispatch, in order.
    fn describe(&mut self, commands: &[Command<'_>]) -> Result<Vec<vk::DescriptorSet>, VulkanError> {
        let dispatches: Vec<&Vec<(u32, Slice<'_>)>> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Dispatch { bindings, .. } => Some(bindings),
                _ => None,
            })
            .collect();
        if dispatches.is_empty() {
            return Ok(Vec::new());
        }
        let count = dispatches.len() as u32;
        let sizes = vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(count * BINDINGS);
        let info =
            vk::DescriptorPoolCreateInfo::default().max_sets(count).pool_sizes(std::slice::from_ref(&sizes));
        let raw = &self.gpu.raw;
        // SAFETY: the device is alive.
        let pool = unsafe { raw.create_descriptor_pool(&info, None) }
            .map_err(|result| VulkanError::new("make bindings", result))?;
        self.sets.push(pool);
        let layouts = vec![self.pipelines.set_layout; dispatches.len()];
        let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(pool).set_layouts(&layouts);
        // SAFETY: the pool has room for as many sets of this layout.
        let sets = unsafe { raw.allocate_descriptor_sets(&info) }
            .map_err(|result| VulkanError::new("make bindings", result))?;
        for (&set, bindings) in sets.iter().zip(dispatches) {
            // Every binding that the shader declares needs a buffer, even where its constants keep it from
            // being read.
            let ranges: Vec<[vk::DescriptorBufferInfo; 1]> = (0..BINDINGS)
                .map(|number| {
                    let used = bindings.iter().find(|(binding, _)| *binding == number);
                    let (_, slice) = used.unwrap_or(&bindings[0]);
                    let info = vk::DescriptorBufferInfo::default().buffer(slice.buffer.raw);
                    [info.offset(slice.offset).range(slice.size)]
                })
                .collect();
            let writes: Vec<vk::WriteDescriptorSet<'_>> = (0..)
                .zip(&ranges)
                .map(|(binding, range)| {
                    vk::WriteDescriptorSet::default()
                        .dst_set(set)
                        .dst_binding(binding)
                        .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                        .buffer_info(range)
                })
                .collect();
            // SAFETY: the sets are new; ranges lie in their buffers, and offsets are aligned as the device asks.
            unsafe { raw.update_descriptor_sets(&writes, &[]) };
        }
        Ok(sets)
    }

    /// # Safety
    /// Everything that `commands` refer to must belong to the device, be alive and lie within its buffer.
    unsafe fn write(
        &self,
        buffer: vk::CommandBuffer,
        commands: &[Command<'_>],
        sets: &[vk::DescriptorSet],
    ) -> Result<(), vk::Result> {
        let (raw, layout) = (&self.gpu.raw, self.pipelines.layout);
        let compute = vk::PipelineBindPoint::COMPUTE;
        let mut sets = sets.iter();
        // SAFETY: promised by the caller.
        unsafe {
            raw.begin_command_buffer(buffer, &vk::CommandBufferBeginInfo::default())?;
            for command in commands {
                match command {
                    Command::Dispatch { kernel, push, width, rows, .. } => {
                        let set = sets.next().expect("every dispatch has one");
                        raw.cmd_bind_pipeline(buffer, compute, self.pipelines.get(*kernel));
                        raw.cmd_bind_descriptor_sets(buffer, compute, layout, 0, &[*set], &[]);
                        let stage = vk::ShaderStageFlags::COMPUTE;
                        raw.cmd_push_constants(buffer, layout, stage, 0, push.bytes());
                        raw.cmd_dispatch_base(buffer, 0, rows[0], 0, *width, rows[1], 1);
                    }
                    Command::Barrier => {
                        let stages =
                            vk::PipelineStageFlags::COMPUTE_SHADER | vk::PipelineStageFlags::TRANSFER;
                        let written = vk::AccessFlags::SHADER_WRITE | vk::AccessFlags::TRANSFER_WRITE;
                        let read = vk::AccessFlags::SHADER_READ | vk::AccessFlags::TRANSFER_READ;
                        let barrier = vk::MemoryBarrier::default()
                            .src_access_mask(written)
                            .dst_access_mask(read | written | vk::AccessFlags::HOST_READ);
                        let after = stages | vk::PipelineStageFlags::HOST;
                        let none = vk::DependencyFlags::empty();
                        raw.cmd_pipeline_barrier(buffer, stages, after, none, &[barrier], &[], &[]);
                    }
                    Command::Copy { from, to } => {
                        let region = vk::BufferCopy::default()
                            .src_offset(from.offset)
                            .dst_offset(to.offset)
                            .size(from.size.min(to.size));
                        raw.cmd_copy_buffer(buffer, from.buffer.raw, to.buffer.raw, &[region]);
                    }
                    Command::Timestamp(number) => {
                        if let Some((pool, count)) = self.times {
                            if *number == 0 {
                                raw.cmd_reset_query_pool(buffer, pool, 0, count);
                            }
                            let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
                            raw.cmd_write_timestamp(buffer, stage, pool, *number);
                        }
                    }
                }
            }
            raw.end_command_buffer(buffer)
        }
    }

    /// Creates room for `count` timestamps.
    pub(super) fn make_times(&mut self, count: u32) -> Result<(), VulkanError> {
        if self.times.is_none() {
            let info =
                vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(count);
            // SAFETY: the device is alive.
            let pool = unsafe { self.gpu.raw.create_query_pool(&info, None) }
                .map_err(|result| VulkanError::new("make timestamps", result))?;
            self.times = Some((pool, count));
        }
        Ok(())
    }

    /// The timestamps of the last submission that noted them, in the device's ticks.
    pub(super) fn times(&self) -> Result<Vec<u64>, VulkanError> {
        let Some((pool, count)) = self.times else { return Ok(Vec::new()) };
        let mut ticks = vec![0_u64; count as usize];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        // SAFETY: as many queries were made.
        unsafe { self.gpu.raw.get_query_pool_results(pool, 0, &mut ticks, flags) }
            .map_err(|result| VulkanError::new("read timestamps", result))?;
        Ok(ticks)
    }

    /// Submits each of `recorded` in order, as a submission of its own, and waits until all are done.
    /// Allocates nothing.
    pub(super) fn run(&mut self, recorded: &[Recorded]) -> Result<(), VulkanError> {
        let Some(last) = recorded.len().checked_sub(1) else { return Ok(()) };
        let queue = self.gpu.queue();
        for (index, buffer) in recorded.iter().enumerate() {
            let info = vk::SubmitInfo::default().command_buffers(std::slice::from_ref(&buffer.0));
            let fence = if index == last { self.fence } else { vk::Fence::null() };
            // SAFETY: the commands are whole, what they name is alive, and the queue is held.
            let submitted = unsafe { self.gpu.raw.queue_submit(*queue, &[info], fence) };
            if let Err(result) = submitted {
                // Earlier submissions must not outlive this call.
                // SAFETY: the queue is held.
                let _ = unsafe { self.gpu.raw.queue_wait_idle(*queue) };
                return Err(VulkanError::new("submit work", result));
            }
        }
        drop(queue);
        let fences = [self.fence];
        // SAFETY: the fence was submitted above and is used by nobody else.
        unsafe { self.gpu.raw.wait_for_fences(&fences, true, u64::MAX) }
            .and_then(|()| {
                // SAFETY: nothing that is submitted names the fence any more.
                unsafe { self.gpu.raw.reset_fences(&fences) }
            })
            .map_err(|result| VulkanError::new("finish work", result))
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // SAFETY: `run` waits for what it submits, so that nothing is in use.
        unsafe {
            if let Some((pool, _)) = self.times {
                self.gpu.raw.destroy_query_pool(pool, None);
            }
            self.sets.drain(..).for_each(|pool| self.gpu.raw.destroy_descriptor_pool(pool, None));
            self.gpu.raw.destroy_fence(self.fence, None);
            self.gpu.raw.destroy_command_pool(self.pool, None);
        }
    }
}
