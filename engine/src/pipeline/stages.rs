//! Cuts a graph over one picture into stages that fit into memory, see [`strips`](crate::graph::strips).
//!
//! Between two stages the whole picture is in one buffer. A stage either runs at once, or processes the
//! buffer strip by strip and writes its output over its input. It starts at the end from which no strip
//! overwrites rows that another one still has to read, and keeps copies of the few rows that the next strip
//! needs of the previous one.

use std::ops::Range;

use crate::{
    Error, Network,
    backend::{Executable, Footprint},
    graph::{
        ELEMENT_WORK, Graph, GroupSums, Statistics, TensorId,
        strips::{INPUT, OUTPUT, Piece, SUMS, Target, cuts, statistics_input},
    },
    pages::Pages,
};

/// The stages of a graph with one picture as input and one as output, and their memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stages {
    pub(super) stages: Vec<Stage>,
    /// Peak in bytes, input and output of every stage included.
    pub(super) peak: u64,
    /// Working memory of the backend in bytes.
    pub(super) scratch: u64,
    /// Multiply-adds, see [`Graph::work`].
    pub(super) work: u64,
}

/// The part of a graph between two of its cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stage {
    from: TensorId,
    to: TensorId,
    /// Rows of the input.
    height: usize,
    /// Rows of the input in a strip; `None` if the stage runs at once.
    rows: Option<usize>,
}

impl Stages {
    /// Whether the whole graph runs at once.
    pub(super) fn is_whole(&self) -> bool {
        matches!(*self.stages, [Stage { rows: None, .. }])
    }
}

/// Cuts graphs, and runs the stages.
#[derive(Clone, Copy)]
pub(super) struct Stager<'a> {
    graph: &'a Graph,
    network: &'a Network,
    /// Bytes of working memory that the backend holds anyway.
    scratch: u64,
    /// See [`Backend::row_step`].
    row_step: usize,
}

impl<'a> Stager<'a> {
    /// Cuts `graph`, one of `network`'s. The backend holds `scratch` bytes of working memory anyway.
    pub(super) fn new(graph: &'a Graph, network: &'a Network, scratch: u64) -> Result<Stager<'a>, Error> {
        let row_step = network.row_step(graph.clone())?;
        Ok(Stager { graph, network, scratch, row_step })
    }

    /// The graph as a single stage that runs at once.
    pub(super) fn whole(&self) -> Result<Stages, Error> {
        let cuts = cuts(self.graph);
        self.at_once(cuts[0], cuts[cuts.len() - 1])
    }

    /// The stages with the least work among those that fit into `limit` bytes, peak and scratch together.
    pub(super) fn cheapest(&self, limit: u64) -> Result<Option<Stages>, Error> {
        self.best(|from, to| self.cheapest_stage(from, to, limit), |a, b| a.work < b.work)
    }

    /// The stages with the least memory.
    pub(super) fn smallest(&self) -> Result<Stages, Error> {
        let smallest = self.best(
            |from, to| {
                let whole = self.at_once(from, to)?;
                let strips = self
                    .in_strips(from, to, self.row_step)?
                    .filter(|strips| strips.memory() < whole.memory());
                Ok(Some(strips.unwrap_or(whole)))
            },
            |a, b| (a.memory(), a.work) < (b.memory(), b.work),
        )?;
        Ok(smallest.expect("every graph can run at once"))
    }

    /// The best sequence of stages from the first cut to the last, where `stage` returns the candidates
    /// between two cuts.
    fn best(
        &self,
        stage: impl Fn(TensorId, TensorId) -> Result<Option<Stages>, Error>,
        better: impl Fn(&Stages, &Stages) -> bool,
    ) -> Result<Option<Stages>, Error> {
        let cuts = cuts(self.graph);
        let mut best: Vec<Option<Stages>> =
            vec![Some(Stages { stages: Vec::new(), peak: 0, scratch: 0, work: 0 })];
        for end in 1..cuts.len() {
            let mut found: Option<Stages> = None;
            // From far to near, so that of two equal candidates the one with fewer stages is taken.
            for start in 0..end {
                let Some(before) = &best[start] else { continue };
                let Some(last) = stage(cuts[start], cuts[end])? else { continue };
                let both = before.followed_by(&last);
                if found.as_ref().is_none_or(|found| better(&both, found)) {
                    found = Some(both);
                }
            }
            best.push(found);
        }
        Ok(best.pop().flatten())
    }

    fn cheapest_stage(&self, from: TensorId, to: TensorId, limit: u64) -> Result<Option<Stages>, Error> {
        let whole = self.at_once(from, to)?;
        if whole.memory() <= limit {
            return Ok(Some(whole));
        }
        let height = Piece::new(self.graph, from, to, self.row_step).input_size()[0];
        let most = height.div_ceil(2).next_multiple_of(self.row_step);
        let Some(least) = self.in_strips(from, to, self.row_step)?.filter(|strips| strips.memory() <= limit)
        else {
            return Ok(None);
        };
        let Some(half) = self.in_strips(from, to, most)? else { return Ok(None) };
        if half.memory() <= limit {
            return Ok(Some(half));
        }
        // Memory grows almost linearly with the rows.
        let growth = half.memory().saturating_sub(least.memory()).max(1);
        let slope = growth as f64 / most.saturating_sub(self.row_step).max(1) as f64;
        let mut rows = self.row_step + ((limit - least.memory()) as f64 / slope) as usize;
        while rows > self.row_step {
            // The same number of strips, but of equal height.
            let alike = height.div_ceil(height.div_ceil(rows)).next_multiple_of(self.row_step);
            if let Some(strips) = self.in_strips(from, to, alike)?.filter(|strips| strips.memory() <= limit) {
                return Ok(Some(strips));
            }
            rows = rows * 7 / 8;
        }
        Ok(Some(least))
    }

    fn at_once(&self, from: TensorId, to: TensorId) -> Result<Stages, Error> {
        let piece = Piece::new(self.graph, from, to, self.row_step);
        let [input, output] = [elements(piece.input_size()), elements(piece.output_size())];
        let graph = piece.whole();
        let work = graph.work() + ELEMENT_WORK as u64 * (input + output);
        let Footprint { executable, scratch } = self.network.footprint(graph)?;
        let cuts = cuts(self.graph);
        // The input is dropped once it has been passed to the graph, before the output is copied. If there is
        // only one stage, the output is read in place.
        let all = from == cuts[0] && to == cuts[cuts.len() - 1];
        let peak = executable + bytes(if all { input } else { input.max(output) });
        Ok(Stages {
            stages: vec![Stage { from, to, height: piece.input_size()[0], rows: None }],
            peak,
            scratch: scratch.max(self.scratch),
            work,
        })
    }

    fn in_strips(&self, from: TensorId, to: TensorId, rows: usize) -> Result<Option<Stages>, Error> {
        let piece = Piece::new(self.graph, from, to, self.row_step);
        let [height, width, channels] = piece.input_size();
        let mut footprint = Footprint::default();
        let mut work = 0;
        let mut kept_rows = 0;
        for target in targets(&piece) {
            let Some(reach) = piece.reach(target) else { return Ok(None) };
            let tallest = (rows + 2 * reach).min(height);
            let graph = piece.strip(target, tallest, 0..rows.min(tallest));
            work += graph.work() * height.div_ceil(rows) as u64;
            let Footprint { executable, scratch } = self.network.footprint(graph)?;
            footprint.executable = footprint.executable.max(executable);
            footprint.scratch = footprint.scratch.max(scratch);
            kept_rows = reach;
        }
        let [input, output] = [elements(piece.input_size()), elements(piece.output_size())];
        let kept = (kept_rows * width * channels) as u64;
        let running = footprint.executable + bytes(input.max(output) + kept);
        // A picture that became smaller is copied.
        let peak = if output < input { running.max(bytes(input + output)) } else { running };
        let stage = Stage { from, to, height, rows: Some(rows) };
        Ok(Some(Stages {
            stages: vec![stage],
            peak,
            scratch: footprint.scratch.max(self.scratch),
            work: work + ELEMENT_WORK as u64 * (input + output),
        }))
    }

    /// Runs all of `stages` on `picture`, `[height, width, channels]`; the result is at the start of the
    /// returned block.
    pub(super) fn run(&self, stages: &Stages, picture: &[f32]) -> Result<Pages, Error> {
        let mut buffer = self.buffer(stages, 0, picture)?;
        for (index, stage) in stages.stages.iter().enumerate() {
            let piece = Piece::new(self.graph, stage.from, stage.to, self.row_step);
            let input = elements(piece.input_size()) as usize;
            match stage.rows {
                None => {
                    let mut executable = self.network.compile(piece.whole())?;
                    executable.set_input(INPUT, &buffer[..input]);
                    drop(buffer);
                    executable.run()?;
                    buffer = self.buffer(stages, index + 1, executable.output(OUTPUT))?;
                }
                Some(rows) => {
                    let output = elements(piece.output_size()) as usize;
                    StripRun { stager: self, piece, rows, statistics: Vec::new() }.run(&mut buffer)?;
                    if output < input {
                        // Releases memory that was written and is no longer needed.
                        buffer = self.buffer(stages, index + 1, &buffer[..output])?;
                    }
                }
            }
        }
        Ok(buffer)
    }

    /// The expected seconds of [`run`](Self::run).
    pub(super) fn seconds(&self, stages: &Stages) -> Result<f64, Error> {
        let mut seconds = 0.0;
        for stage in &stages.stages {
            let piece = Piece::new(self.graph, stage.from, stage.to, self.row_step);
            let Some(rows) = stage.rows else {
                seconds += self.network.cost(piece.whole())?.once();
                continue;
            };
            let run = StripRun { stager: self, piece, rows, statistics: Vec::new() };
            for target in targets(&run.piece) {
                // Consecutive strips of one shape share an executable.
                for alike in run.strips(target).chunk_by(|a, b| a.shape() == b.shape()) {
                    let (height, own) = alike[0].shape();
                    let cost = self.network.cost(run.piece.strip(target, height, own))?;
                    seconds += cost.first + alike.len() as f64 * cost.seconds;
                }
            }
        }
        Ok(seconds)
    }

    /// A block that begins with `picture` and has room for the outputs of the stages from `next` on, in
    /// place. Room that is never written takes no memory.
    fn buffer(&self, stages: &Stages, next: usize, picture: &[f32]) -> Result<Pages, Error> {
        let in_place = stages.stages[next..].iter().take_while(|stage| stage.rows.is_some());
        let sizes = in_place.map(|stage| self.graph.elements(stage.to));
        let mut buffer = Pages::zeros(sizes.fold(picture.len(), usize::max))?;
        buffer[..picture.len()].copy_from_slice(picture);
        Ok(buffer)
    }
}

impl Stages {
    /// Rows of a strip and number of strips, for each stage that is cut.
    pub(super) fn strips(&self) -> Vec<(usize, usize)> {
        self.stages
            .iter()
            .filter_map(|stage| Some((stage.rows?, stage.height.div_ceil(stage.rows?))))
            .collect()
    }

    /// The bytes that count against a limit.
    pub(super) fn memory(&self) -> u64 {
        self.peak + self.scratch
    }

    fn followed_by(&self, next: &Stages) -> Stages {
        Stages {
            stages: [self.stages.as_slice(), &next.stages].concat(),
            peak: self.peak.max(next.peak),
            scratch: self.scratch.max(next.scratch),
            work: self.work + next.work,
        }
    }
}

/// The passes of a piece over its picture, in order.
fn targets(piece: &Piece<'_>) -> impl Iterator<Item = Target> + use<> {
    (0..piece.norms()).map(Target::Sums).chain([Target::Output])
}

fn elements([height, width, channels]: [usize; 3]) -> u64 {
    (height * width * channels) as u64
}

fn bytes(elements: u64) -> u64 {
    elements * size_of::<f32>() as u64
}

/// One stage while it processes a picture.
struct StripRun<'a> {
    stager: &'a Stager<'a>,
    piece: Piece<'a>,
    /// Rows of the input in a strip.
    rows: usize,
    /// Statistics of the norms so far, `[1, groups, 6]` each.
    statistics: Vec<Vec<f32>>,
}

/// A range of rows of a piece's input.
#[derive(Clone, Debug, PartialEq)]
struct Strip {
    /// The rows whose output is kept.
    own: Range<usize>,
    /// The rows that this output depends on.
    all: Range<usize>,
}

impl Strip {
    /// The number of rows, and the range of its own among them.
    fn shape(&self) -> (usize, Range<usize>) {
        (self.all.len(), self.own.start - self.all.start..self.own.end - self.all.start)
    }
}

impl StripRun<'_> {
    /// Replaces the input at the start of `picture` by the output.
    fn run(mut self, picture: &mut [f32]) -> Result<(), Error> {
        for norm in 0..self.piece.norms() {
            let statistics = self.statistics_of(norm, picture)?;
            self.statistics.push(statistics);
        }
        self.output_of(picture)
    }

    /// The strips for one target, from the top.
    fn strips(&self, target: Target) -> Vec<Strip> {
        let height = self.piece.input_size()[0];
        let reach = self.reach(target);
        let strip = |start: usize| {
            let own = start..height.min(start + self.rows);
            Strip { all: own.start.saturating_sub(reach)..height.min(own.end + reach), own }
        };
        (0..height).step_by(self.rows).map(strip).collect()
    }

    fn reach(&self, target: Target) -> usize {
        self.piece.reach(target).expect("only pieces that can be cut were planned in strips")
    }

    /// The statistics of a norm over the whole of `picture`.
    fn statistics_of(&self, norm: usize, picture: &[f32]) -> Result<Vec<f32>, Error> {
        let target = Target::Sums(norm);
        let line = self.input_line();
        let mut current = Current::default();
        let mut sums: Vec<f32> = Vec::new();
        for strip in self.strips(target) {
            let executable = current.get(self, target, &strip)?;
            let values = &picture[strip.all.start * line..strip.all.end * line];
            executable.set_input(INPUT, values);
            match sums.is_empty() {
                true => executable.input_mut(SUMS).fill(0.0),
                false => executable.set_input(SUMS, &sums),
            }
            executable.run()?;
            sums = executable.output(OUTPUT).to_vec();
        }
        let groups = sums.as_chunks().0;
        let count = self.piece.norm_elements(norm) / groups.len();
        let statistics = groups.iter().map(|&sums| GroupSums::from_values(sums).statistics(count));
        Ok(statistics.flat_map(Statistics::to_values).collect())
    }

    /// Replaces `picture` by the piece's output, in the same buffer.
    fn output_of(&self, picture: &mut [f32]) -> Result<(), Error> {
        let line = self.input_line();
        let [in_height, ..] = self.piece.input_size();
        let [out_height, out_width, out_channels] = self.piece.output_size();
        // Number of output values for each row of the input.
        let out_line = out_height / in_height * out_width * out_channels;
        // If a row's output is longer, it may only overwrite later rows; if it is shorter, earlier ones.
        let from_below = out_line >= line;
        let mut strips = self.strips(Target::Output);
        if from_below {
            strips.reverse();
        }
        let reach = self.reach(Target::Output);
        let mut kept = Kept::default();
        let mut current = Current::default();
        for strip in strips {
            let executable = current.get(self, Target::Output, &strip)?;
            let Strip { own, all } = &strip;
            let input = executable.input_mut(INPUT);
            let intact = if from_below { all.start..own.end } else { own.start..all.end };
            let at = (intact.start - all.start) * line;
            let values = &picture[intact.start * line..intact.end * line];
            input[at..at + values.len()].copy_from_slice(values);
            let lost = if from_below { own.end..all.end } else { all.start..own.start };
            kept.copy_to(
                &mut input[(lost.start - all.start) * line..(lost.end - all.start) * line],
                &lost,
                line,
            );
            // The rows that the next strip needs are about to be overwritten.
            let next = match from_below {
                true => own.start..in_height.min(own.start + reach),
                false => own.end.saturating_sub(reach)..own.end,
            };
            kept.keep(&input[(next.start - all.start) * line..(next.end - all.start) * line], next);
            executable.run()?;
            let output = executable.output(OUTPUT);
            let first = (own.start - all.start) * out_line;
            picture[own.start * out_line..own.end * out_line]
                .copy_from_slice(&output[first..first + own.len() * out_line]);
        }
        Ok(())
    }

    /// Values in a row of the input.
    fn input_line(&self) -> usize {
        let [_, width, channels] = self.piece.input_size();
        width * channels
    }
}

/// Rows of a stage's input that have been overwritten by output.
#[derive(Default)]
struct Kept {
    rows: Range<usize>,
    values: Vec<f32>,
}

impl Kept {
    fn keep(&mut self, values: &[f32], rows: Range<usize>) {
        self.rows = rows;
        self.values.clear();
        self.values.reserve_exact(values.len());
        self.values.extend_from_slice(values);
    }

    fn copy_to(&self, to: &mut [f32], rows: &Range<usize>, line: usize) {
        if !rows.is_empty() {
            let at = (rows.start - self.rows.start) * line;
            to.copy_from_slice(&self.values[at..at + to.len()]);
        }
    }
}

/// The executable for strips of one shape, kept while the next strip has the same shape.
#[derive(Default)]
struct Current<'w> {
    /// The number of rows, and the range of the strip's own among them.
    shape: Option<(usize, Range<usize>)>,
    executable: Option<Box<dyn Executable + 'w>>,
}

impl<'w> Current<'w> {
    fn get(
        &mut self,
        run: &StripRun<'w>,
        target: Target,
        strip: &Strip,
    ) -> Result<&mut (dyn Executable + 'w), Error> {
        let shape = strip.shape();
        if self.shape.as_ref() != Some(&shape) {
            // Two executables at a time would take twice the memory.
            self.executable = None;
            let graph = run.piece.strip(target, shape.0, shape.1.clone());
            let given: Vec<String> = graph.inputs.iter().skip(1).map(|port| port.name.clone()).collect();
            let mut executable = run.stager.network.compile(graph)?;
            for (norm, statistics) in run.statistics.iter().enumerate() {
                let name = statistics_input(norm);
                if given.contains(&name) {
                    executable.set_input(&name, statistics);
                }
            }
            self.executable = Some(executable);
            self.shape = Some(shape);
        }
        Ok(&mut **self.executable.as_mut().expect("compiled above"))
    }
}
