//! Blocks packed from numbers in llama.cpp's layouts, and the results of its loops for arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

fn decoded(block: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; block.elements()];
    block.decode(bytes, &mut values);
    values
}

/// 32 integers of 4 bits in 16 bytes: the first half in the low nibbles.
fn nibbles_of(q: &[u8]) -> Vec<u8> {
    (0..16).map(|i| q[i] & 15 | (q[i + 16] & 15) << 4).collect()
}

fn fifth_bits(q: &[u8]) -> [u8; 4] {
    let bits = q.iter().enumerate().map(|(i, q)| u32::from(q >> 4) << i).sum::<u32>();
    bits.to_le_bytes()
}

#[test]
fn small_blocks_hold_integers_and_their_scales() {
    // Every integer that a type can hold, at different positions.
    let fours: Vec<u8> = (0..32_u8).map(|i| i * 7 % 16).collect();
    let fives: Vec<u8> = (0..32_u16).map(|i| (i * 13 % 32) as u8).collect();
    let bytes: Vec<u8> = (0..32).map(|i: u8| i * 8 + 3).collect();
    let (d, m) = (half(0.25), half(-3.5));
    let of =
        |q: &[u8], value: &dyn Fn(f32) -> f32| q.iter().map(|&q| value(f32::from(q))).collect::<Vec<f32>>();
    for (block, packed, expected) in [
        (BlockType::Q4_0, [&d[..], &nibbles_of(&fours)].concat(), of(&fours, &|q| 0.25 * (q - 8.0))),
        (BlockType::Q4_1, [&d[..], &m, &nibbles_of(&fours)].concat(), of(&fours, &|q| 0.25 * q - 3.5)),
        (
            BlockType::Q5_0,
            [&d[..], &fifth_bits(&fives), &nibbles_of(&fives)].concat(),
            of(&fives, &|q| 0.25 * (q - 16.0)),
        ),
        (
            BlockType::Q5_1,
            [&d[..], &m, &fifth_bits(&fives), &nibbles_of(&fives)].concat(),
            of(&fives, &|q| 0.25 * q - 3.5),
        ),
        (
            BlockType::Q8_0,
            [&d[..], &bytes].concat(),
            bytes.iter().map(|&q| 0.25 * f32::from(q as i8)).collect(),
        ),
        (
            BlockType::IQ4_NL,
            [&d[..], &nibbles_of(&fours)].concat(),
            fours.iter().map(|&q| 0.25 * f32::from(CURVE[usize::from(q)])).collect(),
        ),
    ] {
        assert_eq!(decoded(block, &packed), expected, "{}", block.name());
    }
}

#[test]
fn names_and_sizes_are_those_of_ggml() {
    let sizes = BlockType::ALL.map(|block| (block.name(), block.elements(), block.bytes()));
    // `QK`, and `sizeof` of the structures in `ggml-common.h`.
    let expected = [
        ("Q4_0", 32, 2 + 16),
        ("Q4_1", 32, 2 + 2 + 16),
        ("Q5_0", 32, 2 + 4 + 16),
        ("Q5_1", 32, 2 + 2 + 4 + 16),
        ("Q8_0", 32, 2 + 32),
        ("Q2_K", 256, 16 + 64 + 2 + 2),
        ("Q3_K", 256, 32 + 64 + 12 + 2),
        ("Q4_K", 256, 2 + 2 + 12 + 128),
        ("Q5_K", 256, 2 + 2 + 12 + 32 + 128),
        ("Q6_K", 256, 128 + 64 + 16 + 2),
        ("IQ4_NL", 32, 2 + 16),
        ("IQ4_XS", 256, 2 + 2 + 4 + 128),
    ];
    assert_eq!(sizes, expected);
    assert!(BlockType::ALL.iter().all(|block| block.elements() <= BlockType::MAX_ELEMENTS));
}

/// `get_scale_min_k4`.
fn scale_min_k4(j: usize, q: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        ((q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

/// `dequantize_row_q2_K`.
fn loops_of_q2_k(block: &[u8]) -> Vec<f32> {
    let (d, min) = (half_at(block, 80), half_at(block, 82));
    let (mut values, mut is) = (Vec::new(), 0);
    for q in block[16..80].chunks(32) {
        for shift in [0, 2, 4, 6] {
            for q in q.chunks(16) {
                let (dl, ml) = (d * f32::from(block[is] & 0xF), min * f32::from(block[is] >> 4));
                is += 1;
                values.extend(q.iter().map(|q| dl * f32::from(q >> shift & 3) - ml));
            }
        }
    }
    values
}

/// `dequantize_row_q3_K`, its scales brought together in 32 bits at a time.
fn loops_of_q3_k(block: &[u8]) -> Vec<f32> {
    let aux = [96, 100, 104].map(|at| LittleEndian::read_u32(&block[at..]));
    let (mask1, mask2) = (0x0303_0303, 0x0F0F_0F0F);
    let scales: Vec<u8> = [
        (aux[0] & mask2) | (aux[2] & mask1) << 4,
        (aux[1] & mask2) | (aux[2] >> 2 & mask1) << 4,
        (aux[0] >> 4 & mask2) | (aux[2] >> 4 & mask1) << 4,
        (aux[1] >> 4 & mask2) | (aux[2] >> 6 & mask1) << 4,
    ]
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect();
    let d = half_at(block, 108);
    let (mut values, mut is, mut m) = (Vec::new(), 0, 1_u8);
    for q in block[32..96].chunks(32) {
        for shift in [0, 2, 4, 6] {
            for (q, hm) in q.chunks(16).zip(block[..32].chunks(16)) {
                let dl = d * (f32::from(scales[is]) - 32.0);
                is += 1;
                let value = |(q, hm): (&u8, &u8)| {
                    let low = if hm & m == 0 { 4 } else { 0 };
                    dl * f32::from((q >> shift & 3) as i8 - low)
                };
                values.extend(q.iter().zip(hm).map(value));
            }
            m = m.wrapping_shl(1);
        }
    }
    values
}

/// `dequantize_row_q4_K`, and `dequantize_row_q5_K` where there are fifth bits.
fn loops_of_q4_k(block: &[u8], fifths: Option<&[u8]>, nibbles: &[u8]) -> Vec<f32> {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    let mut values = Vec::new();
    for (pair, q) in nibbles.chunks(32).enumerate() {
        for (index, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (scale, minimum) = scale_min_k4(index, &block[4..16]);
            let (d1, m1) = (d * scale, min * minimum);
            for (l, q) in q.iter().enumerate() {
                let fifth = fifths.map_or(0, |bits| if bits[l] & 1 << index == 0 { 0 } else { 16 });
                values.push(d1 * f32::from((q >> shift & 0xF) + fifth) - m1);
            }
        }
    }
    values
}

/// `dequantize_row_q6_K`.
fn loops_of_q6_k(block: &[u8]) -> Vec<f32> {
    let d = half_at(block, 208);
    let mut values = vec![0.0; 256];
    for n in 0..2 {
        let (ql, qh, sc) = (&block[64 * n..], &block[128 + 32 * n..], &block[192 + 8 * n..]);
        for l in 0..32 {
            let q = [
                (ql[l] & 0xF) | (qh[l] & 3) << 4,
                (ql[l + 32] & 0xF) | (qh[l] >> 2 & 3) << 4,
                (ql[l] >> 4) | (qh[l] >> 4 & 3) << 4,
                (ql[l + 32] >> 4) | (qh[l] >> 6 & 3) << 4,
            ];
            for (part, q) in q.into_iter().enumerate() {
                let scale = f32::from(sc[l / 16 + 2 * part] as i8);
                values[128 * n + 32 * part + l] = d * scale * f32::from(q as i8 - 32);
            }
        }
    }
    values
}

/// `dequantize_row_iq4_xs`.
fn loops_of_iq4_xs(block: &[u8]) -> Vec<f32> {
    let (d, high) = (half_at(block, 0), u32::from(LittleEndian::read_u16(&block[2..])));
    let mut values = Vec::new();
    for (ib, qs) in block[8..].chunks(16).enumerate() {
        let low = u32::from(block[4 + ib / 2]) >> (4 * (ib % 2)) & 0xF;
        let ls = low | (high >> (2 * ib) & 3) << 4;
        let dl = d * (ls as f32 - 32.0);
        values.extend(qs.iter().map(|q| dl * f32::from(CURVE[usize::from(q & 0xF)])));
        values.extend(qs.iter().map(|q| dl * f32::from(CURVE[usize::from(q >> 4)])));
    }
    values
}

proptest! {
    #[test]
    fn large_blocks_are_what_llama_cpps_loops_make_of_them(
        mut bytes in prop::collection::vec(any::<u8>(), 210), scales in (-8.0f32..8.0, -8.0f32..8.0),
    ) {
        let scales = [half(scales.0), half(scales.1)].concat();
        // A type's name, its size in bytes, the positions of its halves, and its loops.
        type Loops = fn(&[u8]) -> Vec<f32>;
        let types: [(BlockType, usize, usize, Loops); 6] = [
            (BlockType::Q2_K, 80, 4, loops_of_q2_k),
            (BlockType::Q3_K, 108, 2, loops_of_q3_k),
            (BlockType::Q4_K, 0, 4, |block| loops_of_q4_k(block, None, &block[16..])),
            (BlockType::Q5_K, 0, 4, |block| loops_of_q4_k(block, Some(&block[16..48]), &block[48..])),
            (BlockType::Q6_K, 208, 2, loops_of_q6_k),
            (BlockType::IQ4_XS, 0, 2, loops_of_iq4_xs),
        ];
        for (block, at, len, loops) in types {
            bytes[at..at + len].copy_from_slice(&scales[..len]);
            let bytes = &bytes[..block.bytes()];
            prop_assert_eq!(decoded(block, bytes), loops(bytes), "{}", block.name());
        }
    }
}

#[test]
fn a_range_may_begin_and_end_within_any_block() {
    let bytes: Vec<u8> = (0..5).flat_map(|i| [&half(1.0)[..], &[i * 16 + 1; 32]].concat()).collect();
    let tensor = crate::tensor::TensorView {
        name: "w".into(),
        dtype: crate::dtype::DType::Block(BlockType::Q8_0),
        shape: vec![160],
        bytes: &bytes,
    };
    let all = tensor.to_f32().unwrap();
    assert!(all.iter().enumerate().all(|(i, &value)| value == (i / 32 * 16 + 1) as f32));
    for first in 0..160 {
        for len in [0, 1, 31, 32, 33, 70] {
            let len = len.min(160 - first);
            let mut part = vec![f32::NAN; len];
            tensor.read_f32(first, &mut part).unwrap();
            assert_eq!(part, all[first..first + len], "{first} {len}");
        }
    }
}
