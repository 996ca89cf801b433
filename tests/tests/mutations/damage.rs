//! Damages of bytes, the same ones for a seed on every machine.

/// Random numbers, the same ones for a seed on every machine: xorshift64*, Vigna 2016, arXiv:1402.6246.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Pieces that mean something to one reader or another.
const WORDS: [&[u8]; 26] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b"((((((((",
    b"\"",
    b"\\",
    b",",
    b":",
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"9223372036854775808",
    b"../../x",
    b"\x1b[2J",
    b"\xc2\x9b",
    b"\0",
    b"\xff\xfe",
    b"__metadata__",
    b"data_offsets",
    b"<lora:x:1>",
    b"\xf0\x9f\xa6\x8a",
    b"\n",
];

/// Numbers at which something changes.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];

/// `file` with one to six damages.
pub(crate) fn damaged(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        // Headers and tables stand at the beginning and at the end.
        let at = match random.below(4) {
            0 | 1 => random.below(bytes.len().min(2048)),
            2 => bytes.len() - 1 - random.below(bytes.len().min(4096)),
            _ => random.below(bytes.len()),
        };
        let longest = 1 << random.below(12);
        let end = at + random.below((bytes.len() - at).min(longest) + 1);
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 << random.below(6);
                bytes.splice(at..at, piece.repeat(times));
            }
            5 => {
                let word = random.one_of(&WORDS);
                bytes.splice(at..at, word.iter().copied());
            }
            6 => bytes.truncate(at),
            7 => replace_number(&mut bytes, at, random),
            _ => {
                let from = random.below(bytes.len());
                let piece = bytes[from..(from + end - at).min(bytes.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

/// Puts another number in place of the decimal one at or after `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = NUMBERS[random.below(NUMBERS.len())].to_string();
    bytes.splice(start..start + len, number.into_bytes());
}

/// Makes the checksums of an `.sdq` file right, so that what stands behind them is reached.
pub(crate) fn seal_sdq(bytes: &mut [u8]) {
    let Some(table) = bytes.get(24..32).map(|field| u64::from_le_bytes(field.try_into().unwrap())) else {
        return;
    };
    let (table, len) = (usize::try_from(table).unwrap_or(usize::MAX), bytes.len());
    if len < 64 || table > len {
        return;
    }
    let checksum = crc32fast::hash(&bytes[table..]);
    bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    bytes[32..40].copy_from_slice(&((len - table) as u64).to_le_bytes());
    bytes[40..44].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
}

/// The same for the chunks of a PNG file, as far as their lengths lead.
pub(crate) fn seal_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 4) {
        let len = u32::from_be_bytes(head.try_into().unwrap()) as usize;
        let Some(end) = at.checked_add(8 + len).filter(|end| end + 4 <= bytes.len()) else { break };
        let checksum = crc32fast::hash(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}
