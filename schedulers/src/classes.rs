//! Checks diffusers' scheduler classes, and explains why a class is not supported.

use crate::error::SchedulerError;
use crate::lookup::default_for_class;

/// Prefixes of classes that sample other kinds of model, and the reason why they are not supported.
const OTHER_MODELS: [(&str, &str); 4] = [
    ("FlowMatch", "the class is for models trained by flow matching (SD3, FLUX), which sdq does not run"),
    ("EDM", "the class is for models trained on EDM's noise levels (`sigma_data`), which sdq does not run"),
    (
        "Cosine",
        "the class is for models trained on EDM's noise levels (`sigma_data`), which sdq does not run",
    ),
    ("CMStochastic", "the class is for consistency models on pixels, which sdq does not run"),
];

/// Checks that there is a scheduler for models whose config was written for the diffusers class `class`.
///
/// # Errors
/// [`SchedulerError::UnknownClass`] if no scheduler, built-in or registered, supports the class.
pub fn check_class(class: &str) -> Result<(), SchedulerError> {
    if default_for_class(class).is_some() {
        return Ok(());
    }
    let reason = OTHER_MODELS.iter().find(|(start, _)| class.starts_with(start)).map_or(
        "no scheduler of sdq implements it; to use another scheduler, write the name of its class, such as \
         DDIMScheduler, into `_class_name` of scheduler_config.json and into model_index.json",
        |(_, reason)| reason,
    );
    Err(SchedulerError::UnknownClass { class: class.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_classes_are_refused_by_name_with_what_they_are() {
        for class in ["DDIMScheduler", "PNDMScheduler", "LCMScheduler"] {
            assert_eq!(check_class(class), Ok(()));
        }
        for (class, word) in [
            ("EDMEulerScheduler", "sigma_data"),
            ("EDMDPMSolverMultistepScheduler", "sigma_data"),
            ("FlowMatchEulerDiscreteScheduler", "flow matching"),
            ("IPNDMScheduler", "such as DDIMScheduler"),
            ("MyScheduler", "such as DDIMScheduler"),
        ] {
            let message = check_class(class).unwrap_err().to_string();
            assert!(message.contains(&format!("`{class}`")) && message.contains(word), "{message}");
        }
    }
}
