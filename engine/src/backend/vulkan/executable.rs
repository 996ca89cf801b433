//! A graph that is ready to run on a device any number of times.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use sdq_formats::WeightSpec;

use super::{
    Prepared,
    buffer::{Buffer, Purpose},
    commands::{Command, Commands, Recorded, Slice},
    context::Context,
    error::VulkanError,
    kernels::Specialized,
    lower::{Bounds, Lowered},
    schedule::{Binding, Dispatch, Item, Place, Region, Schedule},
    transfer::upload,
    weights::{ALIGNMENT, Resident},
};
use crate::{
    Error,
    backend::Executable,
    graph::{PreparedGraph, PreparedNode, TensorId, plan::Plan},
    pages::Pages,
};

/// How the host uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The host sets it.
    Input,
    /// The host sets it or reads it.
    Kept,
    /// The host reads it.
    Output,
}

/// A tensor that the host sets or reads.
struct Crossing {
    name: String,
    role: Role,
    tensor: TensorId,
    /// Its values on the host.
    values: Pages,
    /// Its offset in the staging buffer.
    staged: u64,
    /// Whether the host has set it since it was last transferred.
    is_set: bool,
    /// Transfers it to the device; `None` for outputs.
    send: Option<Recorded>,
}

/// The buffers that a graph's kernels access.
struct Buffers<'w> {
    arena: Buffer,
    tables: Buffer,
    column_sums: Buffer,
    weights: Resident<'w>,
}

impl Buffers<'_> {
    fn slice(&self, region: &Region) -> Slice<'_> {
        let buffer = match region.place {
            Place::Arena => &self.arena,
            Place::Tables => &self.tables,
            Place::ColumnSums => &self.column_sums,
            Place::Weights(number) => self.weights.buffer(number),
        };
        Slice { buffer, offset: region.offset, size: region.size }
    }
}

/// A compiled graph. The recorded commands are dropped before the buffers that they refer to.
pub(super) struct VulkanExecutable<'w> {
    commands: Commands,
    whole: Vec<Recorded>,
    beside_kept: Vec<Recorded>,
    /// The commands of each node, for runs that measure or watch single nodes.
    nodes: Vec<Vec<Recorded>>,
    /// Fetches outputs and kept tensors, or outputs alone.
    fetch_all: Recorded,
    fetch_outputs: Recorded,
    /// Reused by every run.
    submissions: Vec<Recorded>,
    crossings: Vec<Crossing>,
    dispatches: Vec<Dispatch>,
    graph: PreparedGraph,
    plan: Plan,
    watched: Option<Watched>,
    staging: Buffer,
    buffers: Buffers<'w>,
    context: Context,
}

/// Copies the left operands of products for the host.
struct Watched {
    /// For each node, the commands that copy its first input.
    copies: HashMap<usize, Recorded>,
    buffer: Buffer,
}

impl<'w> VulkanExecutable<'w> {
    pub(super) fn new(
        context: &Context,
        mut prepared: Prepared<'w>,
        bounds: &Bounds,
    ) -> Result<VulkanExecutable<'w>, Error> {
        let weights = Resident::new(context, &mut prepared.weights)?;
        let Lowered { dispatches, preparation, tables, arena } = prepared.lower(bounds)?;
        let Prepared { graph, plan, weights: placement, .. } = prepared;
        let gpu = &context.gpu;
        let mut table_buffer = Buffer::new(gpu, tables.len() as u64 * 4, Purpose::Weights)?;
        upload(context, &mut table_buffer, std::iter::once((0, bytemuck::cast_slice(&tables))))?;
        let buffers = Buffers {
            arena: Buffer::new(gpu, arena, Purpose::Device)?,
            tables: table_buffer,
            column_sums: Buffer::new(gpu, placement.column_sum_bytes(), Purpose::Device)?,
            weights,
        };
        let (mut crossings, staged) = crossings(&graph)?;
        let staging = Buffer::new(gpu, staged, Purpose::Staging)?;

        let kernels: HashSet<Specialized> =
            dispatches.iter().chain(&preparation).map(|dispatch| dispatch.kernel).collect();
        context.pipelines.prepare(&kernels)?;
        let mut commands = Commands::new(context)?;
        let sums = Schedule::new(&preparation, |_| true);
        let sums = record(&mut commands, &buffers, &preparation, &sums)?;
        commands.run(&sums)?;

        let schedule = Schedule::new(&dispatches, |_| true);
        let whole = record(&mut commands, &buffers, &dispatches, &schedule)?;
        let ends = |crossing: &Crossing| {
            let range = plan.range(crossing.tensor.0);
            let size = size_of_val(&*crossing.values) as u64;
            let region = Region { place: Place::Arena, offset: range.start as u64 * 4, size };
            (Slice { buffer: &staging, offset: crossing.staged, size }, buffers.slice(&region))
        };
        for crossing in crossings.iter_mut().filter(|crossing| crossing.role != Role::Output) {
            let (staged, tensor) = ends(crossing);
            let send = [Command::Copy { from: staged, to: tensor }, Command::Barrier];
            crossing.send = Some(commands.record(&send)?);
        }
        let mut fetch = |roles: &[Role]| {
            let fetched = crossings.iter().filter(|crossing| roles.contains(&crossing.role));
            let copies = fetched.map(|crossing| {
                let (staged, tensor) = ends(crossing);
                Command::Copy { from: tensor, to: staged }
            });
            let list: Vec<Command<'_>> =
                std::iter::once(Command::Barrier).chain(copies).chain([Command::Barrier]).collect();
            commands.record(&list)
        };
        let (fetch_all, fetch_outputs) = (fetch(&[Role::Output, Role::Kept])?, fetch(&[Role::Output])?);
        Ok(VulkanExecutable {
            submissions: Vec::with_capacity(whole.len() + crossings.len() + 1),
            commands,
            whole,
            beside_kept: Vec::new(),
            nodes: Vec::new(),
            fetch_all,
            fetch_outputs,
            crossings,
            dispatches,
            graph,
            plan,
            watched: None,
            staging,
            buffers,
            context: context.clone(),
        })
    }

    /// Transfers the inputs that were set, runs `submissions`, and fetches the tensors that the host reads.
    fn submit(&mut self, run: Run) -> Result<(), Error> {
        self.submissions.clear();
        let staging = self.staging.bytes_mut().expect("staging buffers are visible");
        for crossing in self.crossings.iter_mut().filter(|crossing| crossing.is_set) {
            if let Some(send) = crossing.send {
                let bytes = bytemuck::cast_slice(&crossing.values);
                staging[crossing.staged as usize..][..bytes.len()].copy_from_slice(bytes);
                self.submissions.push(send);
            }
        }
        match run {
            Run::Whole => self.submissions.extend(&self.whole),
            Run::BesideKept => self.submissions.extend(&self.beside_kept),
            Run::Nothing => {}
        }
        self.submissions.push(match run {
            Run::BesideKept => self.fetch_outputs,
            Run::Whole | Run::Nothing => self.fetch_all,
        });
        self.commands.run(&self.submissions)?;
        let staging = self.staging.bytes().expect("staging buffers are visible");
        for crossing in &mut self.crossings {
            crossing.is_set = false;
            let is_fetched = match crossing.role {
                Role::Input => false,
                Role::Kept => run != Run::BesideKept,
                Role::Output => true,
            };
            if is_fetched {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut crossing.values);
                bytes.copy_from_slice(&staging[crossing.staged as usize..][..bytes.len()]);
            }
        }
        Ok(())
    }

    /// Records each node separately.
    fn record_nodes(&mut self) -> Result<(), VulkanError> {
        if !self.nodes.is_empty() {
            return Ok(());
        }
        let timed = self.context.gpu.capabilities.timestamp_nanoseconds.is_some();
        let count = self.graph.nodes.len();
        if timed {
            self.commands.make_times(count as u32 + 1)?;
        }
        for node in 0..count {
            let schedule = Schedule::new(&self.dispatches, |dispatch| dispatch.node == node);
            let mut recorded = record(&mut self.commands, &self.buffers, &self.dispatches, &schedule)?;
            let mut end = vec![Command::Barrier];
            if timed {
                end.push(Command::Timestamp(node as u32 + 1));
            }
            recorded.push(self.commands.record(&end)?);
            self.nodes.push(recorded);
        }
        if timed {
            let start = self.commands.record(&[Command::Timestamp(0)])?;
            if let Some(first) = self.nodes.first_mut() {
                first.insert(0, start);
            }
        }
        Ok(())
    }

    /// Records the copies of the left operands of products in floats.
    fn record_watched(&mut self) -> Result<(), VulkanError> {
        if self.watched.is_some() {
            return Ok(());
        }
        let shown: Vec<(usize, TensorId)> = (0..self.graph.nodes.len())
            .filter(|&node| self.graph.nodes[node].op.product_weight().is_some())
            .map(|node| (node, self.graph.nodes[node].inputs[0]))
            .filter(|&(_, x)| !self.graph.is_bytes(x))
            .collect();
        let bytes = |tensor: TensorId| self.plan.range(tensor.0).len() as u64 * 4;
        let most = shown.iter().map(|&(_, x)| bytes(x)).max().unwrap_or(0);
        let buffer = Buffer::new(&self.context.gpu, most, Purpose::Staging)?;
        let mut copies = HashMap::new();
        for (node, x) in shown {
            let (offset, size) = (self.plan.range(x.0).start as u64 * 4, bytes(x));
            let from = Slice { buffer: &self.buffers.arena, offset, size };
            let copy = Command::Copy { from, to: Slice { buffer: &buffer, offset: 0, size } };
            copies.insert(node, self.commands.record(&[Command::Barrier, copy, Command::Barrier])?);
        }
        self.watched = Some(Watched { copies, buffer });
        Ok(())
    }

    fn crossing(&self, name: &str, is_wanted: impl Fn(Role) -> bool) -> usize {
        let found = self.crossings.iter().position(|port| port.name == name && is_wanted(port.role));
        found.unwrap_or_else(|| panic!("the graph has no input or output `{name}`"))
    }
}

/// The submissions between the transfers to and from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Whole,
    BesideKept,
    Nothing,
}

/// All inputs, outputs and kept tensors, and their size in the staging buffer.
fn crossings(graph: &PreparedGraph) -> Result<(Vec<Crossing>, u64), Error> {
    let mut crossings: Vec<Crossing> = Vec::new();
    let mut staged = 0;
    let roles = [(Role::Input, &graph.inputs), (Role::Kept, &graph.kept), (Role::Output, &graph.outputs)];
    for (role, port) in roles.into_iter().flat_map(|(role, ports)| ports.iter().map(move |port| (role, port)))
    {
        let values = Pages::zeros(graph.elements(port.tensor))?;
        let bytes = size_of_val(&*values) as u64;
        // Device memory has undefined content at first, so everything is transferred once.
        let (name, tensor) = (port.name.clone(), port.tensor);
        crossings.push(Crossing { name, role, tensor, values, staged, is_set: true, send: None });
        staged = (staged + bytes).next_multiple_of(ALIGNMENT);
    }
    Ok((crossings, staged))
}

/// Records a schedule.
fn record(
    commands: &mut Commands,
    buffers: &Buffers<'_>,
    dispatches: &[Dispatch],
    schedule: &Schedule,
) -> Result<Vec<Recorded>, VulkanError> {
    let submissions = schedule.submissions.iter().map(|items| {
        let list: Vec<Command<'_>> = items.iter().map(|item| command(buffers, dispatches, item)).collect();
        commands.record(&list)
    });
    submissions.collect()
}

fn command<'a>(buffers: &'a Buffers<'_>, dispatches: &[Dispatch], item: &Item) -> Command<'a> {
    let Item::Dispatch { index, first, count } = item else { return Command::Barrier };
    let Dispatch { kernel, bindings, push, groups, .. } = &dispatches[*index];
    let slice = |binding: &Binding| (binding.number, buffers.slice(&binding.region));
    Command::Dispatch {
        kernel: *kernel,
        bindings: bindings.iter().map(slice).collect(),
        push: *push,
        width: groups[0],
        rows: [*first, *count],
    }
}

impl Executable for VulkanExecutable<'_> {
    fn set_input(&mut self, name: &str, values: &[f32]) {
        self.input_mut(name).copy_from_slice(values);
    }

    fn input_mut(&mut self, name: &str) -> &mut [f32] {
        let index = self.crossing(name, |role| role != Role::Output);
        let crossing = &mut self.crossings[index];
        crossing.is_set = true;
        &mut crossing.values
    }

    fn run(&mut self) -> Result<(), Error> {
        self.submit(Run::Whole)
    }

    fn run_beside_kept(&mut self) -> Result<(), Error> {
        if self.beside_kept.is_empty() {
            let needed = self.graph.needed_beside_kept();
            let schedule = Schedule::new(&self.dispatches, |dispatch| needed[dispatch.node]);
            self.beside_kept = record(&mut self.commands, &self.buffers, &self.dispatches, &schedule)?;
        }
        self.submit(Run::BesideKept)
    }

    fn run_watched(&mut self, watch: &mut dyn FnMut(&WeightSpec, &[f32])) -> Result<(), Error> {
        self.record_nodes()?;
        self.record_watched()?;
        self.submit(Run::Nothing)?;
        let Some(Watched { copies, buffer }) = &self.watched else { unreachable!("recorded above") };
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if let (Some(copy), Some(weight)) = (copies.get(&index), node.op.product_weight()) {
                self.commands.run(&[*copy])?;
                let bytes = buffer.bytes().expect("staging buffers are visible");
                let bytes = &bytes[..self.graph.elements(node.inputs[0]) * size_of::<f32>()];
                watch(self.graph.weight(weight), bytemuck::cast_slice(bytes));
            }
            self.commands.run(&self.nodes[index])?;
        }
        self.submit(Run::Nothing)
    }

    fn run_timed(
        &mut self,
        report: &mut dyn FnMut(&PreparedGraph, &PreparedNode, Duration),
    ) -> Result<(), Error> {
        self.record_nodes()?;
        self.submit(Run::Nothing)?;
        match self.context.gpu.capabilities.timestamp_nanoseconds {
            Some(tick) => {
                self.commands.run(&self.nodes.concat())?;
                let times = self.commands.times()?;
                for (node, ends) in self.graph.nodes.iter().zip(times.windows(2)) {
                    let nanoseconds = ends[1].saturating_sub(ends[0]) as f64 * tick;
                    report(&self.graph, node, Duration::from_nanos(nanoseconds as u64));
                }
            }
            None => {
                for (node, recorded) in self.graph.nodes.iter().zip(&self.nodes) {
                    let start = Instant::now();
                    self.commands.run(recorded)?;
                    report(&self.graph, node, start.elapsed());
                }
            }
        }
        self.submit(Run::Nothing)
    }

    fn output(&self, name: &str) -> &[f32] {
        &self.crossings[self.crossing(name, |role| role != Role::Input)].values
    }

    fn output_names(&self) -> Vec<String> {
        self.graph.outputs.iter().map(|port| port.name.clone()).collect()
    }
}
