//! Tests the kernels of every tier on every device of this machine. With `SDQ_VK_REQUIRE` set, a machine
//! without a device fails the test; with the value `matrix`, so does a machine whose devices have no matrix
//! products.

use super::*;
use crate::{
    backend::conformance::{Case, Conformance, Kind},
    models::unet::{self, UNetConfig},
    roles::StepShape,
};
use schedule::{Counters, Schedule};

/// The devices of this machine that can run kernels, each with its tiers.
fn devices_here() -> Vec<DeviceInfo> {
    let found = devices().map(|found| found.into_iter().filter(|device| !device.tiers.is_empty()).collect());
    match found {
        Ok(found) => {
            let found: Vec<DeviceInfo> = found;
            let required = std::env::var("SDQ_VK_REQUIRE").ok();
            assert!(!found.is_empty() || required.is_none(), "no device");
            let multiplies = found.iter().any(|device| device.tiers.contains(&Tier::Matrix));
            assert!(multiplies || required.as_deref() != Some("matrix"), "no device multiplies matrices");
            found
        }
        Err(error) => {
            assert!(std::env::var_os("SDQ_VK_REQUIRE").is_none(), "{error}");
            Vec::new()
        }
    }
}

/// Checks `backend` with the cases that are `wanted`.
fn assert_conforms(table: &Conformance, backend: &VulkanBackend, wanted: impl Fn(&Case) -> bool) {
    let mut wrong = Vec::new();
    for case in table.cases().iter().filter(|case| wanted(case)) {
        let outcome = table.check(case, backend).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        if !outcome.agrees {
            wrong.push(format!("{}: {:.2e}", case.name, outcome.error));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", backend.description(), wrong.join("\n"));
    assert_eq!(validation_errors(), 0, "the validation layer has reported errors above");
}

#[test]
fn every_tier_conforms() {
    let table = Conformance::new().unwrap();
    for device in devices_here() {
        for &tier in &device.tiers {
            let backend = VulkanBackend::with_tier(Some(&device.index.to_string()), tier).unwrap();
            assert_conforms(&table, &backend, |_| true);
        }
    }
}

#[test]
fn weights_are_the_same_whether_copied_or_read_where_they_lie() {
    let table = Conformance::new().unwrap();
    for device in devices_here() {
        let open = || VulkanBackend::with_tier(Some(&device.index.to_string()), Tier::Plain).unwrap();
        let (backend, copying) = (open(), open().copying_weights());
        let is_product = |case: &Case| matches!(case.kind, Kind::Product(_));
        assert_conforms(&table, &copying, is_product);
        // The graph of every case has been dropped, with its memory.
        assert_eq!(copying.allocated_bytes(), 0);
        let case = table.cases().iter().find(|case| case.name == "q8 product 16x320x64").unwrap();
        let bytes = |backend: &VulkanBackend| {
            table.while_compiled(case, backend, || backend.allocated_bytes()).unwrap()
        };
        // Software devices can always read in place.
        assert!(backend.context.reads_in_place || device.kind != DeviceKind::Software, "{}", device.name);
        if backend.context.reads_in_place {
            let spared =
                bytes(&copying).checked_sub(bytes(&backend)).expect("nothing more is taken in place");
            assert!(spared >= 2 * 320 * 64, "{spared} bytes are spared");
        }
    }
}

/// A damaged weight or an overflow must not become a black picture: NaN and infinity must survive bytes and
/// sums.
#[test]
fn what_is_not_finite_shows() {
    let table = Conformance::new().unwrap();
    for device in devices_here() {
        for &tier in &device.tiers {
            let backend = VulkanBackend::with_tier(Some(&device.index.to_string()), tier).unwrap();
            for name in ["q8 product 77x130x36", "q4 product 77x130x36", "f16 product 77x130x36"] {
                let case = table.cases().iter().find(|case| case.name == name).unwrap();
                for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    // Only the third row shows it.
                    let found = table.outputs_after(case, &backend, |x| x[2 * 36 + 5] = broken).unwrap();
                    for (row, values) in found.chunks_exact(130).enumerate() {
                        let finite = values.iter().all(|value| value.is_finite());
                        assert_eq!(finite, row != 2, "{tier}, {name}: {broken} in row 2 and row {row}");
                    }
                }
            }
        }
    }
}

/// Compiled kernels are written to disk and read again, and a damaged file is ignored.
#[test]
fn compiled_kernels_are_remembered_and_damage_does_no_harm() {
    let table = Conformance::exact().unwrap();
    for device in devices_here() {
        let folder =
            std::env::temp_dir().join(format!("sdq-pipelines-{}-{}", std::process::id(), device.index));
        let memory = Memory::at(&folder);
        let file = memory.pipelines(&device.key).unwrap();
        let run = || {
            let wanted = device.index.to_string();
            let backend = VulkanBackend::choose(Pick::Named(&wanted), Some(Tier::Plain), &memory).unwrap();
            assert_conforms(&table, &backend, |case| case.name.starts_with("q8 product"));
        };
        assert!(!file.exists());
        run();
        let written = std::fs::read(&file).unwrap();
        run();
        let mut damaged = written.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        for bytes in [&damaged[..], &written[..last], b"", b"not a cache"] {
            std::fs::write(&file, bytes).unwrap();
            run();
            assert_ne!(std::fs::read(&file).unwrap(), bytes, "what was damaged is written anew");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Blank weights overlap each other, and every loop of a measurement must end.
#[test]
fn every_tier_can_be_measured() {
    for device in devices_here() {
        for &tier in &device.tiers {
            let backend = VulkanBackend::with_tier(Some(&device.index.to_string()), tier).unwrap();
            let limits = backend.limits().unwrap();
            let rates = [limits.integer, limits.float, limits.copy];
            assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{tier}: {limits:?}");
            let (prepared, _) = sd15_unet(&GENEROUS);
            let rates = Rates::measure(&backend.context, &backend.bounds()).unwrap();
            let cost = rates.cost(&prepared);
            assert!(cost.seconds.is_finite() && cost.seconds > 0.0, "{tier}: {cost:?}");
            assert_eq!(cost.integer + cost.float, 800_265_666_560, "{tier}: a guided step's multiply-adds");
        }
    }
    assert_eq!(validation_errors(), 0, "the validation layer has reported errors above");
}

/// SD1.5's U-Net for a guided step at 512x512, in q8 with packed dot products and blank weights.
fn sd15_unet(bounds: &Bounds) -> (Prepared<'static>, Lowered) {
    let config = serde_json::json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "in_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    });
    let config = UNetConfig::from_json(&config).unwrap();
    let shape = StepShape { batch: 2, height: 64, width: 64, tokens: 77, timesteps: 20 };
    let graph = unet::graphs(&config, &shape, None).step;
    let zeros = vec![0.0; 2560 * 1280 * 9 / 4].leak();
    let blank = Placement::blank(&graph.weights, true, zeros);
    let prepared = Prepared::with_weights(graph, blank, &super::PREPARATION);
    let lowered = prepared.lower(bounds).unwrap();
    (prepared, lowered)
}

const GENEROUS: Bounds = Bounds {
    tier: Tier::Dot,
    max_binding: u32::MAX as u64,
    groups: [65535; 2],
    shared_memory: 32 << 10,
    max_buffer: u64::MAX,
    matrix: None,
    half_matrix: None,
};

/// The cost of a step in counts instead of times. A change of these numbers must be deliberate.
#[test]
fn a_step_of_sd15_asks_for_as_much_as_it_did() {
    let (prepared, lowered) = sd15_unet(&GENEROUS);
    let counters = Schedule::new(&lowered.dispatches, |_| true).counters(&lowered.dispatches);
    let expected = Counters { dispatches: 679, barriers: 611, submissions: 105, bytes: 7_484_951_856 };
    assert_eq!(counters, expected);
    let documented =
        include_str!("../../../../docs/vulkan.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let Counters { dispatches, barriers, submissions, .. } = expected;
    for figure in
        [format!("has {dispatches} kernels, {barriers} barriers"), format!("and {submissions} submissions")]
    {
        assert!(documented.contains(&figure), "docs/vulkan.md: {figure}");
    }
    // The sums of columns take a thirtieth of the size of the weights.
    let share = prepared.weights.column_sum_bytes() as f64 / prepared.weights.bytes() as f64;
    assert!(share < 1.0 / 30.0, "{share}");
}

#[test]
fn what_a_device_cannot_see_at_once_is_refused_by_name() {
    let (prepared, _) = sd15_unet(&GENEROUS);
    let cases = [
        (Bounds { max_binding: 1 << 20, ..GENEROUS }, "bytes"),
        (Bounds { groups: [65535, 3], ..GENEROUS }, "in workgroups"),
        (Bounds { max_buffer: 64 << 20, ..GENEROUS }, "intermediate values"),
    ];
    for (bounds, word) in cases {
        let error = prepared.lower(&bounds).unwrap_err();
        assert!(matches!(error, VulkanError::TooLarge { .. }) && error.to_string().contains(word), "{error}");
    }
}
