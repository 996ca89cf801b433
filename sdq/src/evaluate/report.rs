//! The report on a comparison over several prompts, as a table and as JSON.

use std::fmt::Write as _;

use sdq_engine::pipeline::{Comparison, Settings, as_typed};
use serde_json::{Value, json};

use crate::prompts::Prompt;

/// One measure over all prompts. Infinite values are ratios of equal pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median; for an even number of values the worse of the middle two.
    pub median: f64,
    /// The worst value.
    pub worst: f64,
    /// The best value.
    pub best: f64,
}

/// Which values of a measure are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Good {
    High,
    Low,
}

impl Summary {
    /// Summarises `values`, at least one. For an even number the median is the worse of the middle two, so
    /// that it is one of the values and never a mean with infinity.
    pub(super) fn of(mut values: Vec<f64>, good: Good) -> Summary {
        values.sort_by(f64::total_cmp);
        if good == Good::Low {
            values.reverse();
        }
        // Worst first.
        Summary { median: values[(values.len() - 1) / 2], worst: values[0], best: values[values.len() - 1] }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "worst": self.worst, "best": self.best })
    }
}

/// The figures of one prompt.
#[derive(Debug)]
struct Row {
    prompt: Prompt,
    psnr: f64,
    ssim: f64,
    text_states: f64,
    decoder_psnr: f64,
    noise_pred: Vec<f64>,
}

/// The figures of all prompts.
#[derive(Debug)]
pub struct Report {
    settings: Settings,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report for runs with `settings`, except prompt and seed.
    pub(super) fn new(settings: &Settings) -> Report {
        Report { settings: settings.clone(), rows: Vec::new() }
    }

    /// Adds the result for `prompt`.
    pub(super) fn add(&mut self, prompt: &Prompt, found: &Comparison) {
        self.rows.push(Row {
            prompt: prompt.clone(),
            psnr: found.psnr,
            ssim: found.ssim,
            text_states: found.text_states,
            decoder_psnr: found.decoder_psnr,
            noise_pred: found.noise_pred.clone(),
        });
    }

    /// As text: one line per measure.
    pub fn table(&self) -> String {
        let Settings { width, height, steps, scheduler, guidance_scale, .. } = &self.settings;
        let count = self.rows.len();
        let prompts = if count == 1 { "prompt" } else { "prompts" };
        let mut out = format!(
            "{count} {prompts}, {width}x{height}, {steps} steps of {scheduler}, guidance {guidance_scale}\n"
        );
        let _ = writeln!(out, "{:<32}{:>10}{:>10}{:>10}", "", "median", "worst", "best");
        let mut line = |name: &str, summary: Summary, show: fn(f64) -> String| {
            let [median, worst, best] = [summary.median, summary.worst, summary.best].map(show);
            let _ = writeln!(out, "{name:<32}{median:>10}{worst:>10}{best:>10}");
        };
        let (ratio, similarity) = (|value| format!("{value:.2}"), |value| format!("{value:.4}"));
        let error = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
        line("picture, PSNR in dB", self.summary(Good::High, |row| row.psnr), ratio);
        line("picture, SSIM", self.summary(Good::High, |row| row.ssim), similarity);
        line("decoder alone, PSNR in dB", self.summary(Good::High, |row| row.decoder_psnr), ratio);
        line("text states, relative error", self.summary(Good::Low, |row| row.text_states), error);
        for step in 0..*steps {
            let name = match step {
                0 => "U-Net alone, relative, step 1".to_owned(),
                _ => format!("{:>29}", step + 1),
            };
            line(&name, self.step(step), error);
        }
        out
    }

    /// As JSON. `null` represents an infinite ratio, that of equal pictures.
    pub fn json(&self) -> Value {
        let Settings { width, height, steps, scheduler, guidance_scale, .. } = &self.settings;
        let rows = self.rows.iter().map(|row| {
            json!({
                "prompt": row.prompt.text,
                "seed": row.prompt.seed,
                "psnr": row.psnr,
                "ssim": row.ssim,
                "decoder_psnr": row.decoder_psnr,
                "text_states": row.text_states,
                "noise_pred": row.noise_pred,
            })
        });
        json!({
            "width": width,
            "height": height,
            "steps": steps,
            "scheduler": scheduler,
            "guidance_scale": as_typed(*guidance_scale),
            "psnr": self.summary(Good::High, |row| row.psnr).json(),
            "ssim": self.summary(Good::High, |row| row.ssim).json(),
            "decoder_psnr": self.summary(Good::High, |row| row.decoder_psnr).json(),
            "text_states": self.summary(Good::Low, |row| row.text_states).json(),
            "noise_pred": (0..*steps).map(|step| self.step(step).json()).collect::<Vec<_>>(),
            "prompts": rows.collect::<Vec<_>>(),
        })
    }

    fn step(&self, step: usize) -> Summary {
        self.summary(Good::Low, |row| row.noise_pred[step])
    }

    fn summary(&self, good: Good, value: impl Fn(&Row) -> f64) -> Summary {
        Summary::of(self.rows.iter().map(value).collect(), good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_occurred_and_is_the_worse_of_two() {
        let infinite = f64::INFINITY;
        let summary = |median, worst, best| Summary { median, worst, best };
        assert_eq!(Summary::of(vec![30.0, infinite, 20.0], Good::High), summary(30.0, 20.0, infinite));
        assert_eq!(Summary::of(vec![infinite, 20.0], Good::High), summary(20.0, 20.0, infinite));
        assert_eq!(Summary::of(vec![0.1, 0.3, 0.2, 0.0], Good::Low), summary(0.2, 0.3, 0.0));
    }

    fn comparison(psnr: f64, error: f64) -> Comparison {
        let picture = || sdq_engine::Picture { width: 0, height: 0, rgb: Vec::new() };
        Comparison {
            text_states: error,
            noise_pred: vec![error, 2.0 * error],
            decoder_psnr: psnr + 10.0,
            psnr,
            ssim: 0.9,
            reference: picture(),
            other: picture(),
        }
    }

    /// Two steps, 16x24, of pictures with these figures.
    fn report(figures: &[(f64, f64)]) -> Report {
        let pipeline = crate::model::open(None, &Default::default()).unwrap();
        let request =
            sdq_engine::Request::new("x").size(16, 24).steps(2).scheduler("ddim").guidance_scale(7.1);
        let mut report = Report::new(&pipeline.settings(&request).unwrap());
        for (seed, (psnr, error)) in figures.iter().enumerate() {
            let prompt = Prompt { text: format!("prompt {seed}"), seed: seed as u64 };
            report.add(&prompt, &comparison(*psnr, *error));
        }
        report
    }

    #[test]
    fn a_table_has_a_line_for_each_measure_and_step() {
        let table = report(&[(40.0, 0.0), (f64::INFINITY, 0.012), (30.0, 0.5)]).table();
        let expected = [
            "3 prompts, 16x24, 2 steps of ddim, guidance 7.1",
            "                                    median     worst      best",
            "picture, PSNR in dB                  40.00     30.00       inf",
            "picture, SSIM                       0.9000    0.9000    0.9000",
            "decoder alone, PSNR in dB            50.00     40.00       inf",
            "text states, relative error         1.2e-2    5.0e-1         0",
            "U-Net alone, relative, step 1       1.2e-2    5.0e-1         0",
            "                            2       2.4e-2     1.0e0         0",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
        assert!(report(&[(40.0, 0.0)]).table().starts_with("1 prompt, "));
    }

    #[test]
    fn json_has_every_prompt_and_null_for_equal_pictures() {
        let json = report(&[(40.0, 0.25), (f64::INFINITY, 0.0)]).json();
        assert_eq!(json["psnr"], json!({ "median": 40.0, "worst": 40.0, "best": null }));
        assert_eq!(json["text_states"], json!({ "median": 0.25, "worst": 0.25, "best": 0.0 }));
        assert_eq!(json["noise_pred"][1], json!({ "median": 0.5, "worst": 0.5, "best": 0.0 }));
        let prompt = json!({
            "prompt": "prompt 1", "seed": 1, "psnr": null, "ssim": 0.9, "decoder_psnr": null, "text_states": 0.0,
            "noise_pred": [0.0, 0.0],
        });
        assert_eq!((json["prompts"].as_array().unwrap().len(), &json["prompts"][1]), (2, &prompt));
        let settings =
            ["width", "height", "steps", "scheduler", "guidance_scale"].map(|key| json[key].clone());
        assert_eq!(settings, [json!(16), json!(24), json!(2), json!("ddim"), json!(7.1)]);
    }
}
