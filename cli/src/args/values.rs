//! Values of flags: text → numbers, sizes and choices.

use sdq::request::Caching;

/// The value of a flag for a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeedArg {
    /// A given seed.
    Number(u64),
    /// A random seed.
    Random,
}

pub(super) fn seed(text: &str) -> Result<SeedArg, String> {
    match text {
        "-1" => Ok(SeedArg::Random),
        _ => text
            .parse()
            .map(SeedArg::Number)
            .map_err(|_| "expected a whole number of 0 or more, or -1 for a random seed".to_owned()),
    }
}

pub(super) fn clip_skip(text: &str) -> Result<usize, String> {
    let expected = "expected 1 (the last block) or more; leave the flag out for the block of the model";
    text.parse().map_err(|_| expected.to_owned())
}

pub(super) fn size(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once(['x', 'X']).ok_or("expected WIDTHxHEIGHT, such as 512x768")?;
    let side = |side: &str| side.parse().map_err(|_| format!("`{side}` is not a number of pixels"));
    Ok((side(width)?, side(height)?))
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units.iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_lowercase()]));
    let (number, shift) = match unit {
        Some((_, shift)) => (&text[..text.len() - 1], *shift),
        None => (text, 0),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "expected a number of bytes, such as 512M".to_owned())
}

pub(super) fn caching(text: &str) -> Result<Caching, String> {
    match text {
        "none" => Ok(Caching::None),
        text => text.parse(),
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as eta=0.5")?;
    Ok((key.to_owned(), value.to_owned()))
}
