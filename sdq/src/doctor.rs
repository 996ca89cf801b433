//! Compares every tier of kernels of a GPU with the processor, and stores the verdicts.

use sdq_engine::{
    Error as EngineError,
    backend::{
        conformance::Conformance,
        vulkan::{self, Memory, Verdict, VulkanBackend},
    },
};
use serde_json::{Value, json};

pub use sdq_engine::backend::{
    conformance::Kind,
    vulkan::{DeviceInfo, Tier},
};

use crate::Error;

/// The results of the cases of one kind.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind.
    pub kind: Kind,
    /// Cases that agree.
    pub right: usize,
    /// Largest error of those that agree.
    pub error: f64,
    /// Names of those that do not agree, each with its error or the driver's message.
    pub wrong: Vec<String>,
}

/// The results of a tier of a device.
#[derive(Clone, Debug)]
pub struct ExaminedTier {
    /// The tier.
    pub tier: Tier,
    /// Its results, a row for each kind of op.
    pub rows: Vec<Row>,
    /// Why the examination was not completed.
    pub failed: Option<String>,
}

impl ExaminedTier {
    /// Whether every case agrees.
    pub fn is_right(&self) -> bool {
        self.failed.is_none() && self.rows.iter().all(|row| row.wrong.is_empty())
    }
}

/// The results of a device.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The device.
    pub device: DeviceInfo,
    /// Its tiers.
    pub tiers: Vec<ExaminedTier>,
    /// The tier that runs will use from now on.
    pub used: Option<Tier>,
}

/// The devices that `wanted`, a number or a part of a name, selects, or all of them.
///
/// # Errors
/// [`Error::NoDevice`] when there is none.
pub fn devices(wanted: Option<&str>) -> Result<Vec<DeviceInfo>, Error> {
    let is_wanted = |device: &DeviceInfo| {
        wanted.is_none_or(|wanted| {
            wanted == device.index.to_string() || device.name.to_lowercase().contains(&wanted.to_lowercase())
        })
    };
    let devices: Vec<DeviceInfo> = found()?.into_iter().filter(is_wanted).collect();
    match devices.is_empty() {
        true => Err(Error::NoDevice { wanted: wanted.map(str::to_owned) }),
        false => Ok(devices),
    }
}

fn found() -> Result<Vec<DeviceInfo>, Error> {
    Ok(vulkan::devices().map_err(EngineError::from)?)
}

/// Compares devices with the processor.
pub struct Doctor {
    table: Conformance,
    memory: Memory,
}

impl Doctor {
    /// Computes the reference results.
    ///
    /// # Errors
    /// When the processor runs out of memory.
    pub fn new() -> Result<Doctor, Error> {
        Ok(Doctor { table: Conformance::new()?, memory: Memory::of_user() })
    }

    /// Examines every tier of `device`, and stores for later runs which of them are correct.
    ///
    /// # Errors
    /// When the verdicts cannot be written.
    pub fn examine(&self, device: &DeviceInfo) -> Result<Examination, Error> {
        let tiers: Vec<ExaminedTier> =
            device.tiers.iter().map(|&tier| examine(&self.table, device, tier)).collect();
        let verdicts: Vec<Verdict> =
            tiers.iter().map(|tier| Verdict { tier: tier.tier, right: tier.is_right() }).collect();
        self.memory.set_verdicts(&device.key, &verdicts).map_err(Error::Verdicts)?;
        // The tier that will be used with these verdicts.
        let now = found()?.into_iter().find(|now| now.key == device.key);
        Ok(Examination { device: device.clone(), tiers, used: now.and_then(|now| now.tier) })
    }
}

fn examine(table: &Conformance, device: &DeviceInfo, tier: Tier) -> ExaminedTier {
    let mut examined = ExaminedTier { tier, rows: Vec::new(), failed: None };
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
            Ok(outcome) => row.wrong.push(format!("{}: the error is {:.1e}", case.name, outcome.error)),
            // A lost device does not recover.
            Err(error) => {
                row.wrong.push(format!("{}: {error}", case.name));
                examined.failed = Some(error.to_string());
                break;
            }
        }
    }
    examined
}

impl Examination {
    /// All results as JSON.
    pub fn json(&self) -> Value {
        let Examination { device, tiers, used } = self;
        let row = |row: &Row| json!({ "kernels": row.kind.name(), "right": row.right, "error": row.error, "wrong": row.wrong });
        let tiers = tiers.iter().map(|tier| {
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
            "used_tier": used.map(Tier::name),
            "avoided_because": device.avoided_because,
        })
    }
}
