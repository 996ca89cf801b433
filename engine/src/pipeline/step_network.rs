//! A network that runs in each step, with everything that is the same in all steps computed once.

use super::{
    compiled::{Compiled, GraphKey},
    denoiser::Batching,
    run_plan::StepNetworkPlan,
    text::Conditioning,
};
use crate::{
    Error, Network, Tensor,
    backend::Executable,
    roles::{ADDED_CONDITION, LATENTS, StepNetwork, StepShape, TEXT_STATES},
};

/// A network for one prompt, one schedule and one size.
pub(super) struct StepRun<'w> {
    pub(super) executable: Box<dyn Executable + 'w>,
    key: GraphKey,
    in_channels: usize,
    center_input_sample: bool,
    /// Latent pixels of a picture.
    pixels: usize,
    timesteps: usize,
    /// Outputs of the schedule graph for every timestep: for each evaluation of a step, or once for all of
    /// them.
    schedule_values: Vec<NamedValues>,
    /// Outputs of the prompt graph for the branches of each evaluation of a step. Empty where there is only
    /// one evaluation, whose values are already in the step graph.
    prompt_values: Vec<NamedValues>,
}

/// Names of a graph's outputs, and their values.
type NamedValues = Vec<(String, Vec<f32>)>;

/// The values with which a network is set up.
#[derive(Clone, Copy)]
pub(super) struct Setup<'a> {
    /// A row for each branch of guidance.
    pub(super) conditioning: &'a Conditioning,
    /// Timesteps of the schedule, in training timesteps.
    pub(super) timesteps: &'a [f64],
    pub(super) shape: StepShape,
    pub(super) batching: Batching,
}

impl<'w> StepRun<'w> {
    pub(super) fn new(
        network: &'w Network,
        role: &dyn StepNetwork,
        plan: StepNetworkPlan,
        setup: Setup<'_>,
        compiled: &mut Compiled<'w>,
    ) -> Result<StepRun<'w>, Error> {
        let Setup { conditioning, timesteps, shape, batching } = setup;
        let StepNetworkPlan { schedule, prompt, step } = plan;

        let schedule_runs = schedule.runs;
        let (key, mut executable) = compiled.take(network, schedule)?;
        let rows = role.schedule_rows(shape.batch);
        for (name, values) in role.schedule_inputs(timesteps, rows, conditioning.guidance_scale) {
            executable.set_input(name, &values);
        }
        let added = conditioning.added.as_ref().filter(|_| role.added_width().is_some());
        let added = added.map(|added| repeat_rows(added, batching.pictures));
        let schedule_values =
            schedule_values(&mut *executable, added.as_deref(), schedule_runs, timesteps.len())?;
        compiled.give_back((key, executable));

        let groups = prompt.runs;
        let (prompt_key, mut prompt) = compiled.take(network, prompt)?;
        let text_states = repeat_rows(&conditioning.text_states, batching.pictures);
        // Before its first run it has written only its inputs.
        let (key, mut executable) = compiled.take(network, step)?;
        let prompt_values = prompt_values(&mut *prompt, &text_states, groups, &mut *executable)?;
        compiled.give_back((prompt_key, prompt));
        Ok(StepRun {
            executable,
            key,
            in_channels: role.in_channels(),
            center_input_sample: role.center_input_sample(),
            pixels: shape.height * shape.width,
            timesteps: timesteps.len(),
            schedule_values,
            prompt_values,
        })
    }

    /// Returns its graph to `compiled`.
    pub(super) fn finish(self, compiled: &mut Compiled<'w>) {
        compiled.give_back((self.key, self.executable));
    }

    /// Sets the inputs of evaluation `group` of `step` except the latents.
    pub(super) fn set_step(&mut self, group: usize, step: usize) {
        let StepRun { executable, schedule_values, prompt_values, .. } = self;
        for (name, values) in &schedule_values[group.min(schedule_values.len() - 1)] {
            let width = values.len() / self.timesteps;
            executable.set_input(name, &values[step * width..][..width]);
        }
        for (name, values) in prompt_values.get(group).into_iter().flatten() {
            executable.set_input(name, values);
        }
    }

    /// Writes `rows` to the network's latents, `[batch, h, w, in_channels]`: for each element of the batch
    /// its own channels, `[channels, h, w]`, and its extra channels, likewise; zeros where there are none.
    pub(super) fn set_latents<'r>(&mut self, rows: impl Iterator<Item = (&'r [f32], Option<&'r [f32]>)>) {
        let (channels, pixels) = (self.in_channels, self.pixels);
        let input = self.executable.input_mut(LATENTS);
        for (input, (own, extra)) in input.chunks_exact_mut(channels * pixels).zip(rows) {
            if extra.is_none() {
                input.fill(0.0);
            }
            let planes =
                [own, extra.unwrap_or_default()].into_iter().flat_map(|part| part.chunks_exact(pixels));
            for (channel, plane) in planes.enumerate().take(channels) {
                for (pixel, value) in input.chunks_exact_mut(channels).zip(plane) {
                    pixel[channel] = *value;
                }
            }
        }
        if self.center_input_sample {
            input.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
        }
    }
}

/// The schedule graph's outputs for all timesteps, for each of `runs` evaluations of a step if there is an
/// added condition `[rows, ..]`.
fn schedule_values(
    executable: &mut dyn Executable,
    added: Option<&[f32]>,
    runs: usize,
    timesteps: usize,
) -> Result<Vec<NamedValues>, Error> {
    let Some(added) = added else {
        executable.run()?;
        return Ok(vec![outputs(executable)]);
    };
    let each = added.chunks_exact(added.len() / runs).map(|group| {
        executable.set_input(ADDED_CONDITION, &group.repeat(timesteps));
        executable.run()?;
        Ok(outputs(executable))
    });
    each.collect()
}

/// The prompt graph's outputs for each of `groups` evaluations of a step; if there is only one, they are
/// written to `step` at once.
fn prompt_values(
    prompt: &mut dyn Executable,
    text_states: &[f32],
    groups: usize,
    step: &mut dyn Executable,
) -> Result<Vec<NamedValues>, Error> {
    let mut values = Vec::new();
    for group in text_states.chunks_exact(text_states.len() / groups) {
        prompt.set_input(TEXT_STATES, group);
        prompt.run()?;
        match groups {
            1 => {
                let names = prompt.output_names();
                names.iter().for_each(|name| step.set_input(name, prompt.output(name)));
            }
            _ => values.push(outputs(prompt)),
        }
    }
    Ok(values)
}

/// `[rows, ..]` → `[rows, pictures, ..]`.
fn repeat_rows(tensor: &Tensor, pictures: usize) -> Vec<f32> {
    let rows = tensor.values().chunks_exact(tensor.values().len() / tensor.shape()[0]);
    rows.flat_map(|row| row.repeat(pictures)).collect()
}

/// All outputs of a graph after a run, by name.
fn outputs(executable: &dyn Executable) -> NamedValues {
    let names = executable.output_names().into_iter();
    names.map(|name| (name.clone(), executable.output(&name).to_vec())).collect()
}
