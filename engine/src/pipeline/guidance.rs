//! Guidance: the evaluations for one picture, and how they are combined.

use super::{Pipeline, Request, Settings};

/// One evaluation for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Branch<'a> {
    /// The prompt for the text encoders.
    pub prompt: &'a str,
    /// Whether it is the negative prompt.
    pub negative: bool,
}

/// How the branches of a picture are combined into one prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Guidance {
    /// There is only one branch.
    None,
    /// Unconditional and conditional: `uncond + scale * (cond - uncond)`. Ho & Salimans 2022,
    /// arXiv:2207.12598, eq. 6, in the form in which a scale of 1 is no guidance. `rescale` restores some of
    /// the amplitude of `cond`: Lin et al. 2023, arXiv:2305.08891, eq. 15-16.
    Prompt { scale: f32, rescale: f32 },
    /// Prompt and picture, picture alone, neither: Brooks et al. 2022, arXiv:2211.09800, eq. 3.
    PromptAndPicture { scale: f32, image_scale: f32 },
}

impl Guidance {
    /// Whether `branch` reads the picture to edit; otherwise it reads zeros.
    pub(super) fn shows_picture(self, branch: usize) -> bool {
        !matches!((self, branch), (Guidance::PromptAndPicture { .. }, 2))
    }

    /// The index of the branch with the complete conditioning.
    pub(super) fn prompt_branch(self) -> usize {
        match self {
            Guidance::Prompt { .. } => 1,
            Guidance::None | Guidance::PromptAndPicture { .. } => 0,
        }
    }

    /// Combines one picture's branches, given by index, into its predicted noise.
    pub(super) fn apply<'p>(self, branch: impl Fn(usize) -> &'p [f32], guided: &mut [f32]) {
        match self {
            Guidance::None => guided.copy_from_slice(branch(0)),
            Guidance::Prompt { scale, rescale } => {
                let (uncond, cond) = (branch(0), branch(1));
                for ((guided, uncond), cond) in guided.iter_mut().zip(uncond).zip(cond) {
                    *guided = uncond + scale * (cond - uncond);
                }
                if rescale > 0.0 {
                    give_back_amplitude(guided, cond, rescale);
                }
            }
            Guidance::PromptAndPicture { scale, image_scale } => {
                let values = branch(0).iter().zip(branch(1)).zip(branch(2));
                for (guided, ((text, image), uncond)) in guided.iter_mut().zip(values) {
                    *guided = uncond + scale * (text - image) + image_scale * (image - uncond);
                }
            }
        }
    }
}

/// Moves the standard deviation of `guided` towards that of `cond`; with a `rescale` of 1 they become equal.
fn give_back_amplitude(guided: &mut [f32], cond: &[f32], rescale: f32) {
    let full = deviation(cond) / deviation(guided);
    let factor = f64::from(rescale) * full + (1.0 - f64::from(rescale));
    guided.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
}

/// Standard deviation with a divisor of `count - 1`, as in PyTorch.
fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt()
}

impl Pipeline {
    /// The kind of guidance of this model for `settings`. A distilled model with the scale as an input is
    /// evaluated once, and so is a model whose branches would all have the same conditioning.
    pub(super) fn guidance(&self, settings: &Settings) -> Guidance {
        let index = &self.model.index;
        let scale = settings.guidance_scale;
        let Request { prompt, negative_prompt, guidance_rescale, .. } = &settings.request;
        let same_prompts = prompt == negative_prompt;
        let zeroed = index.force_zeros_for_empty_prompt && negative_prompt.is_empty();
        if scale <= 1.0 || self.model.denoiser.reads_guidance_scale() {
            return Guidance::None;
        }
        match index.image_guidance() {
            false if same_prompts && !zeroed && !index.requires_aesthetics_score => Guidance::None,
            false => Guidance::Prompt { scale, rescale: *guidance_rescale },
            true if settings.image_guidance_scale >= 1.0 => {
                Guidance::PromptAndPicture { scale, image_scale: settings.image_guidance_scale }
            }
            true => Guidance::None,
        }
    }
}

impl Settings {
    /// The evaluations for one picture, in diffusers' order.
    pub(super) fn branches(&self) -> Vec<Branch<'_>> {
        let cond = Branch { prompt: &self.request.prompt, negative: false };
        let uncond = Branch { prompt: &self.request.negative_prompt, negative: true };
        match self.guidance {
            Guidance::None => vec![cond],
            Guidance::Prompt { .. } => vec![uncond, cond],
            Guidance::PromptAndPicture { .. } => vec![cond, uncond, uncond],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guidance_adds_to_the_amplitude_can_be_taken_back() {
        let cond = [1.0, -1.0, 0.5, -0.5];
        for (rescale, expected) in [(0.0, 4.0), (0.5, 2.5), (1.0, 1.0)] {
            let mut found = [0.0; 4];
            let guidance = Guidance::Prompt { scale: 4.0, rescale };
            guidance.apply(|branch| [&[0.0; 4], &cond][branch], &mut found);
            assert!(
                (found[0] - expected).abs() < 1e-6 && (found[3] + expected / 2.0).abs() < 1e-6,
                "{found:?}"
            );
        }
    }

    #[test]
    fn pictures_and_prompts_pull_apart() {
        let guidance = Guidance::PromptAndPicture { scale: 7.0, image_scale: 1.5 };
        let mut guided = [0.0];
        guidance.apply(|branch| &[3.0, 2.0, 1.0][branch..=branch], &mut guided);
        assert_eq!(guided, [1.0 + 7.0 + 1.5]);
        assert_eq!([0, 1, 2].map(|branch| guidance.shows_picture(branch)), [true, true, false]);
    }

    #[test]
    fn without_guidance_a_prediction_is_its_only_branch() {
        let mut guided = [0.0; 3];
        Guidance::None.apply(|branch| &[[1.0, -2.0, 3.0]][branch], &mut guided);
        assert_eq!(guided, [1.0, -2.0, 3.0]);
    }

    /// `uncond + scale * (cond - uncond)`, with numbers that f32 holds exactly.
    #[test]
    fn a_scale_moves_from_the_negative_prompt_past_the_prompt() {
        let branches = [[1.0, 2.0], [2.0, -2.0]];
        for (scale, expected) in
            [(0.0, [1.0, 2.0]), (1.0, [2.0, -2.0]), (2.5, [3.5, -8.0]), (-1.0, [0.0, 6.0])]
        {
            let mut guided = [9.0; 2];
            Guidance::Prompt { scale, rescale: 0.0 }.apply(|branch| &branches[branch], &mut guided);
            assert_eq!(guided, expected, "{scale}");
        }
    }

    /// Each of the two scales alone, and both together.
    #[test]
    fn prompt_and_picture_have_scales_of_their_own() {
        let branches = [[8.0], [4.0], [1.0]];
        for (scale, image_scale, expected) in
            [(0.0, 0.0, 1.0), (1.0, 0.0, 5.0), (0.0, 1.0, 4.0), (1.0, 1.0, 8.0), (2.0, 1.5, 13.5)]
        {
            let mut guided = [0.0];
            Guidance::PromptAndPicture { scale, image_scale }.apply(|branch| &branches[branch], &mut guided);
            assert_eq!(guided, [expected], "{scale} {image_scale}");
        }
    }

    #[test]
    fn rescaling_keeps_the_direction_and_moves_the_deviation() {
        let uncond = [0.5, -1.0, 2.0, 0.25, -0.75];
        let cond = [1.0, 0.0, -1.0, 3.0, 0.5];
        let guide = |rescale| {
            let mut guided = [0.0; 5];
            Guidance::Prompt { scale: 7.5, rescale }.apply(|branch| [&uncond, &cond][branch], &mut guided);
            guided
        };
        let plain = guide(0.0);
        assert!((deviation(&guide(1.0)) - deviation(&cond)).abs() < 1e-5);
        let middle = 0.25 * deviation(&cond) + 0.75 * deviation(&plain);
        assert!((deviation(&guide(0.25)) - middle).abs() < 1e-5);
        for (rescaled, plain) in guide(0.25).iter().zip(plain) {
            let factor = middle / deviation(&plain_values(&uncond, &cond));
            assert!((f64::from(*rescaled) - f64::from(plain) * factor).abs() < 1e-4, "{rescaled} of {plain}");
        }
    }

    /// The result of a scale of 7.5, computed in f32 like the original.
    fn plain_values(uncond: &[f32], cond: &[f32]) -> Vec<f32> {
        uncond.iter().zip(cond).map(|(uncond, cond)| uncond + 7.5 * (cond - uncond)).collect()
    }

    #[test]
    fn a_deviation_divides_by_one_less_than_the_count() {
        assert_eq!(deviation(&[1.0, 3.0]), 2.0_f64.sqrt());
        assert_eq!(deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (32.0_f64 / 7.0).sqrt());
        assert_eq!(deviation(&[5.0; 4]), 0.0);
    }

    #[test]
    fn the_prompts_branch_is_where_diffusers_has_it() {
        let (prompt, both) = (
            Guidance::Prompt { scale: 2.0, rescale: 0.0 },
            Guidance::PromptAndPicture { scale: 2.0, image_scale: 1.0 },
        );
        assert_eq!([Guidance::None, prompt, both].map(Guidance::prompt_branch), [0, 1, 0]);
        assert!(
            [Guidance::None, prompt]
                .iter()
                .all(|guidance| (0..3).all(|branch| guidance.shows_picture(branch)))
        );
    }
}
