//! Measures the limits of a device: multiply-adds in registers, and copying.

use std::{collections::HashSet, time::Instant};

use super::{
    buffer::{Buffer, Purpose},
    caps::Tier,
    commands::{Command, Commands, Recorded, Slice},
    context::Context,
    error::VulkanError,
    kernels::{Constants, Kernel, Push, Specialized, constants},
};
use crate::backend::Limits;

/// Enough workgroups to keep any device busy, of 256 invocations each.
const GROUPS: u32 = 512;
/// Accumulators of an invocation in `peak.comp`, and of a subgroup in `peak_matrix.comp`.
const CHAINS: f64 = 16.0;
const MATRIX_CHAINS: f64 = 4.0;
/// Minimum duration of a measurement in seconds, so that the time of starting it does not matter.
const ENOUGH: f64 = 0.02;
/// Maximum number of rounds.
const MOST_ROUNDS: u32 = 1 << 20;
/// Bytes that are copied: more than any cache holds.
const COPIED: u64 = 256 << 20;

/// Measures all three limits.
pub(super) fn measure(context: &Context) -> Result<Limits, VulkanError> {
    let tier = context.gpu.tier;
    let invocations = f64::from(GROUPS) * 256.0;
    let float = rate(context, Kernel::Peak, constants([0]))? * invocations * CHAINS;
    let integer = match (tier, context.gpu.capabilities.matrix_tile()) {
        (Tier::Matrix, Some(tile)) => {
            let shape = tile.shape;
            let each = f64::from(shape.m * shape.n) * f64::from(shape.k);
            let subgroups = f64::from(GROUPS * tile.subgroups);
            let wanted = constants([0, 0, 0, shape.m, shape.n, shape.k, tile.subgroups]);
            rate(context, Kernel::PeakMatrix, wanted)? * subgroups * MATRIX_CHAINS * each
        }
        (Tier::Plain, _) => rate(context, Kernel::Peak, constants([1]))? * invocations * CHAINS * 4.0,
        _ => rate(context, Kernel::PeakDot, constants([1]))? * invocations * CHAINS * 4.0,
    };
    Ok(Limits { integer, float, copy: copy_rate(context)? })
}

/// Rounds per second of a loop.
fn rate(context: &Context, kernel: Kernel, constants: Constants) -> Result<f64, VulkanError> {
    let kernel = Specialized { kernel, constants };
    context.pipelines.prepare(&HashSet::from([kernel]))?;
    let buffer = Buffer::new(&context.gpu, 4096, Purpose::Device)?;
    let mut commands = Commands::new(context)?;
    let mut rounds = 16;
    loop {
        let whole = Slice { buffer: &buffer, offset: 0, size: buffer.size() };
        let push = Push::new(rounds);
        let loops =
            Command::Dispatch { kernel, bindings: vec![(0, whole)], push, width: GROUPS, rows: [0, 1] };
        let recorded = commands.record(&[loops])?;
        let seconds = fastest(&mut commands, recorded)?;
        if seconds >= ENOUGH || rounds >= MOST_ROUNDS {
            return Ok(f64::from(rounds) / seconds);
        }
        rounds *= 4;
    }
}

fn copy_rate(context: &Context) -> Result<f64, VulkanError> {
    let mut bytes = COPIED.min(context.gpu.capabilities.max_allocation);
    // On a device that is nearly full, fewer bytes are copied.
    let (from, to) = loop {
        let make = || Buffer::new(&context.gpu, bytes, Purpose::Device);
        match make().and_then(|from| Ok((from, make()?))) {
            Ok(pair) => break pair,
            Err(VulkanError::OutOfMemory { .. }) if bytes > 1 << 20 => bytes /= 2,
            Err(error) => return Err(error),
        }
    };
    let mut commands = Commands::new(context)?;
    let slice = |buffer| Slice { buffer, offset: 0, size: bytes };
    let recorded = commands.record(&[Command::Copy { from: slice(&from), to: slice(&to) }])?;
    Ok(bytes as f64 / fastest(&mut commands, recorded)?)
}

/// Seconds of the fastest of a few runs.
fn fastest(commands: &mut Commands, recorded: Recorded) -> Result<f64, VulkanError> {
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        commands.run(&[recorded])?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}
