//! Files that change a model: LoRAs and textual inversions.

pub mod lora;
pub mod textual_inversion;
