//! `sdq doctor`: every tier of kernels of every device against the processor, and what follows from it.

use anyhow::bail;
use sdq_engine::backend::{
    conformance::{Conformance, Kind},
    vulkan::{self, DeviceInfo, Memory, Tier, Verdict, VulkanBackend},
};
use serde_json::{Value, json};

use crate::args::DoctorArgs;

/// What became of the cases of one kind.
struct Row {
    kind: Kind,
    right: usize,
    /// Largest error of those that agree.
    error: f64,
    /// Names of those that do not, each with its error or what the driver said.
    wrong: Vec<String>,
}

/// A tier of a device, examined.
struct Examined {
    tier: Tier,
    rows: Vec<Row>,
    /// Why it could not be examined to the end.
    failed: Option<String>,
}

impl Examined {
    fn is_right(&self) -> bool {
        self.failed.is_none() && self.rows.iter().all(|row| row.wrong.is_empty())
    }
}

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let devices = vulkan::devices()?;
    let number = |device: &DeviceInfo| device.index.to_string();
    let is_wanted = |device: &DeviceInfo| match &args.device {
        Some(wanted) => {
            *wanted == number(device) || device.name.to_lowercase().contains(&wanted.to_lowercase())
        }
        None => true,
    };
    let wanted: Vec<&DeviceInfo> = devices.iter().filter(|device| is_wanted(device)).collect();
    if wanted.is_empty() {
        bail!(match &args.device {
            Some(wanted) => format!("no device is called `{wanted}`; `sdq info` lists them"),
            None => "Vulkan finds no device; install the graphics driver".to_owned(),
        });
    }
    let table = Conformance::new()?;
    let memory = Memory::of_user();
    let mut reports = Vec::new();
    for device in wanted {
        if !args.json {
            say!("{}: {}, {}, Vulkan {}", device.index, device.name, device.driver, device.api);
        }
        let examined: Vec<Examined> =
            device.tiers.iter().map(|&tier| examine(&table, device, tier)).collect();
        let verdicts: Vec<Verdict> =
            examined.iter().map(|tier| Verdict { tier: tier.tier, right: tier.is_right() }).collect();
        memory.set_verdicts(&device.key, &verdicts)?;
        // What will be used, now that this is known.
        let now = vulkan::devices()?.into_iter().find(|now| now.key == device.key);
        let tier = now.and_then(|now| now.tier);
        match args.json {
            true => reports.push(describe(device, &examined, tier)),
            false => print(device, &examined, tier),
        }
    }
    if args.json {
        say!("{:#}", Value::from(reports));
    }
    Ok(())
}

fn examine(table: &Conformance, device: &DeviceInfo, tier: Tier) -> Examined {
    let mut examined = Examined { tier, rows: Vec::new(), failed: None };
    let backend = match VulkanBackend::with_tier(Some(&device.index.to_string()), tier) {
        Ok(backend) => backend,
        Err(error) => {
            examined.failed = Some(error.to_string());
            return examined;
        }
    };
    for case in table.cases() {
        let index = examined.rows.iter().position(|row| row.kind == case.kind).unwrap_or_else(|| {
            examined.rows.push(Row { kind: case.kind, right: 0, error: 0.0, wrong: Vec::new() });
            examined.rows.len() - 1
        });
        let row = &mut examined.rows[index];
        match table.check(case, &backend) {
            Ok(outcome) if outcome.agrees => {
                row.right += 1;
                row.error = row.error.max(outcome.error);
            }
            Ok(outcome) => row.wrong.push(format!("{}: off by {:.1e}", case.name, outcome.error)),
            // A device that is gone does not come back.
            Err(error) => {
                row.wrong.push(format!("{}: {error}", case.name));
                examined.failed = Some(error.to_string());
                break;
            }
        }
    }
    examined
}

fn describe(device: &DeviceInfo, examined: &[Examined], tier: Option<Tier>) -> Value {
    let row = |row: &Row| json!({ "kernels": row.kind.name(), "right": row.right, "error": row.error, "wrong": row.wrong });
    let tiers = examined.iter().map(|tier| {
        json!({
            "tier": tier.tier.name(),
            "right": tier.is_right(),
            "failed": tier.failed,
            "kernels": tier.rows.iter().map(row).collect::<Vec<_>>(),
        })
    });
    json!({
        "index": device.index,
        "name": device.name,
        "driver": device.driver,
        "tiers": tiers.collect::<Vec<_>>(),
        "used_tier": tier.map(Tier::name),
        "avoided_because": device.avoided_because,
    })
}

fn print(device: &DeviceInfo, examined: &[Examined], tier: Option<Tier>) {
    for tier in examined {
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
            say!("    given up: {failed}");
        }
    }
    match (tier, &device.avoided_because) {
        (None, _) => say!("  It is not used: no tier is right."),
        (Some(tier), None) => say!("  It is used, with its {tier} kernels."),
        (Some(tier), Some(why)) => say!(
            "  It is used with its {tier} kernels where it is asked for (`--device {}`), for it {why}.",
            device.index
        ),
    }
}
