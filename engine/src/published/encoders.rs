//! Selects the text encoders of a model, from its file and from those that were given separately.

use super::assemble::Loaded;
use super::error::PublishedError;
use crate::models::clip::TextEncoder;
use crate::models::naming::{Names, missing, unknown};
use crate::models::unet::UNet;

/// A text encoder and its checkpoint.
pub(super) type From<'a> = (&'a Loaded, (&'a Names, &'a TextEncoder));

/// Flags of `sdq convert` for the text encoders.
const FLAGS: [&str; 2] = ["--text-encoder", "--text-encoder-2"];

/// The text encoders that `unet` needs, in order: those of `base`, replaced by those of `own` where there are any. SDXL's
/// refiner has only the second.
///
/// # Errors
/// When one is missing, when they are exchanged, or when they are those of another model. `main` is the file that errors name.
pub(super) fn of_model<'a>(
    main: &Loaded,
    base: Option<&'a Loaded>,
    own: &'a [Option<Loaded>; 2],
    unet: &UNet,
) -> Result<Vec<From<'a>>, PublishedError> {
    let mut places: [Option<From<'a>>; 2] = [None, None];
    let mut in_base: Vec<From<'a>> = Vec::new();
    if let Some(base) = base {
        in_base.extend(base.found.text_encoders.iter().map(|encoder| (base, (&base.names, encoder))));
    }
    let surplus = match (&in_base[..], unet.added_inputs) {
        (&[one], Some(added)) => {
            places[usize::from(one.1.1.is_second(added))] = Some(one);
            None
        }
        (found, added) => {
            let count = if added.is_some() { 2 } else { 1 };
            found.iter().take(count).zip(&mut places).for_each(|(found, place)| *place = Some(*found));
            found.get(count).copied()
        }
    };
    for (index, loaded) in own.iter().enumerate() {
        let Some(loaded) = loaded else { continue };
        places[index] = Some((loaded, loaded.text_encoder(index)?));
    }
    let alone = if unet.added_inputs.is_none() { places[1] } else { None };
    if let Some((loaded, (_, encoder))) = surplus.or(alone) {
        let found = "one text encoder more than the model reads".to_owned();
        return Err(loaded.layout(unknown(&encoder.prefix, found)));
    }
    in_order(main, places, unet)
}

/// Checks the encoders in both places against the U-Net.
fn in_order<'a>(
    main: &Loaded,
    places: [Option<From<'a>>; 2],
    unet: &UNet,
) -> Result<Vec<From<'a>>, PublishedError> {
    let width = |(_, (_, encoder)): From<'a>| encoder.width;
    let read = unet.cross_attention_dim;
    let lacks = |part, flag| PublishedError::MissingPart { path: main.path.clone(), part, flag };
    let encoders = match (places, unet.added_inputs) {
        ([None, None], _) => return Err(lacks("text encoder", FLAGS[0])),
        ([Some(first), _], None) => vec![first],
        ([Some(alone), None] | [None, Some(alone)], Some(_)) if width(alone) == read => vec![alone],
        ([Some(_), None], Some(_)) => return Err(lacks("second text encoder", FLAGS[1])),
        ([None, Some(_)], _) => return Err(lacks("first text encoder", FLAGS[0])),
        ([Some(first), Some(second)], Some(added)) => {
            let exchanged = first.1.1.is_second(added) && !second.1.1.is_second(added);
            // In one file they are what they look like, whatever their order.
            if exchanged && first.0.path == second.0.path {
                return in_order(main, [Some(second), Some(first)], unet);
            }
            if exchanged {
                let [first, second] = [first, second].map(|(loaded, _)| loaded.path.clone());
                return Err(PublishedError::ExchangedEncoders { first, second });
            }
            vec![first, second]
        }
    };
    let (last, (_, encoder)) = encoders[encoders.len() - 1];
    let found: usize = encoders.iter().map(|encoder| width(*encoder)).fold(0, usize::saturating_add);
    if found != read {
        let path = encoders[0].0.path.clone();
        return Err(PublishedError::TextWidth { path, found, expected: read });
    }
    if unet.added_inputs.is_some() && encoder.projection.is_none() {
        return Err(last.layout(missing(format!("{}text_projection.weight", encoder.prefix))));
    }
    Ok(encoders)
}
