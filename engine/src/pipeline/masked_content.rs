//! What the masked part of a picture starts from: AUTOMATIC1111's web UI calls it the masked content.

use std::{fmt, str::FromStr};

use crate::{Mask, Picture};

/// What the part that a mask redraws starts from. It matters less the more is redrawn, and not at all at a strength of 1,
/// which starts from noise alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskedContent {
    /// The picture as it is.
    #[default]
    Original,
    /// The colours around it, blurred.
    Surroundings,
    /// Noise in place of the picture's latents.
    Noise,
    /// Zeros in place of the picture's latents.
    Nothing,
}

impl MaskedContent {
    /// All of them.
    pub const ALL: [MaskedContent; 4] =
        [MaskedContent::Original, MaskedContent::Surroundings, MaskedContent::Noise, MaskedContent::Nothing];

    /// Its spelling in requests.
    pub fn name(self) -> &'static str {
        match self {
            MaskedContent::Original => "original",
            MaskedContent::Surroundings => "surroundings",
            MaskedContent::Noise => "noise",
            MaskedContent::Nothing => "nothing",
        }
    }

    /// Replaces clean `latents`, `[channels, h, w]`, where `mask`, `[h, w]`, is 1. `noise` is that of the run's start.
    pub(super) fn put_into(self, latents: &mut [f32], mask: &[f32], noise: &[f32]) {
        let replaced = latents.iter_mut().zip(noise).zip(mask.iter().cycle());
        let replaced = replaced.filter(|(_, drawn)| **drawn == 1.0).map(|(values, _)| values);
        match self {
            MaskedContent::Original | MaskedContent::Surroundings => {}
            MaskedContent::Noise => replaced.for_each(|(latent, noise)| *latent = *noise),
            MaskedContent::Nothing => replaced.for_each(|(latent, _)| *latent = 0.0),
        }
    }
}

impl FromStr for MaskedContent {
    type Err = String;

    fn from_str(text: &str) -> Result<MaskedContent, String> {
        MaskedContent::ALL.into_iter().find(|content| content.name() == text).ok_or_else(|| {
            format!("expected one of {}", MaskedContent::ALL.map(MaskedContent::name).join(", "))
        })
    }
}

impl fmt::Display for MaskedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The colour where nothing at all is kept.
const GREY: [f32; 3] = [127.5; 3];

/// Colours, `[height, width]`; `None` where nothing is kept.
struct Level {
    width: usize,
    height: usize,
    pixels: Vec<Option<[f32; 3]>>,
}

/// `picture` with the part that `mask` redraws filled by the colours around it, the smoother the farther they are: the pull and
/// push of Gortler et al. 1996, "The Lumigraph", section 3.4. Grey where nothing is kept.
pub(super) fn with_surroundings(picture: &Picture, mask: &Mask) -> Picture {
    let kept = picture.rgb.chunks_exact(3).enumerate().map(|(index, pixel)| match mask.is_drawn(index) {
        true => None,
        false => Some([pixel[0].into(), pixel[1].into(), pixel[2].into()]),
    });
    let mut levels = vec![Level { width: picture.width, height: picture.height, pixels: kept.collect() }];
    while let Some(last) = levels.last()
        && (last.width > 1 || last.height > 1)
    {
        levels.push(last.halved());
    }
    let mut coarse = Level { width: 1, height: 1, pixels: vec![Some(GREY)] };
    for mut level in levels.into_iter().rev() {
        level.fill_from(&coarse);
        coarse = level;
    }
    let mut filled = picture.clone();
    for (index, (pixel, colour)) in filled.rgb.chunks_exact_mut(3).zip(&coarse.pixels).enumerate() {
        if let (true, Some(colour)) = (mask.is_drawn(index), colour) {
            pixel.iter_mut().zip(colour).for_each(|(value, colour)| *value = colour.round() as u8);
        }
    }
    filled
}

impl Level {
    /// Half as many pixels along each axis: the averages of the colours that are kept among four.
    fn halved(&self) -> Level {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut sums = vec![([0.0; 3], 0.0); width * height];
        for (index, pixel) in self.pixels.iter().enumerate() {
            let Some(colour) = pixel else { continue };
            let (sum, count) = &mut sums[index / self.width / 2 * width + index % self.width / 2];
            add(sum, 1.0, colour);
            *count += 1.0;
        }
        let average = |(sum, count): ([f32; 3], f32)| (count > 0.0).then(|| sum.map(|value| value / count));
        Level { width, height, pixels: sums.into_iter().map(average).collect() }
    }

    /// Fills what is missing with the colours of `coarse`, which has half as many pixels along each axis, and all of them.
    fn fill_from(&mut self, coarse: &Level) {
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            if pixel.is_none() {
                *pixel = Some(coarse.between(index % self.width, index / self.width));
            }
        }
    }

    /// The colour at pixel `x`, `y` of a level with twice as many pixels, between the centres of the four nearest pixels.
    fn between(&self, x: usize, y: usize) -> [f32; 3] {
        let nearest = |at: usize, side: usize| {
            let own = (at / 2).min(side - 1);
            let next = if at.is_multiple_of(2) { own.saturating_sub(1) } else { (own + 1).min(side - 1) };
            [(own, 0.75), (next, 0.25)]
        };
        let mut colour = [0.0; 3];
        for (row, down) in nearest(y, self.height) {
            for (column, right) in nearest(x, self.width) {
                add(&mut colour, down * right, &self.pixels[row * self.width + column].unwrap_or(GREY));
            }
        }
        colour
    }
}

fn add(sum: &mut [f32; 3], weight: f32, colour: &[f32; 3]) {
    sum.iter_mut().zip(colour).for_each(|(sum, value)| *sum += weight * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for content in MaskedContent::ALL {
            assert_eq!(content.to_string().parse(), Ok(content));
        }
        let error = "blur".parse::<MaskedContent>().unwrap_err();
        assert_eq!(error, "expected one of original, surroundings, noise, nothing");
    }

    #[test]
    fn latents_are_replaced_where_the_mask_draws() {
        let (mask, noise) = ([1.0, 0.0, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]);
        for (content, expected) in [
            (MaskedContent::Original, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            (MaskedContent::Surroundings, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            (MaskedContent::Noise, [9.0, 2.0, 7.0, 6.0, 5.0, 4.0]),
            (MaskedContent::Nothing, [0.0, 2.0, 0.0, 0.0, 5.0, 0.0]),
        ] {
            let mut latents = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
            content.put_into(&mut latents, &mask, &noise);
            assert_eq!(latents, expected, "{content}");
        }
    }

    /// A hole between a dark and a light side: its colours go from one to the other, and nothing else changes.
    #[test]
    fn a_hole_gets_the_colours_around_it() {
        for (width, height) in [(32, 16), (31, 17), (5, 1)] {
            let side = |x: usize| if x < width / 2 { 40 } else { 200 };
            let rgb: Vec<u8> = (0..width * height).flat_map(|index| [side(index % width), 100, 7]).collect();
            let hole = |x: usize| (width / 4..width - width / 4).contains(&x);
            let values = (0..width * height).map(|index| if hole(index % width) { 255 } else { 0 });
            let mask = Mask { width, height, values: values.collect() };
            let picture = Picture { width, height, rgb };
            let filled = with_surroundings(&picture, &mask);
            for (index, (new, old)) in filled.rgb.chunks(3).zip(picture.rgb.chunks(3)).enumerate() {
                match hole(index % width) {
                    false => assert_eq!(new, old),
                    true => {
                        assert!((40..=200).contains(&new[0]) && new[1..] == [100, 7], "{new:?}");
                    }
                }
            }
            let row: Vec<u8> = filled.rgb[..3 * width].chunks(3).map(|pixel| pixel[0]).collect();
            assert!(row.is_sorted(), "{row:?}");
        }
    }

    #[test]
    fn without_surroundings_it_is_grey() {
        let picture = Picture { width: 3, height: 2, rgb: vec![9; 18] };
        let all = Mask { width: 3, height: 2, values: vec![255; 6] };
        assert_eq!(with_surroundings(&picture, &all).rgb, vec![128; 18]);
        let none = Mask { width: 3, height: 2, values: vec![0; 6] };
        assert_eq!(with_surroundings(&picture, &none), picture);
    }
}
