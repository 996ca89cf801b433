//! The kernels of every tier on every device that is here. With `SDQ_VK_REQUIRE` set, a machine without one fails.

use super::*;
use crate::backend::conformance::Conformance;

/// The devices of this machine that can run kernels, each with its tiers.
fn devices_here() -> Vec<DeviceInfo> {
    let found = devices().map(|found| found.into_iter().filter(|device| !device.tiers.is_empty()).collect());
    match found {
        Ok(found) => {
            let found: Vec<DeviceInfo> = found;
            assert!(!found.is_empty() || std::env::var_os("SDQ_VK_REQUIRE").is_none(), "no device");
            found
        }
        Err(error) => {
            assert!(std::env::var_os("SDQ_VK_REQUIRE").is_none(), "{error}");
            Vec::new()
        }
    }
}

#[test]
fn every_tier_conforms() {
    let table = Conformance::new().unwrap();
    for device in devices_here() {
        for &tier in &device.tiers {
            let backend = VulkanBackend::with_tier(Some(&device.index.to_string()), tier).unwrap();
            let mut wrong = Vec::new();
            for case in table.cases() {
                let outcome =
                    table.check(case, &backend).unwrap_or_else(|error| panic!("{}: {error}", case.name));
                if !outcome.agrees {
                    wrong.push(format!("{}: {:.2e}", case.name, outcome.error));
                }
            }
            assert!(wrong.is_empty(), "{}, {tier}:\n{}", device.name, wrong.join("\n"));
        }
    }
    assert_eq!(validation_errors(), 0);
}
