//! The type of every weight of every family with every precision: converting a model again gives the same
//! file.

use sdq_engine::published::{ModelFiles, PublishedModel};
use sdq_quantize::{Plan, Precision};
use sdq_tests::{
    goldens::{self, FAMILIES, TINY},
    models::demo_model,
    single_file::{Published, described, rows},
};
use sha2::{Digest as _, Sha256};

/// The start of the hash over all weights, one line for each component, name and type, with q8, q4 and mixed.
const TYPES: [(&str, [&str; 3]); 15] = [
    ("sd1", ["2e97caa8", "aab65002", "d27d57f4"]),
    ("fp16", ["ebde8b00", "7494c63f", "8053fa33"]),
    ("old", ["0692d4a8", "3bf73cb5", "ae04ed2e"]),
    ("sd2", ["4180e5ba", "4c4f66e0", "dd69f54a"]),
    ("sdxl", ["9f283555", "051155e7", "9e51a426"]),
    ("refiner", ["051f2896", "7a88eeb4", "5171d7e5"]),
    ("ssd", ["c72f9e74", "c0c62f55", "d8d18b4b"]),
    ("sdxs", ["f664aca6", "47b78c3b", "a40c02ce"]),
    ("lcm", ["9d27f818", "aa8506e0", "533b6669"]),
    ("inpaint", ["596c5abf", "d92bd3a2", "09aed14d"]),
    ("pix2pix", ["596c5abf", "d92bd3a2", "09aed14d"]),
    ("demo", ["56f92177", "60d99b24", "73b4ee54"]),
    ("sd15", ["5cf00fe7", "9d5f2d71", "5a904ac3"]),
    ("sd21", ["4dcc42bd", "285a5653", "74392abc"]),
    ("sdxl", ["755b0e8b", "02c1d0a0", "71e06e63"]),
];

fn plan(model: &PublishedModel, precision: Precision) -> Plan {
    let components = described(model).rated_weights().into_iter();
    let components = components.map(|(component, weights)| (component, weights, precision));
    sdq_quantize::plan(components, &[]).unwrap()
}

fn hash(plan: &Plan) -> String {
    let mut hasher = Sha256::new();
    for part in &plan.parts {
        for weight in &part.weights {
            let (component, name) = (&part.component, &weight.spec.name);
            hasher.update(format!("{component} {name} {}\n", weight.weight_type.name()));
        }
    }
    hasher.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_weight_keeps_its_type() {
    let folders = TINY.into_iter().chain(FAMILIES).map(|name| (name, goldens::folder(name).join("model")));
    let directories = folders.chain([("demo", demo_model())]).map(|(name, folder)| {
        let files = ModelFiles { model: Some(folder), ..ModelFiles::default() };
        (name, PublishedModel::open(&files).unwrap())
    });
    let layouts = ["sd15", "sd21", "sdxl"].map(|family| (family, Published::new(&rows(family)).open()));
    let mut found = Vec::new();
    for (name, model) in directories.chain(layouts) {
        let hashes =
            [Precision::Q8, Precision::Q4, Precision::Mixed].map(|precision| hash(&plan(&model, precision)));
        found.push((name, hashes));
    }
    let expected = TYPES.map(|(name, hashes)| (name, hashes.map(str::to_owned)));
    assert_eq!(found, expected);
}
