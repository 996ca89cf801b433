//! The graphs of a run: how often each of them runs, and which memory is held meanwhile.
//!
//! This is the only place that counts prompts, encoded pictures and evaluations. Running a request,
//! predicting its memory ([`plan`](super::plan)) and its time ([`time`](super::time)), and reporting its
//! progress all use these numbers.

use super::{
    Job, Pipeline, Settings,
    caching::CacheSchedule,
    compiled::GraphKey,
    denoiser::Batching,
    plan::{floats, port_bytes},
};
use crate::{
    Error, ExtraInput, Model, PromptReading,
    graph::Graph,
    roles::{Autoencoder, PromptEncoder, PromptShape, StepGraphs, StepNetwork, StepShape},
};

/// The graphs of a run, before the memory limit decides how it is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// Prompts that the text encoders encode: one for each branch of guidance.
    pub prompts: usize,
    /// Chunks of each prompt; a chunk has as many tokens as the text encoders read at once.
    pub chunks: usize,
    /// Pictures that the autoencoder encodes before the first step, in this order.
    pub encodes: Vec<EncodedPicture>,
    /// Pictures that are drawn.
    pub pictures: usize,
    /// Evaluations of the denoiser for each picture, all branches of guidance counted as one.
    pub evaluations: usize,
    /// Entries of the schedule: those before the first evaluation, which a run that starts from a picture
    /// leaves out, and one for each evaluation.
    pub(super) timesteps: usize,
    /// Height and width of the latents.
    pub(super) size: (usize, usize),
    pub(super) reading: PromptReading,
    pub(super) cache_schedule: CacheSchedule,
}

/// A picture that is encoded before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedPicture {
    /// The picture that the run starts from.
    Start,
    /// The same with grey in the part to be redrawn: an inpainting model reads it at every step.
    Masked,
    /// The picture that an editing model reads at every step.
    Edited,
}

/// A graph of a run, and how often it runs.
pub(super) struct PlannedGraph {
    pub(super) key: GraphKey,
    pub(super) graph: Graph,
    /// How often it is compiled.
    pub(super) compiles: usize,
    /// How often it runs after each compilation. For the step graph of a denoiser: in each step.
    pub(super) runs: usize,
    /// Bytes that the run holds in addition to the executable.
    pub(super) beside: u64,
    /// The number of later graphs that run while its executable is still held.
    pub(super) held_for: usize,
}

/// The denoiser and its companions for pictures that are drawn together.
pub(super) struct DenoiserPlan {
    pub(super) batching: Batching,
    /// Branches of guidance.
    pub(super) branches: usize,
    pub(super) cache_schedule: CacheSchedule,
    pub(super) shape: StepShape,
    /// The companions, in the order of the model.
    pub(super) companions: Vec<StepNetworkPlan>,
    pub(super) denoiser: StepNetworkPlan,
}

/// A network that runs in each step.
pub(super) struct StepNetworkPlan {
    /// Timesteps → values that the step graph reads.
    pub(super) schedule: PlannedGraph,
    /// Text states → values that the step graph reads.
    pub(super) prompt: PlannedGraph,
    pub(super) step: PlannedGraph,
}

impl RunPlan {
    fn new(pipeline: &Pipeline, settings: &Settings) -> Result<RunPlan, Error> {
        let branches = settings.branches();
        let prompts: Vec<&str> = branches.iter().map(|branch| branch.prompt).collect();
        Ok(RunPlan {
            prompts: prompts.len(),
            chunks: pipeline.chunk_count(&prompts, settings.request.reading.syntax)?,
            encodes: encodes(settings.job, pipeline.model.extra_input),
            pictures: settings.request.count,
            evaluations: settings.evaluations,
            timesteps: settings.first_step + settings.evaluations,
            size: settings.latent_size(pipeline.scale_factor()),
            reading: settings.request.reading,
            cache_schedule: settings.cache_schedule(),
        })
    }

    /// Steps of all pictures.
    pub fn steps(&self) -> usize {
        self.evaluations.saturating_mul(self.pictures)
    }

    /// Bytes of the text states of all prompts. Those of several encoders are concatenated into new ones.
    pub(super) fn text_states_bytes(&self, pipeline: &Pipeline) -> u64 {
        let [tokens, width] = pipeline.model.text_states_shape(self.chunks);
        let copies = pipeline.model.text_encoders.len().min(2) as u64;
        copies * floats([self.prompts, tokens, width])
    }

    /// The graphs of all text encoders.
    pub(super) fn text(&self, pipeline: &Pipeline) -> Vec<PlannedGraph> {
        let shape = PromptShape {
            prompts: self.prompts,
            chunks: self.chunks,
            words: pipeline.words.count(),
            clip_skip: self.reading.clip_skip,
        };
        let encoders = pipeline.model.text_encoders.iter();
        encoders.flat_map(|encoder| text(&**encoder, &shape)).collect()
    }

    /// The autoencoder's encoder, if the run encodes a picture.
    pub(super) fn encoder(&self, pipeline: &Pipeline) -> Option<PlannedGraph> {
        let times = self.encodes.len();
        let factor = pipeline.scale_factor();
        let (height, width) = (self.size.0 * factor, self.size.1 * factor);
        // The picture, a copy of it without the part to be redrawn, and pixels on their way into the graph.
        let copies = if self.encodes.contains(&EncodedPicture::Masked) { 3 } else { 2 };
        (times > 0).then(|| PlannedGraph {
            compiles: times,
            beside: copies * floats([3, height, width]),
            ..encoder(&*pipeline.model.autoencoder, 1, height, width)
        })
    }

    /// The autoencoder's decoder as one graph.
    pub(super) fn decoder(&self, pipeline: &Pipeline) -> PlannedGraph {
        let (height, width) = self.size;
        PlannedGraph { runs: self.pictures, ..decoder(&*pipeline.model.autoencoder, height, width) }
    }

    /// The sizes of batches, and how often each occurs: full batches first.
    pub(super) fn batches(&self, batching: Batching) -> impl Iterator<Item = (Batching, usize)> {
        let together = batching.pictures;
        let batches = [(together, self.pictures / together), (self.pictures % together, 1)];
        batches
            .into_iter()
            .filter(|&(pictures, times)| pictures > 0 && times > 0)
            .map(move |(pictures, times)| (Batching { pictures, ..batching }, times))
    }

    /// The denoiser for pictures that are drawn together according to `batching`.
    pub(super) fn denoiser(&self, pipeline: &Pipeline, batching: Batching) -> DenoiserPlan {
        let [tokens, _] = pipeline.model.text_states_shape(self.chunks);
        let rows = (self.prompts, tokens);
        DenoiserPlan::new(&pipeline.model, rows, self.timesteps, self.size, batching, self.cache_schedule)
    }
}

impl PlannedGraph {
    /// Graph `part` of a component, whose shapes depend on `sizes`.
    fn once(component: &'static str, part: usize, sizes: &[usize], graph: Graph) -> PlannedGraph {
        let key = GraphKey { component, part, sizes: sizes.to_vec() };
        PlannedGraph { key, graph, compiles: 1, runs: 1, beside: 0, held_for: 0 }
    }
}

impl DenoiserPlan {
    /// For `branches` of guidance with `tokens` each, `timesteps` entries of a schedule, and latents of
    /// `height x width`.
    pub(super) fn new(
        model: &Model,
        (branches, tokens): (usize, usize),
        timesteps: usize,
        (height, width): (usize, usize),
        batching: Batching,
        cache_schedule: CacheSchedule,
    ) -> DenoiserPlan {
        let groups = batching.groups(branches);
        let batch = batching.pictures * branches / groups;
        let shape = StepShape { batch, height, width, tokens, timesteps };
        let deep_skip = cache_schedule.caching.deep_skip();
        let denoiser = StepNetworkPlan::new(&*model.denoiser, &shape, deep_skip, groups);
        let mut companions: Vec<StepNetworkPlan> = Vec::with_capacity(model.companions.len());
        for companion in &model.companions {
            // Their step graphs are held while the later networks are set up and run.
            companions.iter_mut().for_each(|earlier| earlier.step.held_for += GRAPHS);
            let mut plan = StepNetworkPlan::new(&**companion, &shape, None, groups);
            plan.step.held_for = GRAPHS;
            companions.push(plan);
        }
        DenoiserPlan { batching, branches, cache_schedule, shape, companions, denoiser }
    }

    /// The networks in the order in which they are set up.
    pub(super) fn into_networks(self) -> impl Iterator<Item = StepNetworkPlan> {
        self.companions.into_iter().chain([self.denoiser])
    }

    /// All graphs, in the order in which they are compiled.
    pub(super) fn into_graphs(self) -> impl Iterator<Item = PlannedGraph> {
        self.into_networks().flat_map(|network| [network.schedule, network.prompt, network.step])
    }
}

/// Graphs of a network that runs in each step.
const GRAPHS: usize = 3;

impl StepNetworkPlan {
    /// A network whose step consists of `groups` evaluations.
    fn new<N: StepNetwork + ?Sized>(
        network: &N,
        shape: &StepShape,
        deep_skip: Option<usize>,
        groups: usize,
    ) -> StepNetworkPlan {
        let StepGraphs { schedule, prompt, step } = network.graphs(shape, deep_skip);
        let turns = if network.added_width().is_some() { groups } else { 1 };
        let graphs = [&schedule, &prompt, &step].map(Graph::heap_bytes).iter().sum::<usize>() as u64;
        let biases = turns as u64 * port_bytes(&schedule, &schedule.outputs);
        let projections = port_bytes(&prompt, &prompt.outputs);
        // Where groups of branches take turns in the step graph, their projections and kept tensors are
        // stored outside it.
        let waiting = if groups > 1 { groups as u64 * projections } else { 0 };
        let kept = if groups > 1 { groups as u64 * port_bytes(&step, &step.kept) } else { 0 };
        // The projections of a single group are copied into the step graph, whose other memory has not been
        // written by then.
        let copied = if groups > 1 { waiting } else { projections };
        let &StepShape { batch, height, width, tokens, timesteps } = shape;
        let deep_skip = deep_skip.map_or(0, |skip| skip + 1);
        let sizes = [batch, height, width, tokens, timesteps, deep_skip];
        let planned = |part, graph, runs, beside| PlannedGraph {
            runs,
            beside,
            ..PlannedGraph::once(network.component(), part, &sizes, graph)
        };
        StepNetworkPlan {
            schedule: planned(0, schedule, turns, biases + graphs),
            prompt: planned(1, prompt, groups, biases + copied + graphs),
            step: planned(2, step, groups, biases + waiting + kept),
        }
    }
}

/// The graphs of one text encoder.
pub(super) fn text(encoder: &dyn PromptEncoder, shape: &PromptShape) -> Vec<PlannedGraph> {
    let graphs = encoder.graphs(shape);
    let last = graphs.len().saturating_sub(1);
    let clip_skip = shape.clip_skip.map_or(0, |blocks| blocks + 1);
    let sizes = [shape.prompts, shape.chunks, shape.words, clip_skip];
    // All graphs of an encoder are compiled together and dropped together.
    let planned = |(part, graph)| PlannedGraph {
        held_for: last - part,
        ..PlannedGraph::once(encoder.component(), part, &sizes, graph)
    };
    graphs.into_iter().enumerate().map(planned).collect()
}

/// The autoencoder's encoder for pictures of `height x width` pixels.
pub(super) fn encoder(
    autoencoder: &dyn Autoencoder,
    batch: usize,
    height: usize,
    width: usize,
) -> PlannedGraph {
    let graph = autoencoder.encoder(batch, height, width);
    PlannedGraph::once(autoencoder.component(), 0, &[batch, height, width], graph)
}

/// The autoencoder's decoder for latents of `height x width`, as one graph.
pub(super) fn decoder(autoencoder: &dyn Autoencoder, height: usize, width: usize) -> PlannedGraph {
    let graph = autoencoder.decoder(1, height, width);
    PlannedGraph::once(autoencoder.component(), 1, &[height, width], graph)
}

/// The pictures that a run of `job` encodes.
fn encodes(job: Job, extra_input: ExtraInput) -> Vec<EncodedPicture> {
    match job {
        Job::TextToImage => vec![],
        Job::ImageToImage { .. } => vec![EncodedPicture::Start],
        // The kept part is restored at every step, even if the run starts from noise alone.
        Job::Inpainting { .. } if extra_input == ExtraInput::None => vec![EncodedPicture::Start],
        Job::Inpainting { strength: 1.0 } => vec![EncodedPicture::Masked],
        Job::Inpainting { .. } => vec![EncodedPicture::Start, EncodedPicture::Masked],
        Job::Editing => vec![EncodedPicture::Edited],
    }
}

impl Pipeline {
    /// The run plan of `request`.
    ///
    /// # Errors
    /// As [`settings`](Pipeline::settings), and when a prompt cannot be read.
    pub fn run_plan(&self, request: &super::Request) -> Result<RunPlan, Error> {
        self.run_plan_of(&self.settings(request)?)
    }

    pub(super) fn run_plan_of(&self, settings: &Settings) -> Result<RunPlan, Error> {
        RunPlan::new(self, settings)
    }
}
