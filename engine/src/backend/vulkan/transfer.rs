//! Copies bytes to the device.

use super::{
    buffer::{Buffer, Purpose},
    commands::{Command, Commands, Slice},
    context::Context,
    error::VulkanError,
};

/// Size of the staging buffer.
const STAGING_BYTES: u64 = 16 << 20;

/// Writes `parts`, each an offset and its bytes, into `buffer`.
pub(super) fn upload<'a>(
    context: &Context,
    buffer: &mut Buffer,
    parts: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<(), VulkanError> {
    if let Some(bytes) = buffer.bytes_mut() {
        for (offset, part) in parts {
            bytes[offset as usize..][..part.len()].copy_from_slice(part);
        }
        return Ok(());
    }
    let mut staging = Buffer::new(&context.gpu, STAGING_BYTES.min(buffer.size()), Purpose::Staging)?;
    // As many parts as fit are sent at once: there are many, and most are small.
    let mut pieces: Vec<(u64, u64, u64)> = Vec::new();
    let mut used = 0;
    for (offset, part) in parts {
        let mut done = 0;
        while done < part.len() {
            let size = (part.len() - done).min((staging.size() - used) as usize);
            if size == 0 {
                send(context, &staging, buffer, &pieces)?;
                pieces.clear();
                used = 0;
                continue;
            }
            let bytes = staging.bytes_mut().expect("staging buffers are visible");
            bytes[used as usize..][..size].copy_from_slice(&part[done..][..size]);
            pieces.push((used, offset + done as u64, size as u64));
            used += size as u64;
            done += size;
        }
    }
    send(context, &staging, buffer, &pieces)
}

/// Copies `pieces`, each given as source offset, destination offset and size.
fn send(
    context: &Context,
    from: &Buffer,
    to: &Buffer,
    pieces: &[(u64, u64, u64)],
) -> Result<(), VulkanError> {
    let copies: Vec<Command<'_>> = pieces
        .iter()
        .map(|&(start, offset, size)| Command::Copy {
            from: Slice { buffer: from, offset: start, size },
            to: Slice { buffer: to, offset, size },
        })
        .collect();
    let mut commands = Commands::new(context)?;
    let recorded = commands.record(&copies)?;
    commands.run(&[recorded])
}
