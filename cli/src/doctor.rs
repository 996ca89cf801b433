//! `sdq doctor`: compares every tier of kernels of every device with the processor.

use sdq::doctor::{self, Doctor, Examination};
use serde_json::Value;

use crate::{args::DoctorArgs, output};

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let devices = doctor::devices(args.device.as_deref())?;
    let doctor = Doctor::new()?;
    let mut reports = Vec::new();
    for device in &devices {
        if !args.json {
            say!("{}: {}, {}, Vulkan {}", device.index, device.name, device.driver, device.api);
        }
        let examination = doctor.examine(device)?;
        match args.json {
            true => reports.push(examination.json()),
            false => print(&examination),
        }
    }
    if args.json {
        output::say_json(&Value::from(reports));
    }
    Ok(())
}

fn print(examination: &Examination) {
    let Examination { device, tiers, used } = examination;
    for tier in tiers {
        say!("  {} kernels", tier.tier);
        say!("    {:<28}{:>7}{:>7}{:>11}", "", "right", "wrong", "error");
        for row in &tier.rows {
            let error = if row.error == 0.0 { "none".to_owned() } else { format!("{:.1e}", row.error) };
            say!("    {:<28}{:>7}{:>7}{error:>11}", row.kind.name(), row.right, row.wrong.len());
        }
        for wrong in tier.rows.iter().flat_map(|row| &row.wrong) {
            say!("    wrong: {wrong}");
        }
        if let Some(failed) = &tier.failed {
            say!("    failed: {failed}");
        }
    }
    match (used, &device.avoided_because) {
        (None, _) => say!("  The device is not used, because no tier computes right results."),
        (Some(tier), None) => say!("  The device is used, with its {tier} kernels."),
        (Some(tier), Some(why)) => say!(
            "  The device is used, with its {tier} kernels, only if it is asked for (`--device {}`), because it {why}.",
            device.index
        ),
    }
}
