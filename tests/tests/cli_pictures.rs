//! The command line with start pictures, and with output formats other than PNG.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use sdq_formats::{
    WeightType,
    picture::{self, Picture},
};
use sdq_tests::{
    command::{self, Outcome, Running},
    goldens::Goldens,
    measure::{PICTURE_DB, psnr},
    models::Model,
};
use serde_json::Value;
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// `sdq generate -m MODEL ARGS…` in `folder`.
fn generate(folder: &Path, model: &Model, args: &[&str]) -> Outcome {
    let model = model.path();
    let all = [&["generate", "-m", model.to_str().unwrap()], args].concat();
    command::run(SDQ, folder, &all)
}

fn write(path: &Path, picture: &Picture) {
    picture::write(path, picture, &[]).unwrap();
}

fn gradient(width: usize, height: usize) -> Picture {
    let rgb = (0..width * height).flat_map(|i| [(i % width * 3) as u8, (i / width * 3) as u8, 90]).collect();
    Picture { width, height, rgb }
}

/// Files and flags give the same result as the library, which is that of diffusers for the same picture and
/// mask.
#[test]
fn a_job_from_files_gives_what_diffusers_gives() {
    let (folder, goldens) = (TempDir::new().unwrap(), Goldens::load("jobs"));
    let job =
        goldens.manifest.jobs.iter().rfind(|job| job.model == "sd1" && job.job == "inpainting").unwrap();
    let request = job.request(&goldens);
    let (image, mask) = (request.init_image.unwrap(), request.mask.unwrap());
    write(&folder.path().join("in.png"), &image);
    let rgb = mask.values.iter().flat_map(|value| [*value; 3]).collect();
    write(&folder.path().join("mask.png"), &Picture { width: mask.width, height: mask.height, rgb });
    let (steps, seed) = (job.run.steps.to_string(), job.run.seed.to_string());
    let (strength, guidance) = (job.strength.to_string(), job.run.guidance_scale.to_string());
    let flags = [
        "-i",
        "in.png",
        "--mask",
        "mask.png",
        "--no-paste",
        "--strength",
        &strength,
        "-g",
        &guidance,
        "-o",
        "out.png",
    ];
    let more = ["--steps", &steps, "--seed", &seed, "--scheduler", &job.run.scheduler, &job.run.prompt];
    let more = [&more[..], &["-n", &job.run.negative_prompt]].concat();
    let model = Model::convert("sd1", WeightType::F32);
    generate(folder.path(), &model, &[&flags[..], &more].concat()).assert_done();
    let (_, expected) = goldens.picture(&job.run.case);
    let found = picture::read(folder.path().join("out.png")).unwrap();
    assert!(psnr(&found.rgb, &expected) >= PICTURE_DB);
    // Drawn again from its recipe, with what is kept pasted back: exactly the original there, as drawn deep inside.
    let flags = ["--from", "out.png", "--no-paste=false", "--mask-blur", "1", "-o", "pasted.png"];
    generate(folder.path(), &model, &flags).assert_done();
    let pasted = picture::read(folder.path().join("pasted.png")).unwrap();
    let mut kept = 0;
    for (index, pasted) in pasted.rgb.chunks_exact(3).enumerate() {
        if mask.values[index] < 128 {
            assert_eq!(*pasted, image.rgb[3 * index..][..3], "pixel {index}");
            kept += 1;
        }
    }
    let drawn = pasted.rgb.iter().zip(&found.rgb).filter(|(pasted, found)| pasted == found).count();
    assert!(kept > 100 && drawn > 300, "{kept} pixels are kept, {drawn} values are as drawn");
}

/// A start picture may have any size: it sets the size of the result, cropped to a size that can be drawn, or
/// is scaled to the requested size.
#[test]
fn pictures_of_any_size_and_format_can_be_started_from() {
    let (folder, model) = (TempDir::new().unwrap(), Model::convert("fp16", WeightType::F16));
    write(&folder.path().join("in.jpg"), &gradient(45, 61));
    write(&folder.path().join("mask.webp"), &Picture { rgb: vec![255; 10 * 10 * 3], width: 10, height: 10 });
    let common = ["x", "--steps", "4", "--strength", "0.5", "-i", "in.jpg"];
    for (flags, size) in [
        (&["-o", "a.webp"][..], (40, 56)),
        (&["-o", "b.jpeg", "-W", "48"], (48, 56)),
        (&["-o", "c.png", "-W", "64", "-H", "24", "--mask", "mask.webp"], (64, 24)),
    ] {
        generate(folder.path(), &model, &[&common[..], flags].concat()).assert_done();
        let drawn = picture::read(folder.path().join(flags[1])).unwrap();
        assert_eq!((drawn.width, drawn.height), size, "{flags:?}");
        let info = command::run(SDQ, folder.path(), &["info", flags[1], "--json"]);
        info.assert_done();
        let recipe: Value = serde_json::from_str(&info.output).unwrap();
        assert_eq!(recipe["strength"], 0.5, "{recipe}");
        assert_eq!(recipe["init_image"], "in.jpg", "{recipe}");
        assert_eq!(recipe["mask"].as_str(), flags.contains(&"--mask").then_some("mask.webp"), "{recipe}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
}

#[test]
fn what_cannot_be_started_from_is_named() {
    let (folder, model) = (TempDir::new().unwrap(), Model::convert("fp16", WeightType::F16));
    write(&folder.path().join("in.png"), &gradient(40, 40));
    fs::write(folder.path().join("text.png"), "no picture").unwrap();
    for (code, flags, words) in [
        (1, &["-i", "none.png"][..], &["none.png"][..]),
        (1, &["-i", "text.png"], &["text.png"]),
        (1, &["-i", "in.png", "--mask", "text.png"], &["text.png"]),
        (2, &["-i", "in.png", "--strength", "2"], &["strength", "2", "0 to 1"]),
        (2, &["-i", "in.png", "--strength", "0.01"], &["strength", "0.01"]),
        (2, &["-i", "in.png", "-W", "44"], &["width", "44"]),
        (2, &["-i", "in.png", "-W", "0"], &["width", "0"]),
        (2, &["-i", "in.png", "-W", "99999999999"], &["width"]),
        (2, &["--strength", "0.5"], &["required"]),
        (2, &["--mask", "in.png"], &["required"]),
        (2, &["--variation-seed", "1"], &["required"]),
        (2, &["--variation-strength", "1.5"], &["variation-strength", "1.5"]),
        (2, &["--guidance-rescale", "-1"], &["guidance-rescale"]),
        (2, &["-o", "out.gif"], &["out.gif", ".webp"]),
    ] {
        generate(folder.path(), &model, &[&["x"], flags].concat()).assert_failed(code, words);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing was written");
}

/// A preview is a readable picture during the run, and is removed when the picture is finished.
#[test]
fn previews_are_there_while_it_is_drawn() {
    let (folder, model) = (TempDir::new().unwrap(), Model::convert("fp16", WeightType::F16));
    let preview = folder.path().join("sdq.preview.png");
    let model_path = model.path();
    let flags = ["generate", "x", "--steps", "900", "-W", "40", "-H", "40", "--preview-every", "2", "-m"];
    let flags = [&flags[..], &[model_path.to_str().unwrap()]].concat();
    let run = Running::start(SDQ, folder.path(), &flags);
    let patience = Instant::now() + Duration::from_secs(60);
    while !preview.exists() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
    let shown = picture::read(&preview).unwrap();
    assert_eq!((shown.width, shown.height), (260, 260), "latents of 10x10, enlarged to be seen");
    drop(run);

    fs::remove_file(preview).unwrap();
    let flags = ["x", "--steps", "3", "-W", "40", "-H", "40", "--preview-every", "1"];
    generate(folder.path(), &model, &flags).assert_done();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["sdq.png"]);
}
