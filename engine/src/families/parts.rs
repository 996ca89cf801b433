//! Properties of the parts of a pipeline, shared by readers of published files and the engine.

/// The text encoders of a pipeline, in the order in which a prompt is encoded, each with the folder of its
/// tokenizer.
pub(crate) const TEXT_ENCODERS: [(&str, &str); 2] =
    [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];

/// Components of every pipeline, each with its possible names: SDXL's refiner has only the second text
/// encoder.
pub(crate) const REQUIRED: [&[&str]; 5] = [
    &[TEXT_ENCODERS[0].0, TEXT_ENCODERS[1].0],
    &["unet"],
    &["vae"],
    &[TEXT_ENCODERS[0].1, TEXT_ENCODERS[1].1],
    &["scheduler"],
];

/// The folder of the text encoder `component`'s tokenizer; `None` for other components.
pub(crate) fn tokenizer_of(component: &str) -> Option<&'static str> {
    TEXT_ENCODERS.iter().find(|(encoder, _)| *encoder == component).map(|(_, tokenizer)| *tokenizer)
}

/// The classes that the component `name` of `model_index.json` may have; `None` for components without weights or a
/// vocabulary.
pub(crate) fn classes_of(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "unet" => Some(&["UNet2DConditionModel"]),
        "vae" => Some(&["AutoencoderKL", "AutoencoderTiny"]),
        _ if TEXT_ENCODERS.iter().any(|(encoder, _)| *encoder == name) => {
            Some(&["CLIPTextModel", "CLIPTextModelWithProjection"])
        }
        _ if TEXT_ENCODERS.iter().any(|(_, tokenizer)| *tokenizer == name) => {
            Some(&["CLIPTokenizer", "CLIPTokenizerFast"])
        }
        _ => None,
    }
}

/// The number of SDXL's additional inputs beside the pooled prompt: original height and width, top and left
/// of the crop, and target height and width or, in the refiner, an aesthetic score.
pub(crate) fn added_numbers(aesthetic_score: bool) -> usize {
    if aesthetic_score { 5 } else { 6 }
}

/// Channels of the U-Net's input after those of the latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraInput {
    /// There are none.
    None,
    /// A mask, one where the picture is redrawn, and the latents of the picture without that part: inpainting
    /// models. Rombach et al. 2022, section 4.5.
    MaskedPicture,
    /// The latents of the picture to edit: instruct-pix2pix. Brooks et al. 2022, arXiv:2211.09800, section 3.2.
    Picture,
}

impl ExtraInput {
    /// Number of channels of the U-Net's whole input, for latents of `latent_channels`.
    pub(crate) fn input_channels(self, latent_channels: usize) -> usize {
        match self {
            ExtraInput::None => latent_channels,
            ExtraInput::MaskedPicture => latent_channels.saturating_mul(2).saturating_add(1),
            ExtraInput::Picture => latent_channels.saturating_mul(2),
        }
    }
}
