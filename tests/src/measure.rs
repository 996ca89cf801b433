//! Measures of error, and their tolerances.

pub use sdq_engine::metrics::{psnr, relative_error};

/// Text states, U-Net outputs and the encoder's moments, from equal inputs ([`relative_error`]). Both sides
/// compute in f32 and add in different orders; the largest measured error was 2e-6.
pub const STAGE_ERROR: f64 = 1e-5;

/// Latents of a whole run from the seed alone ([`relative_error`]). Errors of 1e-6 in weights change them by
/// up to 3e-4 in the tiny pipelines (20 guided steps), so an error of one per mille in any stage is detected.
pub const LATENT_ERROR: f64 = 1e-3;

/// The same where weights of an f32 checkpoint are stored as f16: each has an error of up to 2^-11, 500 times
/// more than above, which accumulates over a run.
pub const ROUNDED_LATENT_ERROR: f64 = 0.2;

/// Pictures of the tiny pipelines, in decibels ([`psnr`]). 45 dB is an error of one unit of 255 in every
/// third value.
pub const PICTURE_DB: f64 = 45.0;

/// Pictures of the trained model, in decibels: sharp edges are more sensitive to rounding than noise.
pub const TRAINED_PICTURE_DB: f64 = 40.0;

/// Decoder from equal latents, in decibels: only values that round differently may differ, and by one.
pub const DECODED_DB: f64 = 60.0;

/// Collects one line per case and fails at the end with all of them, so that one run shows the whole table.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<String>,
    failed: usize,
}

impl Table {
    /// Checks that `value` is at most `limit`.
    pub fn at_most(&mut self, case: &str, value: f64, limit: f64) {
        self.row(case, value <= limit, format!("{value:.1e}, at most {limit:.0e}"));
    }

    /// Checks that `value` is at least `limit`.
    pub fn at_least(&mut self, case: &str, value: f64, limit: f64) {
        self.row(case, value >= limit, format!("{value:.1} dB, at least {limit:.0}"));
    }

    /// Checks that `found` equals `expected`.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, case: &str, found: &T, expected: &T) {
        let fits = found == expected;
        let details =
            if fits { "equal".to_owned() } else { format!("found {found:?}\n       expected {expected:?}") };
        self.row(case, fits, details);
    }

    fn row(&mut self, case: &str, fits: bool, details: String) {
        self.failed += usize::from(!fits);
        self.rows.push(format!("{} {case}: {details}", if fits { "ok  " } else { "FAIL" }));
    }

    /// Prints the table; `cargo test -- --nocapture` shows the measured values.
    ///
    /// # Panics
    /// When a row failed, or when there is none.
    pub fn finish(self) {
        let table = self.rows.join("\n");
        println!("{table}");
        assert!(!self.rows.is_empty(), "nothing was measured");
        assert_eq!(self.failed, 0, "of {} cases:\n{table}", self.rows.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "FAIL nan")]
    fn a_value_that_is_not_a_number_fails() {
        let mut table = Table::default();
        table.at_most("fine", 0.5, 1.0);
        table.at_most("nan", f64::NAN, 1.0);
        table.finish();
    }
}
