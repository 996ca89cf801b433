//! Finds the networks in a checkpoint by the names and shapes of its tensors.

use serde_json::Value;

use crate::models::{
    clip::TextEncoder,
    naming::{Component, LayoutProblem, Names, Piece, Rename},
    unet::UNet,
    vae::{KlAutoencoder, TinyAutoencoder},
};

/// The parts of a model that a checkpoint has.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) unet: Option<FoundUNet>,
    pub(crate) vae: Option<FoundVae>,
    pub(crate) text_encoders: Vec<TextEncoder>,
    /// Tensors that belong to no part, with the reason for which they are left out.
    pub(crate) skipped: Vec<(Skipped, String)>,
}

/// A U-Net among a checkpoint's tensors.
pub(crate) struct FoundUNet {
    /// Prefix of its tensors' names.
    prefix: String,
    pub(crate) unet: UNet,
}

impl FoundUNet {
    /// The component, to be described by another config.
    pub(crate) fn renamed(&self, names: &Names) -> Component {
        let modules = self.unet.structure.modules();
        let renames = renames(names, &self.prefix, |name| modules.to_diffusers(name));
        Component { name: "unet", class_name: "UNet2DConditionModel", config: Value::Null, renames }
    }

    pub(super) fn component(
        &self,
        names: &Names,
        pooled: usize,
        numbers: usize,
        latent_size: usize,
    ) -> Result<Component, LayoutProblem> {
        let config = self.unet.config(pooled, numbers, latent_size)?;
        Ok(Component { config, ..self.renamed(names) })
    }
}

/// An autoencoder among a checkpoint's tensors.
pub(crate) struct FoundVae {
    /// Prefix of its tensors' names.
    prefix: String,
    vae: Vae,
}

enum Vae {
    Kl(KlAutoencoder),
    Tiny(TinyAutoencoder),
}

impl FoundVae {
    /// Whether pictures can be encoded, and not only latents decoded.
    pub(crate) fn has_encoder(&self) -> bool {
        match &self.vae {
            Vae::Kl(_) => true,
            Vae::Tiny(vae) => vae.has_encoder(),
        }
    }

    pub(super) fn latent_channels(&self) -> usize {
        match &self.vae {
            Vae::Kl(vae) => vae.latent_channels,
            Vae::Tiny(vae) => vae.latent_channels,
        }
    }

    /// The component. `scaling_factor` is the factor of latents, unless the network has its own.
    pub(crate) fn component(&self, names: &Names, scaling_factor: f64) -> Component {
        let (class_name, config, renames) = match &self.vae {
            Vae::Kl(vae) => {
                let modules = vae.modules();
                let renames = renames(names, &self.prefix, |name| modules.to_diffusers(name));
                ("AutoencoderKL", vae.config(scaling_factor), renames)
            }
            Vae::Tiny(vae) => {
                let renames = renames(names, &self.prefix, |name| vae.to_diffusers(name));
                ("AutoencoderTiny", vae.config(), renames)
            }
        };
        Component { name: "vae", class_name, config, renames }
    }
}

/// Renames every tensor with the prefix `prefix`, except those that only training needs; the rest of the name
/// is passed through `to_diffusers`.
fn renames(names: &Names, prefix: &str, to_diffusers: impl Fn(&str) -> String) -> Vec<Rename> {
    let rename = |source: &str| match Skipped::of(source) {
        Skipped::Unknown => Rename::new(source, &to_diffusers(&source[prefix.len()..]), Piece::Whole),
        Skipped::Ema | Skipped::Training | Skipped::Mark => Rename::ignored(source),
    };
    names.under(prefix).map(rename).collect()
}

/// Why a tensor of a checkpoint is not part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// A running mean of the weights, for further training.
    Ema,
    /// The noise schedule, or the state of training.
    Training,
    /// A marker without values: what the model predicts, or how other tensors are stored.
    Mark,
    /// A tensor of an unknown part.
    Unknown,
}

impl Skipped {
    /// Completes "tensors …".
    pub fn name(self) -> &'static str {
        match self {
            Skipped::Ema => "of a running mean (EMA)",
            Skipped::Training => "of the noise schedule or of training",
            Skipped::Mark => "that only mark the file",
            Skipped::Unknown => "of unknown parts",
        }
    }

    /// Why the tensor `name`, which belongs to no part, is left out.
    fn of(name: &str) -> Skipped {
        let schedule = [
            "alphas_cumprod",
            "sqrt_",
            "log_one_minus_",
            "posterior_",
            "denoiser.",
            "loss.",
            "optimizer_states.",
            "lr_schedulers.",
        ];
        let single = ["betas", "logvar", "lvlb_weights", "scale_factor", "global_step", "epoch"];
        if name.starts_with("model_ema.") {
            Skipped::Ema
        } else if ["v_pred", "ztsnr"].contains(&name) || name.rsplit('.').next() == Some("scaled_fp8") {
            Skipped::Mark
        } else if schedule.iter().any(|start| name.starts_with(start)) || single.contains(&name) {
            Skipped::Training
        } else {
            Skipped::Unknown
        }
    }
}

impl Found {
    /// Finds the parts of a model among `names`.
    ///
    /// # Errors
    /// When a part lacks tensors, or when there is no part at all.
    pub(crate) fn of(names: &Names) -> Result<Found, LayoutProblem> {
        let mut found = Found::default();
        let starts = |end: &'static str| names.iter().filter_map(move |name| name.strip_suffix(end));
        if let Some(prefix) = unet_prefix(names) {
            found.unet = Some(FoundUNet { prefix: prefix.to_owned(), unet: UNet::of(names, prefix)? });
        }
        if let Some(prefix) =
            starts("decoder.conv_in.weight").find(|start| KlAutoencoder::is_at(names, start))
        {
            let vae = Vae::Kl(KlAutoencoder::of(names, prefix)?);
            found.vae = Some(FoundVae { prefix: prefix.to_owned(), vae });
        } else if names.has("encoder.0.weight") && !names.has("decoder.1.weight") {
            return Err(LayoutProblem::EncoderOnly);
        } else if let Some(prefix) =
            starts("decoder.layers.0.weight").chain(starts("decoder.1.weight")).next()
        {
            let vae = Vae::Tiny(TinyAutoencoder::of(names, prefix)?);
            found.vae = Some(FoundVae { prefix: prefix.to_owned(), vae });
        }
        found.text_encoders = TextEncoder::all(names)?;
        if found.unet.is_none() && found.vae.is_none() && found.text_encoders.is_empty() {
            return Err(nothing(names));
        }
        let unet = found.unet.iter().map(|unet| &unet.prefix);
        let vae = found.vae.iter().map(|vae| &vae.prefix);
        let text = found.text_encoders.iter().map(|encoder| &encoder.prefix);
        let prefixes: Vec<&String> = unet.chain(vae).chain(text).collect();
        let claimed = |name: &&str| {
            prefixes.iter().any(|prefix| {
                name.starts_with(prefix.as_str())
                    && (!prefix.is_empty() || Skipped::of(name) == Skipped::Unknown)
            })
        };
        found.skipped = names
            .iter()
            .filter(|name| !claimed(name))
            .map(|name| (Skipped::of(name), name.to_owned()))
            .collect();
        Ok(found)
    }
}

/// The prefix of the U-Net's tensor names, if there is a U-Net.
pub(crate) fn unet_prefix(names: &Names) -> Option<&str> {
    let starts = |end: &'static str| names.iter().filter_map(move |name| name.strip_suffix(end));
    let mut unets = starts("input_blocks.0.0.weight").chain(starts("down_blocks.0.resnets.0.conv1.weight"));
    // Other prefixes of these belong to a ControlNet, and to the encoders of autoencoders.
    unets.find(|start| *start != "control_model." && !start.ends_with("coder."))
}

/// The error for a file without any part of a model.
fn nothing(names: &Names) -> LayoutProblem {
    let first = names.iter().next().unwrap_or("none").to_owned();
    LayoutProblem::Nothing { tensors: names.iter().count(), first, hint: hint(names) }
}

/// The kind of a file that is not a model.
fn hint(names: &Names) -> Option<&'static str> {
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    if any("lora_down") || any("lora_A") || any(".lora.down") || any("hada_w1") || any("lokr_w1") {
        Some("a LoRA; give it to `sdq generate --lora`")
    } else if any("zero_convs.") || any("controlnet_") {
        Some("a ControlNet, which sdq does not run")
    } else if any("emb_params") || any("string_to_param") {
        Some("a textual inversion")
    } else if any("double_blocks.") || any("joint_blocks.") {
        Some("a diffusion transformer (FLUX, SD3), which sdq does not run")
    } else {
        None
    }
}
