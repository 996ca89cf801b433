//! Whole quantized models: the difference of their pictures from f32, and their independence of everything
//! but the integers.

use std::{fs, ops::ControlFlow, path::Path, process::Command};

use sdq_engine::{Generated, Pipeline, Request, pipeline::Conditioning};
use sdq_formats::{WeightType, mmap::Bytes, sdq::SdqFile};
use sdq_tests::{
    goldens::{Goldens, TINY},
    measure::{Table, psnr, relative_error},
    models::{Model, demo_model},
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

fn generate(pipeline: &Pipeline, request: &Request) -> Generated {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"))
}

/// `count` of the evaluation prompts, spread over the list, with their seeds.
fn requests(count: usize) -> Vec<Request> {
    let text = fs::read_to_string(demo_model().with_file_name("prompts.json")).unwrap();
    let prompts: Vec<Value> = serde_json::from_str(&text).unwrap();
    let picked = (0..count).map(|i| &prompts[i * prompts.len() / count]);
    let request = |prompt: &Value| Request {
        prompt: prompt["prompt"].as_str().unwrap().to_owned(),
        seed: prompt["seed"].as_u64().unwrap(),
        ..Request::default()
    };
    picked.map(request).collect()
}

/// Median PSNR of the trained model's pictures compared with f32, 20 steps, same seeds. The thresholds are
/// the project's goals; `docs/quantization.md` has the measured values over 32 prompts.
#[test]
fn pictures_of_the_trained_model_keep_their_distance() {
    let requests = requests(12);
    let reference = Model::convert_folder(&demo_model(), WeightType::F32).open(2);
    let expected: Vec<Generated> = requests.iter().map(|request| generate(&reference, request)).collect();
    for (recipe, goal) in [("q8", 40.0), ("mixed", 32.0), ("q4", 28.0)] {
        let pipeline = Model::convert_with(&demo_model(), &["--type", recipe]).open(2);
        let found = requests.iter().map(|request| generate(&pipeline, request));
        let mut decibels: Vec<f64> = found
            .zip(&expected)
            .map(|(found, expected)| psnr(&found.pictures[0].rgb, &expected.pictures[0].rgb))
            .collect();
        decibels.sort_by(f64::total_cmp);
        let median = decibels[decibels.len() / 2];
        assert!(median >= goal, "{recipe}: {median:.1} dB, at least {goal}");
        // Quantized weights must give other pictures: if they were f32, the checks above would prove nothing.
        assert!(median < 70.0, "{recipe}: {median:.1} dB");
    }
}

/// Shapes that the trained model does not have: widths that are not multiples of a block or group, odd sizes
/// of latents, concatenated inputs of every width. One evaluation of the U-Net is compared with diffusers;
/// the weights are random and amplify errors; 3.8e-2 to 6.3e-2 were measured.
#[test]
fn q8_follows_diffusers_through_every_tiny_unet() {
    let mut table = Table::default();
    for name in TINY {
        let pipeline = Model::convert(name, WeightType::Q8).open(2);
        let goldens = Goldens::load(name);
        let conditioning = Conditioning {
            text_states: goldens.tensor("unet", "text_states"),
            added: None,
            guidance_scale: None,
        };
        for case in &goldens.manifest.unet {
            let latents = goldens.tensor(&case.case, "latents");
            let found = pipeline.predict_noise(&latents, case.timestep, &conditioning).unwrap();
            let expected = goldens.tensor(&case.case, "noise_pred");
            let error = relative_error(found.values(), expected.values());
            println!("{name} {}: {error:.1e}", case.case);
            table.at_most(&format!("{name} {}", case.case), error, 0.1);
            assert!(error > 1e-4, "{name}: {error:.1e} is not what integers leave");
        }
    }
    table.finish();
}

#[test]
fn pictures_do_not_depend_on_the_number_of_threads() {
    let model = Model::convert_with(&demo_model(), &["--type", "q4"]);
    let request = Request { steps: Some(3), ..requests(1).remove(0) };
    let [one, two, three] = [1, 2, 3].map(|threads| generate(&model.open(threads), &request));
    for other in [two, three] {
        assert_eq!(one.latents.values(), other.latents.values());
        assert_eq!(one.pictures, other.pictures);
    }
}

/// Sums of integers are the same everywhere. Sums in single precision round differently, and then an
/// activation can round to the next byte. 51 dB were measured.
#[test]
fn instruction_sets_draw_the_same_picture() {
    let model = Model::convert_with(&demo_model(), &["--type", "mixed"]);
    let folder = TempDir::new().unwrap();
    let draw = |isa: &str| {
        let path = folder.path().join(format!("{isa}.png"));
        let (model, output) = (model.path(), path.as_os_str());
        let args = ["generate".as_ref(), "a red apple".as_ref(), "-m".as_ref(), model.as_os_str()];
        let more =
            ["--steps".as_ref(), "4".as_ref(), "--seed".as_ref(), "42".as_ref(), "-o".as_ref(), output];
        let status = Command::new(SDQ).args(args).args(more).env("SDQ_ISA", isa).output().unwrap().status;
        assert!(status.success(), "{isa}");
        pixels(&path)
    };
    let scalar = draw("scalar");
    for isa in ["avx2", "avxvnni", "avx512", "avx512vnni"] {
        let decibels = psnr(&draw(isa), &scalar);
        assert!(decibels >= 45.0, "{isa}: {decibels:.1} dB");
    }
}

/// Red, green and blue of every pixel.
fn pixels(path: &Path) -> Vec<u8> {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// A flipped bit anywhere in the header or the table of contents is an error.
#[test]
fn a_flipped_bit_is_noticed() {
    let model = Model::convert("fp16", WeightType::Q4);
    let file = fs::read(model.path()).unwrap();
    let table = u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize;
    let open = |bytes: &[u8]| SdqFile::from_bytes(Bytes::copy_of(bytes), Path::new("flipped"));
    open(&file).unwrap();
    let mut flipped = file.clone();
    // Every bit of the header, and every 1009th in the table.
    for bit in (0..64 * 8).chain((table * 8..file.len() * 8).step_by(1009)) {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped).is_err(), "bit {bit}");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Bits that flip on a disk or in a copy are found before the first step, not seen in the picture.
#[test]
fn a_weight_that_changed_is_an_error_of_the_run() {
    let model = Model::convert("old", WeightType::Q8);
    let bytes = fs::read(model.path()).unwrap();
    let table = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[table..]).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("changed.sdq");
    for component in table["components"].as_array().unwrap() {
        let weights = component["weights"].as_array().unwrap();
        let weight = &weights[weights.len() / 2];
        let offset = weight["parts"][0]["offset"].as_u64().unwrap() as usize;
        let mut changed = bytes.clone();
        changed[offset] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        let request = Request::new("x").size(16, 16).steps(1);
        let pipeline = Pipeline::open(&path, &Default::default()).unwrap();
        let error = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        let name = format!("{}.{}", component["name"].as_str().unwrap(), weight["name"].as_str().unwrap());
        assert!(error.contains(&name) && error.contains("changed.sdq"), "{error}");
    }
}
