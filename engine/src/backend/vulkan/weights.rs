//! The places of a graph's weights on the device, in the file's format.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use bytemuck::cast_slice;
use sdq_formats::{
    WeightRole, WeightSpec, WeightType,
    layout::{PANEL, WeightData, columns::Columns, stored_parts},
    mmap::{self, Bytes},
};

use super::{
    buffer::{Buffer, Purpose},
    caps::Capabilities,
    commands::{Command, Commands, Slice},
    context::Context,
    device::Gpu,
    error::VulkanError,
    schedule::{Place, Region},
    transfer::upload,
};
use crate::{
    Error,
    backend::{WeightSource, prepare::GraphWeights, row_layout::RowLayout},
    graph::WeightId,
};

/// Maximum size of a buffer of weights, unless a single weight is larger.
const BUFFER_BYTES: u64 = 256 << 20;

/// Alignment of the parts of weights on the device: every device allows a binding to start there.
pub(super) const ALIGNMENT: u64 = 256;

/// The bytes of a part of a weight, and their destination.
struct PartSource<'w> {
    bytes: &'w [u8],
    region: Region,
}

/// A weight of a graph.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) form: Form,
    pub(super) values: Region,
    pub(super) multipliers: Option<Region>,
    pub(super) scales: Option<Region>,
    /// Sums of the columns of integer weights, see `column_sums.comp`.
    pub(super) column_sums: Option<Region>,
}

/// How a weight's values are stored.
#[derive(Clone, Debug)]
pub(super) enum Form {
    Floats,
    Halves,
    /// Bytes, each row of a table with a scale.
    Bytes,
    /// The integers of a matrix or convolution.
    Integers(Integers),
}

/// Integers in panels.
#[derive(Clone, Debug)]
pub(super) struct Integers {
    pub(super) columns: Columns,
    /// The layout of the rows that they are multiplied with.
    pub(super) layout: RowLayout,
    /// Whether they have four bits and multipliers.
    pub(super) packed: bool,
}

/// The planned places of all weights.
#[derive(Default)]
pub(super) struct Placement<'w> {
    placed: Vec<Placed>,
    sources: Vec<PartSource<'w>>,
    /// Sizes of the buffers.
    buffers: Vec<u64>,
    column_sums: u64,
}

impl<'w> Placement<'w> {
    /// Places every weight of `specs`.
    pub(super) fn new(specs: &[WeightSpec], source: &WeightSource<'w>) -> Result<Placement<'w>, Error> {
        let mut placement = Placement::default();
        for spec in specs {
            source.bind(spec, |weight| placement.place(weight.spec, weight.data))?;
        }
        Ok(placement)
    }

    /// Places one weight; `None` where no kernel reads its type in its role.
    fn place(&mut self, spec: &WeightSpec, data: WeightData<'w>) -> Option<()> {
        let is_product = matches!(spec.role, WeightRole::Matrix | WeightRole::Conv);
        let mut placed = match data {
            WeightData::F32(values) => self.plain(Form::Floats, cast_slice(values)),
            WeightData::F16(_) if spec.role == WeightRole::Vector => return None,
            WeightData::F16(values) => self.plain(Form::Halves, cast_slice(values)),
            WeightData::Q8 { values, scales } => {
                let form = match is_product {
                    true => Form::Integers(Integers::new(spec, false)?),
                    false if spec.role == WeightRole::Table => Form::Bytes,
                    false => return None,
                };
                let scales = self.part(cast_slice(scales));
                Placed { scales: Some(scales), ..self.plain(form, cast_slice(values)) }
            }
            WeightData::Q4 { values, multipliers, scales } if is_product => {
                let form = Form::Integers(Integers::new(spec, true)?);
                let (multipliers, scales) = (self.part(multipliers), self.part(cast_slice(scales)));
                Placed { multipliers: Some(multipliers), scales: Some(scales), ..self.plain(form, values) }
            }
            WeightData::Q4 { .. } => return None,
        };
        if let Form::Integers(integers) = &placed.form {
            let panels = spec.shape[0].div_ceil(PANEL) as u64;
            let blocks = (integers.columns.taps() * integers.layout.block_count()) as u64;
            let size = panels * blocks * (PANEL as u64) * 2;
            placed.column_sums = Some(Region { place: Place::ColumnSums, offset: self.column_sums, size });
            self.column_sums = (self.column_sums + size).next_multiple_of(ALIGNMENT);
        }
        self.placed.push(placed);
        Some(())
    }

    fn plain(&mut self, form: Form, values: &'w [u8]) -> Placed {
        Placed { form, values: self.part(values), multipliers: None, scales: None, column_sums: None }
    }

    fn part(&mut self, bytes: &'w [u8]) -> Region {
        // Kernels read whole words, so the size is rounded up.
        let size = (bytes.len() as u64).next_multiple_of(4);
        let fits = self.buffers.last().is_some_and(|used| used + size <= BUFFER_BYTES);
        if !fits {
            self.buffers.push(0);
        }
        let place = Place::Weights(self.buffers.len() as u32 - 1);
        let used = self.buffers.last_mut().expect("pushed above");
        let region = Region { place, offset: *used, size };
        *used = (*used + size).next_multiple_of(ALIGNMENT);
        self.sources.push(PartSource { bytes, region });
        region
    }

    /// Weights of the right shapes for measurements: all are parts of `zeros`, which must be as long as the
    /// largest.
    pub(super) fn blank(specs: &[WeightSpec], integers: bool, zeros: &'w [f32]) -> Placement<'w> {
        let mut placement = Placement::default();
        for spec in specs {
            let is_product = matches!(spec.role, WeightRole::Matrix | WeightRole::Conv);
            let weight_type = if integers && is_product { WeightType::Q8 } else { WeightType::F32 };
            let parts = stored_parts(spec, weight_type).expect("small shapes have sizes");
            let zeros = |index: usize| &zeros[..parts[index].bytes / size_of::<f32>()];
            let data = match weight_type {
                WeightType::Q8 => WeightData::Q8 { values: cast_slice(zeros(0)), scales: zeros(1) },
                _ => WeightData::F32(zeros(0)),
            };
            placement.place(spec, data).expect("every kernel reads floats and q8");
        }
        placement
    }

    /// Size on the device if nothing is read in place.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().sum()
    }

    /// Size of the sums of columns, in bytes.
    pub(super) fn column_sum_bytes(&self) -> u64 {
        self.column_sums
    }

    pub(super) fn get(&self, id: WeightId) -> &Placed {
        &self.placed[id.0]
    }

    /// Every weight, in the graph's order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Placed> {
        self.placed.iter()
    }
}

impl GraphWeights for Placement<'_> {
    fn is_quantized(&self, id: WeightId) -> bool {
        matches!(self.placed[id.0].form, Form::Integers(_))
    }
}

impl Integers {
    fn new(spec: &WeightSpec, packed: bool) -> Option<Integers> {
        let columns = Columns::of(spec)?;
        Some(Integers { layout: RowLayout::new(columns.inputs()), columns, packed })
    }
}

/// Weights on the device.
pub(super) struct Resident<'w> {
    buffers: Vec<Buffer>,
    /// Pages that are read in place must stay mapped.
    _pages: PhantomData<&'w [u8]>,
}

impl<'w> Resident<'w> {
    /// Brings the weights of `placement` to the device: read in place where host and device share memory and
    /// the driver supports it, otherwise copied. Afterwards `placement` holds their actual places.
    pub(super) fn new(context: &Context, placement: &mut Placement<'w>) -> Result<Resident<'w>, VulkanError> {
        let gpu = &context.gpu;
        if context.reads_in_place
            && let Some(buffers) = in_place(gpu, placement)
        {
            return Ok(Resident { buffers, _pages: PhantomData });
        }
        let mut buffers = Vec::new();
        for (number, &size) in placement.buffers.iter().enumerate() {
            let mut buffer = Buffer::new(gpu, size, Purpose::Weights)?;
            let own = |source: &&PartSource<'_>| source.region.place == Place::Weights(number as u32);
            let parts = placement.sources.iter().filter(own);
            upload(context, &mut buffer, parts.map(|part| (part.region.offset, part.bytes)))?;
            buffers.push(buffer);
        }
        Ok(Resident { buffers, _pages: PhantomData })
    }

    pub(super) fn buffer(&self, number: u32) -> &Buffer {
        &self.buffers[number as usize]
    }
}

/// The page size of every system on which files are mapped, or a divisor of it.
const PAGE: usize = 4096;

/// Whether a device of this kind may read the pages of mapped files where they lie.
pub(super) fn may_read_in_place(capabilities: &Capabilities) -> bool {
    capabilities.shares_memory()
        && capabilities.import_alignment.is_some_and(|alignment| alignment <= PAGE as u64)
        && capabilities.alignment <= mmap::ALIGNMENT as u64
}

/// Whether the device can actually read such a page. Some drivers accept it and then fail, or lose the
/// device, when work that reads it is submitted: they do not expect read-only pages of files.
pub(super) fn reads_in_place(context: &Context) -> Result<bool, VulkanError> {
    // A file that certainly exists, mapped in the same way as models.
    let mapped = std::env::current_exe().and_then(|program| Bytes::map(&program));
    let Some(page) = mapped.as_ref().ok().and_then(|bytes| bytes.get(..PAGE)) else { return Ok(false) };
    let Some(buffer) = import(&context.gpu, page, page.as_ptr().addr(), PAGE) else { return Ok(false) };
    let staging = Buffer::new(&context.gpu, PAGE as u64, Purpose::Staging)?;
    let slice = |buffer| Slice { buffer, offset: 0, size: PAGE as u64 };
    let copy = Command::Copy { from: slice(&buffer), to: slice(&staging) };
    let mut commands = Commands::new(context)?;
    let recorded = commands.record(&[copy, Command::Barrier])?;
    commands.run(&[recorded])?;
    Ok(staging.bytes() == Some(page))
}

/// Buffers over the pages of the mapped files; `None` where the driver does not accept them.
fn in_place(gpu: &Arc<Gpu>, placement: &mut Placement<'_>) -> Option<Vec<Buffer>> {
    let address = |part: &PartSource<'_>| part.bytes.as_ptr().addr();
    let mut order: Vec<usize> = (0..placement.sources.len()).collect();
    order.sort_by_key(|&index| address(&placement.sources[index]));
    // Runs of parts with gaps of less than a page, and the end of each: every page up to there is mapped.
    let mut runs: Vec<(Vec<usize>, usize)> = Vec::new();
    for index in order {
        let part = &placement.sources[index];
        let part_end = address(part) + part.bytes.len();
        match runs.last_mut() {
            Some((run, end)) if address(part) < *end + PAGE => {
                run.push(index);
                *end = part_end.max(*end);
            }
            _ => runs.push((vec![index], part_end)),
        }
    }
    let mut buffers = Vec::new();
    let mut moved = Vec::new();
    for (run, end) in runs {
        let first = &placement.sources[run[0]];
        let start = address(first) / PAGE * PAGE;
        let length = (end - start).next_multiple_of(PAGE);
        if length as u64 > gpu.capabilities.max_allocation {
            return None;
        }
        let buffer = import(gpu, first.bytes, start, length)?;
        for index in run {
            let part = &placement.sources[index];
            let place = Place::Weights(buffers.len() as u32);
            let offset = (address(part) - start) as u64;
            moved.push((part.region, Region { place, offset, size: part.region.size }));
        }
        buffers.push(buffer);
    }
    let moved: HashMap<Region, Region> = moved.into_iter().collect();
    for placed in &mut placement.placed {
        let regions = [Some(&mut placed.values), placed.multipliers.as_mut(), placed.scales.as_mut()];
        regions.into_iter().flatten().for_each(|region| *region = moved[region]);
    }
    Some(buffers)
}

/// A buffer over the pages from `start` on, whose first page contains the start of `first`. Callers drop it
/// before the memory that `first` borrows from.
#[expect(unsafe_code, reason = "the pages around a weight are named by their address")]
fn import(gpu: &Arc<Gpu>, first: &[u8], start: usize, length: usize) -> Option<Buffer> {
    // SAFETY: every page up to `length` holds bytes of the same borrow or less than a page between two of them, so all
    // are mapped while it lasts: `Resident` holds it, the trial outlives its buffer. Kernels read only those bytes.
    unsafe { Buffer::import(gpu, first.as_ptr().with_addr(start), length) }.ok()
}
