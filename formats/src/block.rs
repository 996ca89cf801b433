//! Formats of small integers in blocks with scales of their own, in which llama.cpp and stable-diffusion.cpp
//! store weights in GGUF files. They can only be decoded.
//!
//! The layouts are those of llama.cpp's `ggml-common.h`; `d`, `m` and `dmin` are halves. The arithmetic is in
//! f32 and in the order of its `ggml-quants.c`, so that values are bit-identical.

use byteorder::{ByteOrder, LittleEndian};
use half::f16;

/// How a block stores its numbers. `q` are the integers of the block, in the order of the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that everybody knows them by")]
pub enum BlockType {
    /// 32 numbers in 18 bytes: `d`, 16 bytes of nibbles. `d * (q - 8)`.
    Q4_0,
    /// 32 in 20: `d`, `m`, nibbles. `d * q + m`.
    Q4_1,
    /// 32 in 22: `d`, 32 fifth bits, nibbles. `d * (q - 16)`.
    Q5_0,
    /// 32 in 24: `d`, `m`, 32 fifth bits, nibbles. `d * q + m`.
    Q5_1,
    /// 32 in 34: `d`, bytes. `d * q`.
    Q8_0,
    /// 256 in 84: 16 pairs of a scale and a minimum in nibbles, 64 bytes of two bits, `d`, `dmin`.
    /// `d * scale * q - dmin * minimum`.
    Q2_K,
    /// 256 in 110: 32 bytes of third bits, 64 of two bits, 16 scales of six bits in 12 bytes, `d`.
    /// `d * (scale - 32) * (q - 4)`.
    Q3_K,
    /// 256 in 144: `d`, `dmin`, 8 pairs of a scale and a minimum of six bits in 12 bytes, nibbles.
    /// `d * scale * q - dmin * minimum`.
    Q4_K,
    /// 256 in 176: as `Q4_K`, with 32 bytes of fifth bits before the nibbles.
    Q5_K,
    /// 256 in 210: nibbles, 64 bytes of two bits, 16 scales of a byte, `d`. `d * scale * (q - 32)`.
    Q6_K,
    /// 32 in 18: `d`, nibbles. `d * CURVE[q]`.
    IQ4_NL,
    /// 256 in 136: `d`, 8 scales of six bits in 2 and 4 bytes, nibbles. `d * (scale - 32) * CURVE[q]`.
    IQ4_XS,
}

/// The sixteen values of `IQ4_NL` and `IQ4_XS`: llama.cpp's `kvalues_iq4nl`.
const CURVE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Elements of the small blocks, and of the groups that share a scale in the large ones with few scales.
const SMALL: usize = 32;
/// Elements of the large blocks.
const LARGE: usize = 256;

impl BlockType {
    /// All block types.
    pub const ALL: [BlockType; 12] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
        BlockType::IQ4_NL,
        BlockType::IQ4_XS,
    ];

    /// The name in llama.cpp.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2_K => "Q2_K",
            BlockType::Q3_K => "Q3_K",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q5_K => "Q5_K",
            BlockType::Q6_K => "Q6_K",
            BlockType::IQ4_NL => "IQ4_NL",
            BlockType::IQ4_XS => "IQ4_XS",
        }
    }

    /// Maximum number of elements in a block of any type.
    pub const MAX_ELEMENTS: usize = LARGE;

    /// Number of elements in a block.
    pub fn elements(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 => SMALL,
            BlockType::Q8_0 | BlockType::IQ4_NL => SMALL,
            _ => LARGE,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::IQ4_NL => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q2_K => 84,
            BlockType::Q3_K => 110,
            BlockType::Q4_K => 144,
            BlockType::Q5_K => 176,
            BlockType::Q6_K => 210,
            BlockType::IQ4_XS => 136,
        }
    }

    /// Decodes one block.
    ///
    /// # Panics
    /// When the length of `block` is not [`BlockType::bytes`] or that of `values` not
    /// [`BlockType::elements`].
    pub fn decode(self, block: &[u8], values: &mut [f32]) {
        assert_eq!((block.len(), values.len()), (self.bytes(), self.elements()), "one block");
        match self {
            BlockType::Q4_0 => {
                let d = half_at(block, 0);
                nibbles(&block[2..], |i, q| values[i] = d * (q as f32 - 8.0));
            }
            BlockType::Q4_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], |i, q| values[i] = d * q as f32 + m);
            }
            BlockType::Q5_0 => {
                let (d, high) = (half_at(block, 0), LittleEndian::read_u32(&block[2..]));
                nibbles(&block[6..], |i, q| values[i] = d * (fifth(q, high, i) - 16.0));
            }
            BlockType::Q5_1 => {
                let (d, m, high) =
                    (half_at(block, 0), half_at(block, 2), LittleEndian::read_u32(&block[4..]));
                nibbles(&block[8..], |i, q| values[i] = d * fifth(q, high, i) + m);
            }
            BlockType::Q8_0 => {
                let d = half_at(block, 0);
                values.iter_mut().zip(&block[2..]).for_each(|(value, &q)| *value = d * f32::from(q as i8));
            }
            BlockType::IQ4_NL => {
                let d = half_at(block, 0);
                nibbles(&block[2..], |i, q| values[i] = d * f32::from(CURVE[usize::from(q)]));
            }
            BlockType::IQ4_XS => decode_iq4_xs(block, values),
            BlockType::Q2_K => decode_q2_k(block, values),
            BlockType::Q3_K => decode_q3_k(block, values),
            BlockType::Q4_K => decode_q4_k(block, values),
            BlockType::Q5_K => decode_q5_k(block, values),
            BlockType::Q6_K => decode_q6_k(block, values),
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(LittleEndian::read_u16(&block[at..])).to_f32()
}

/// The 32 nibbles of 16 bytes: the low ones first.
fn nibbles(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    for (i, &byte) in bytes[..16].iter().enumerate() {
        each(i, byte & 0xF);
        each(i + 16, byte >> 4);
    }
}

/// `q` with the bit `i` of `high` above it.
fn fifth(q: u8, high: u32, i: usize) -> f32 {
    f32::from(q | (((high >> i) & 1) as u8) << 4)
}

/// Two bits of each of 32 bytes, four times in a row: elements of a group of 128.
fn decode_q2_k(block: &[u8], values: &mut [f32]) {
    let (scales, bits) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, value) in values.iter_mut().enumerate() {
        let (group, place) = (i / 128, i % 128);
        let q = (bits[32 * group + place % 32] >> (2 * (place / 32))) & 3;
        let scale = scales[i / 16];
        *value = d * f32::from(scale & 0xF) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

fn decode_q3_k(block: &[u8], values: &mut [f32]) {
    let (high, bits, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (i, value) in values.iter_mut().enumerate() {
        let (group, place) = (i / 128, i % 128);
        let q = (bits[32 * group + place % 32] >> (2 * (place / 32))) & 3;
        let third = (high[i % 32] >> (i / 32)) & 1;
        let index = i / 16;
        let low = if index < 8 { scales[index] & 0xF } else { scales[index - 8] >> 4 };
        let scale = low | ((scales[8 + index % 4] >> (2 * (index / 4))) & 3) << 4;
        *value = d * (f32::from(scale) - 32.0) * f32::from((q | third << 2) as i8 - 4);
    }
}

/// Scale and minimum of the group `index` of 32 elements.
fn scale_and_minimum(scales: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = match index {
        0..4 => (scales[index] & 63, scales[index + 4] & 63),
        _ => (
            scales[index + 4] & 0xF | (scales[index - 4] >> 6) << 4,
            scales[index + 4] >> 4 | (scales[index] >> 6) << 4,
        ),
    };
    (f32::from(scale), f32::from(minimum))
}

/// The nibble of element `i`: 64 elements share 32 bytes, the low nibbles first.
fn nibble_of_64(bytes: &[u8], i: usize) -> u8 {
    let byte = bytes[32 * (i / 64) + i % 32];
    if i % 64 < 32 { byte & 0xF } else { byte >> 4 }
}

fn decode_q4_k(block: &[u8], values: &mut [f32]) {
    let (d, dmin, scales, bits) = (half_at(block, 0), half_at(block, 2), &block[4..16], &block[16..]);
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, i / 32);
        *value = d * scale * f32::from(nibble_of_64(bits, i)) - dmin * minimum;
    }
}

fn decode_q5_k(block: &[u8], values: &mut [f32]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    let (high, bits) = (&block[16..48], &block[48..]);
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, i / 32);
        let q = nibble_of_64(bits, i) | ((high[i % 32] >> (i / 32)) & 1) << 4;
        *value = d * scale * f32::from(q) - dmin * minimum;
    }
}

fn decode_q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for (i, value) in values.iter_mut().enumerate() {
        let (group, place) = (i / 128, i % 128);
        let byte = low[64 * group + place % 64];
        let nibble = if place < 64 { byte & 0xF } else { byte >> 4 };
        let q = nibble | ((high[32 * group + place % 32] >> (2 * (place / 32))) & 3) << 4;
        *value = d * f32::from(scales[i / 16] as i8) * f32::from(q as i8 - 32);
    }
}

fn decode_iq4_xs(block: &[u8], values: &mut [f32]) {
    let (d, high, low, bits) =
        (half_at(block, 0), LittleEndian::read_u16(&block[2..]), &block[4..8], &block[8..]);
    for (index, (values, bits)) in values.chunks_exact_mut(SMALL).zip(bits.chunks_exact(16)).enumerate() {
        let nibble = (low[index / 2] >> (4 * (index % 2))) & 0xF;
        let scale = u16::from(nibble) | ((high >> (2 * index)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        nibbles(bits, |i, q| values[i] = scale * f32::from(CURVE[usize::from(q)]));
    }
}

#[cfg(test)]
mod tests;
