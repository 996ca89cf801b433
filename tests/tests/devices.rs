//! Choice of a device on the command line: the list, the errors, and the effect of `sdq doctor`.

use std::fs;

use sdq_engine::backend::vulkan::{self, Memory, Tier};
use sdq_tests::command;
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn info_says_which_devices_there_are_or_why_there_is_none() {
    let folder = TempDir::new().unwrap();
    let outcome = command::run(SDQ, folder.path(), &["info", "--json"]);
    outcome.assert_done();
    let machine = json(&outcome.output);
    assert!(machine["used"].as_str().unwrap().starts_with("cpu"), "{machine}");
    match vulkan::devices() {
        Err(error) => assert_eq!(machine["gpus"].as_str().unwrap(), error.to_string()),
        Ok(devices) if devices.is_empty() => assert!(machine["gpus"].is_string(), "{machine}"),
        Ok(devices) => {
            let listed = machine["gpus"].as_object().unwrap();
            assert_eq!(listed.len(), devices.len());
            for device in &devices {
                let described = &listed[&format!("{}: {}", device.index, device.name)];
                assert_eq!(described["kind"], device.kind.name(), "{machine}");
            }
        }
    }
}

#[test]
fn devices_that_cannot_be_are_named() {
    let folder = TempDir::new().unwrap();
    let generate = |args: &[&str]| {
        command::run(SDQ, folder.path(), &[&["generate", "a cat", "--steps", "1"], args].concat())
    };
    generate(&["--backend", "cpu", "--device", "0"]).assert_failed(2, &["--device", "--backend cpu"]);
    generate(&["--backend", "quantum"]).assert_failed(2, &["quantum", "--backend"]);
    if vulkan::devices().is_ok_and(|devices| !devices.is_empty()) {
        let wrong = ["--backend", "vulkan", "--device", "no such thing"];
        generate(&wrong).assert_failed(1, &["no such thing", "0: "]);
        command::run(SDQ, folder.path(), &["doctor", "--device", "no such thing"])
            .assert_failed(1, &["no such thing"]);
    } else {
        generate(&["--backend", "vulkan"]).assert_failed(1, &["--backend cpu"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

/// Kernels that were found wrong are not used again; correct ones are.
#[test]
fn the_doctors_word_is_kept() {
    let Ok(devices) = vulkan::devices() else { return };
    for device in devices.iter().filter(|device| device.tiers.contains(&Tier::Dot)) {
        let folder = TempDir::new().unwrap();
        let run = |args: &[&str]| command::run_with_cache(SDQ, folder.path(), args);
        let number = device.index.to_string();
        let outcome = run(&["doctor", "--json", "--device", &number]);
        outcome.assert_done();
        let report = json(&outcome.output);
        let tiers = report[0]["tiers"].as_array().unwrap();
        assert_eq!(tiers.len(), device.tiers.len());
        assert!(tiers.iter().all(|tier| tier["right"] == true), "{report:#}");

        let memory = Memory::at(folder.path());
        let mut verdicts = memory.verdicts(&device.key);
        assert_eq!(verdicts.len(), device.tiers.len());
        let used = |name: &str| {
            let machine = json(&run(&["info", "--json"]).output);
            machine["gpus"][format!("{}: {}", device.index, device.name)]["tier"] == name
        };
        assert!(used(report[0]["used_tier"].as_str().unwrap()));
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.tier != Tier::Plain) {
            verdict.right = false;
        }
        memory.set_verdicts(&device.key, &verdicts).unwrap();
        assert!(used("plain"));
        verdicts.iter_mut().for_each(|verdict| verdict.right = false);
        memory.set_verdicts(&device.key, &verdicts).unwrap();
        assert!(used("none"));
        run(&["generate", "a cat", "--steps", "1", "--backend", "vulkan", "--device", &number])
            .assert_failed(1, &["sdq doctor", "--backend cpu"]);
    }
}
