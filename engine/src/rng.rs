//! Normal noise from a seed, the same numbers that PyTorch draws.
//!
//! [`TorchCpuGenerator`] is `torch.Generator("cpu").manual_seed(seed)`, and filling a slice from it is
//! `torch.randn(shape, generator=generator)` in `f32`: a seed gives the same latents as in diffusers. PyTorch
//! has two algorithms, chosen by the number of values:
//!
//! - 16 and more (every latent): blocks of 16 by Box–Muller, in `f32`, with the logarithm, sine and cosine of
//!   Moshier's Cephes library, vectorised. This is the algorithm of PyTorch on x86-64 with AVX2, and the
//!   numbers here are bit-identical to it on every machine: the polynomials are below, with the same fused
//!   multiply-adds. PyTorch itself calls the C library instead where there is no AVX2 (on Arm, for one) and
//!   differs from these numbers by up to 2.5e-6.
//! - Fewer than 16: one by one, by Box–Muller in `f64`. The second value of a pair waits for the next such
//!   call.
//!
//! Both use the generator MT19937 (Matsumoto & Nishimura 1998); PyTorch uses the low 32 bits of the seed.

use sdq_schedulers::NoiseSource;

const STATE_LEN: usize = 624;
/// Distance of the word that the recurrence mixes in.
const SHIFT_LEN: usize = 397;

/// Values that are transformed together; shorter draws use the other algorithm.
const BLOCK: usize = 16;

/// PyTorch's random generator on the CPU.
#[derive(Clone, Debug)]
pub struct TorchCpuGenerator {
    state: [u32; STATE_LEN],
    /// Words of `state` that have been used.
    used: usize,
    /// The second value of a pair drawn one by one.
    next_normal: Option<f64>,
}

impl TorchCpuGenerator {
    /// The generator after `manual_seed(seed)`. Only the low 32 bits of the seed matter.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; STATE_LEN];
        state[0] = seed as u32;
        for i in 1..STATE_LEN {
            let previous: u32 = state[i - 1];
            state[i] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        TorchCpuGenerator { state, used: STATE_LEN, next_normal: None }
    }

    /// Length of [`TorchCpuGenerator::to_bytes`].
    pub(crate) const BYTES: usize = 4 * STATE_LEN + 4 + 1 + 8;

    /// The complete state of the generator, little endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.state.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend((self.used as u32).to_le_bytes());
        bytes.push(u8::from(self.next_normal.is_some()));
        bytes.extend(self.next_normal.unwrap_or(0.0).to_le_bytes());
        bytes
    }

    /// The generator that [`TorchCpuGenerator::to_bytes`] wrote. `None` if no generator could have written
    /// it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (words, rest) = bytes.split_at(4 * STATE_LEN);
        let mut state = [0; STATE_LEN];
        for (word, bytes) in state.iter_mut().zip(words.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        let used = u32::from_le_bytes(rest[..4].try_into().ok()?) as usize;
        let next_normal = f64::from_le_bytes(rest[5..].try_into().ok()?);
        let next_normal = match rest[4] {
            0 => None,
            1 => Some(next_normal),
            _ => return None,
        };
        (used <= STATE_LEN).then_some(TorchCpuGenerator { state, used, next_normal })
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == STATE_LEN {
            self.refill();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for i in 0..STATE_LEN {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE_LEN] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT_LEN) % STATE_LEN] ^ (joined >> 1) ^ twist;
        }
        self.used = 0;
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let low = u64::from(self.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(normal) = self.next_normal.take() {
            return normal;
        }
        let angle = 2.0 * std::f64::consts::PI * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.next_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn fill_uniform(&mut self, out: &mut [f32]) {
        out.iter_mut().for_each(|value| *value = self.uniform_f32());
    }
}

impl NoiseSource for TorchCpuGenerator {
    fn fill_standard_normal(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.iter_mut().for_each(|value| *value = self.normal_f64() as f32);
            return;
        }
        self.fill_uniform(out);
        let mut blocks = out.chunks_exact_mut(BLOCK);
        blocks.by_ref().for_each(box_muller);
        if !blocks.into_remainder().is_empty() {
            // An incomplete last block is replaced: the last 16 values are drawn again.
            let start = out.len() - BLOCK;
            self.fill_uniform(&mut out[start..]);
            box_muller(&mut out[start..]);
        }
    }
}

/// Turns 16 uniform values into normal ones in place: the first eight give radii, the last eight angles.
fn box_muller(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        // 1 - u is in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *second);
        *first = radius * cos;
        *second = radius * sin;
    }
}

/// Natural logarithm of a positive normal number. Cephes `logf`: with x = 2ᵉ · (1 + f), √½ ≤ 1 + f < √2,
/// ln x = e · ln 2 + f - f²/2 + f³ · P(f).
#[expect(clippy::excessive_precision, reason = "the digits of the Cephes library")]
fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    /// ln 2 in two parts, the larger exact in few bits.
    const LN_2: (f32, f32) = (0.693359375, -2.12194440e-4);

    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0.5_f32.to_bits());
    let f = if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        // Not 2m - 1: the reference implementation rounds m - 1 first.
        (mantissa - 1.0) + mantissa
    } else {
        mantissa - 1.0
    };
    let square = f * f;
    let cube_term = polynomial(&P, f) * f;
    let small = cube_term.mul_add(square, exponent * LN_2.1);
    let small = square.mul_add(-0.5, small);
    exponent.mul_add(LN_2.0, f + small)
}

/// Sine and cosine of an angle from 0 to 2π. Cephes `sinf`, `cosf`: subtracts the nearest even multiple of
/// π/4 from the angle, in three parts, then evaluates a polynomial for each on ±π/4.
#[expect(clippy::excessive_precision, reason = "the digits of the Cephes library")]
fn sin_cos(angle: f32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];
    const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];
    const MINUS_PI_4: [f32; 3] = [-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8];

    let octant = (angle * (4.0 / std::f32::consts::PI)) as u32;
    let octant = (octant + 1) & !1;
    let reduced = MINUS_PI_4.iter().fold(angle, |angle, part| (octant as f32).mul_add(*part, angle));
    let square = reduced * reduced;

    let cos = polynomial(&COS, square) * square;
    let cos = cos.mul_add(square, -(square * 0.5)) + 1.0;
    let sin = polynomial(&SIN, square) * square;
    let sin = sin.mul_add(reduced, reduced);
    match octant & 7 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Horner's rule, highest power first, one rounding per coefficient.
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    coefficients.iter().skip(1).fold(coefficients[0], |sum, coefficient| sum.mul_add(x, *coefficient))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_goes_on_where_its_bytes_were_taken() {
        let mut generator = TorchCpuGenerator::new(7);
        // An odd number of single draws leaves the second value of a pair waiting.
        generator.fill_standard_normal(&mut [0.0; 100]);
        generator.fill_standard_normal(&mut [0.0; 3]);
        let mut restored = TorchCpuGenerator::from_bytes(&generator.to_bytes()).unwrap();
        for count in [1, 5, 700] {
            let (mut expected, mut found) = (vec![0.0; count], vec![0.0; count]);
            generator.fill_standard_normal(&mut expected);
            restored.fill_standard_normal(&mut found);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn bytes_that_no_generator_wrote_are_refused() {
        let bytes = TorchCpuGenerator::new(7).to_bytes();
        assert!(TorchCpuGenerator::from_bytes(&bytes[1..]).is_none());
        for (place, value) in [(4 * STATE_LEN + 1, 3), (4 * STATE_LEN + 4, 2)] {
            let mut damaged = bytes.clone();
            damaged[place] = value;
            assert!(TorchCpuGenerator::from_bytes(&damaged).is_none(), "byte {place}");
        }
    }

    fn draw(generator: &mut TorchCpuGenerator, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        generator.fill_standard_normal(&mut out);
        out
    }

    /// The published test of MT19937: its 10,000th output from the default seed, from the C++ standard for
    /// `mt19937`.
    #[test]
    fn ten_thousandth_word_is_the_published_one() {
        let mut generator = TorchCpuGenerator::new(5489);
        let word = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(word, Some(4_123_659_995));
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        let low = draw(&mut TorchCpuGenerator::new(7), 16);
        assert_eq!(low, draw(&mut TorchCpuGenerator::new(7 + (1 << 32)), 16));
        assert_ne!(low, draw(&mut TorchCpuGenerator::new(8), 16));
    }

    /// An odd count below 16 leaves a value of a pair, which is kept during a draw of the other kind.
    #[test]
    fn second_of_a_pair_waits_for_the_next_short_draw() {
        let mut split = TorchCpuGenerator::new(3);
        let mut whole = split.clone();
        let pair = draw(&mut whole, 2);
        assert_eq!(draw(&mut split, 1), pair[..1]);
        assert_eq!(draw(&mut split, 16), draw(&mut whole, 16));
        assert_eq!(draw(&mut split, 1), pair[1..]);
        assert!(draw(&mut split, 0).is_empty());
    }

    /// The polynomials are precise at the ends of the range of uniform values, u = 0 and u = 1 - 2⁻²⁴, and at
    /// each octant's edge.
    #[test]
    fn polynomials_are_close_to_the_exact_functions() {
        for i in (0..1 << 24).step_by(997).chain([(1 << 24) - 1]) {
            let uniform = i as f32 / (1 << 24) as f32;
            let logarithm = f64::from(1.0 - uniform).ln();
            assert!((f64::from(ln(1.0 - uniform)) - logarithm).abs() <= 2e-7 * logarithm.abs(), "{uniform}");
            let angle = std::f32::consts::TAU * uniform;
            let (sin, cos) = sin_cos(angle);
            assert!((f64::from(sin) - f64::from(angle).sin()).abs() < 1.5e-7, "{uniform}");
            assert!((f64::from(cos) - f64::from(angle).cos()).abs() < 1.5e-7, "{uniform}");
        }
    }

    /// All of 160,000 values are finite, and mean and deviation are within four standard errors of 0 and 1.
    #[test]
    fn draws_look_normal() {
        let values = draw(&mut TorchCpuGenerator::new(1), 160_000);
        let count = values.len() as f64;
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.014, "{variance}");
    }

    /// The last 16 values are drawn again if the length is no multiple of 16: values before them are
    /// unchanged, they themselves are another draw.
    #[test]
    fn the_last_block_of_an_odd_length_is_drawn_anew() {
        for count in [17, 24, 31, 33, 47] {
            let whole_blocks = count / BLOCK * BLOCK;
            let mut generator = TorchCpuGenerator::new(11);
            let found = draw(&mut generator, count);
            let mut reference = TorchCpuGenerator::new(11);
            let mut first = draw(&mut reference, whole_blocks);
            // The uniform values of the incomplete block are drawn and not used.
            (whole_blocks..count).for_each(|_| _ = reference.next_u32());
            let last = draw(&mut reference, BLOCK);
            first.truncate(count - BLOCK);
            assert_eq!(
                (&found[..count - BLOCK], &found[count - BLOCK..]),
                (&first[..], &last[..]),
                "{count}"
            );
            assert_eq!(draw(&mut generator, BLOCK), draw(&mut reference, BLOCK), "{count}");
        }
    }

    /// The saved state includes the waiting second value of Box–Muller, at every position of the state.
    #[test]
    fn bytes_hold_all_that_is_drawn_next() {
        for used in [0, 1, 311, STATE_LEN - 1, STATE_LEN] {
            for waiting in [None, Some(-0.25), Some(f64::MIN_POSITIVE)] {
                let generator = TorchCpuGenerator { used, next_normal: waiting, ..TorchCpuGenerator::new(9) };
                let bytes = generator.to_bytes();
                assert_eq!(bytes.len(), TorchCpuGenerator::BYTES);
                let restored = TorchCpuGenerator::from_bytes(&bytes).unwrap();
                assert_eq!(
                    (restored.state, restored.used, restored.next_normal),
                    (generator.state, used, waiting)
                );
            }
        }
        let beyond = TorchCpuGenerator { used: STATE_LEN + 1, ..TorchCpuGenerator::new(9) }.to_bytes();
        assert!(TorchCpuGenerator::from_bytes(&beyond).is_none());
        let bytes = TorchCpuGenerator::new(9).to_bytes();
        assert!(TorchCpuGenerator::from_bytes(&[&bytes[..], &[0]].concat()).is_none());
        assert!(TorchCpuGenerator::from_bytes(&[]).is_none());
    }

    #[test]
    fn uniform_numbers_are_below_one() {
        let mut generator = TorchCpuGenerator::new(0);
        for _ in 0..10_000 {
            let (short, long) = (generator.uniform_f32(), generator.uniform_f64());
            assert!((0.0..1.0).contains(&short) && (0.0..1.0).contains(&long), "{short} {long}");
            // Multiples of 2^-24 and 2^-53.
            assert_eq!((short * (1 << 24) as f32).fract(), 0.0);
            assert_eq!((long * (1_u64 << 53) as f64).fract(), 0.0);
        }
    }
}
