use super::*;
use crate::{PromptReading, PromptSyntax};

#[test]
fn requests_of_version_2_are_read() {
    let old = json!({
        "prompt": "a fox", "negative_prompt": "", "plain_prompt": false, "clip_skip": null, "width": 512,
        "height": 768, "steps": 30, "scheduler": "ddim", "scheduler_options": [["eta", "0.5"]],
        "guidance_scale": 7.099_999_904_632_568, "guidance_rescale": 0.0, "image_guidance_scale": 1.5,
        "seed": u64::MAX, "variation": [7, 0.25], "count": 3, "strength": null, "cache": null,
    });
    let expected = Request::new("a fox")
        .reading(PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None })
        .size(512, 768)
        .steps(30)
        .scheduler("ddim")
        .scheduler_option("eta", "0.5")
        .guidance_scale(7.1)
        .image_guidance_scale(1.5)
        .seed(u64::MAX)
        .variation(7, 0.25)
        .count(3);
    let read = |request: Value| serde_json::from_value::<Request>(upgraded(request, 2)).unwrap();
    assert_eq!(read(old.clone()), expected);
    let mut older = old;
    older.as_object_mut().unwrap().remove("plain_prompt");
    assert_eq!(read(older).reading.syntax, PromptSyntax::Plain);
}

/// A file with the run `run`, one more tensor, and a note.
fn saved(run: &str, tensor: Option<(&str, DType, &[usize], &[u8])>) -> Result<SavedRun, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sdq-run");
    let view = tensor.map(|(name, dtype, shape, bytes)| TensorView {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    });
    let views: Vec<TensorView<'_>> = view.into_iter().collect();
    safetensors::write(&path, &views, &[(RUN, run), ("note", "kept")]).unwrap();
    SavedRun::open(&path).map_err(|error| {
        let message = error.to_string();
        message.strip_prefix(&format!("{}: ", path.display())).expect("errors name the file").to_owned()
    })
}

fn run(changes: &Value) -> String {
    let mut run =
        json!({ "version": VERSION, "request": { "prompt": "a fox" }, "finished": 2, "begun": 1, "step": 3 });
    for (key, value) in changes.as_object().unwrap() {
        run[key] = value.clone();
    }
    run.to_string()
}

#[test]
fn a_saved_run_tells_its_request_and_notes() {
    let saved = saved(&run(&json!({})), None).unwrap();
    assert_eq!(
        (saved.request().prompt.as_str(), saved.note("note"), saved.note("none")),
        ("a fox", Some("kept"), None)
    );
}

#[test]
fn versions_before_and_after_those_that_are_read_are_refused() {
    for version in [json!(0), json!(1), json!(VERSION + 1), json!("3"), json!(null), json!(-3)] {
        let error = saved(&run(&json!({ "version": version })), None).unwrap_err();
        assert_eq!(error, format!("the file has version {version}, expected 2 to {VERSION}"));
    }
    for version in 2..=VERSION {
        assert!(saved(&run(&json!({ "version": version })), None).is_ok(), "{version}");
    }
}

#[test]
fn damaged_runs_are_refused_by_what_is_wrong() {
    for (run, reason) in [
        ("{".to_owned(), "EOF while parsing"),
        (run(&json!({ "request": null })), "the request cannot be read: "),
        (run(&json!({ "request": { "prompt": 1 } })), "the request cannot be read: "),
        (run(&json!({ "request": { "cache": "none" } })), "the request cannot be read: "),
    ] {
        let error = saved(&run, None).unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sdq-run");
    let problem = |path: &Path| SavedRun::open(path).unwrap_err().to_string();
    safetensors::write(&path, &[], &[("other", "note")]).unwrap();
    assert_eq!(problem(&path), format!("{}: the file contains no run of sdq", path.display()));
    // A file that is truncated at any length is an error that names it.
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(problem(&path).starts_with(&format!("{}: ", path.display())), "{len} bytes");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(problem(&path).starts_with(&format!("{}: ", path.display())));
}

#[test]
fn pictures_of_a_run_have_their_axes() {
    let opened = |name: &str, shape: &[usize], bytes: &[u8]| {
        saved(&run(&json!({})), Some((name, DType::U8, shape, bytes)))
    };
    let request = opened("init_image", &[1, 2, 3], &[1, 2, 3, 4, 5, 6]).unwrap().request;
    assert_eq!(request.init_image, Some(Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] }));
    let request = opened("mask", &[1, 3], &[1, 2, 3]).unwrap().request;
    assert_eq!(request.mask, Some(Mask { width: 3, height: 1, values: vec![1, 2, 3] }));
    for (name, shape, bytes, reason) in [
        (
            "init_image",
            &[1, 2, 4][..],
            &[0; 8][..],
            "the picture has the shape [1, 2, 4], expected [height, width, 3]",
        ),
        ("init_image", &[2, 3], &[0; 6], "the picture has the shape [2, 3], expected [height, width, 3]"),
        ("mask", &[1, 2, 3], &[0; 6], "the mask has the shape [1, 2, 3], expected [height, width]"),
        ("mask", &[6], &[0; 6], "the mask has the shape [6], expected [height, width]"),
    ] {
        assert_eq!(opened(name, shape, bytes).unwrap_err(), reason);
    }
}

#[test]
fn floats_are_finite_and_of_their_shape() {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let opened = |values: &[f32]| {
        saved(&run(&json!({})), Some(("x", DType::F32, &[values.len()], &bytes(values)))).unwrap()
    };
    let whole = opened(&[1.0, -2.5]);
    assert_eq!((whole.floats("x").unwrap(), whole.floats("y").unwrap()), (Some(vec![1.0, -2.5]), None));
    assert_eq!(whole.tensor("x", &[1, 2]).unwrap().values(), [1.0, -2.5]);
    for (name, shape) in [("x", [1, 3]), ("x", [1, 1]), ("y", [1, 2])] {
        let error = whole.tensor(name, &shape).unwrap_err().to_string();
        assert!(error.ends_with(&format!("the file has no tensor `{name}` of shape {shape:?}")), "{error}");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = opened(&[1.0, value]).floats("x").unwrap_err().to_string();
        assert!(error.ends_with("tensor `x` contains values that are not finite"), "{error}");
    }
}

#[test]
fn counts_are_whole_numbers() {
    let opened = |count: Value| saved(&run(&json!({ "finished": count })), None).unwrap();
    assert_eq!(opened(json!(7)).count("finished").unwrap(), 7);
    for wrong in [json!(-1), json!(1.5), json!("7"), json!(null), json!([])] {
        let error = opened(wrong.clone()).count("finished").unwrap_err().to_string();
        assert!(error.ends_with(&format!("`finished` is {wrong}, expected a whole number")), "{error}");
    }
}

#[test]
fn only_version_2_is_spelled_otherwise() {
    let request = json!({ "variation": [7, 0.25], "plain_prompt": false });
    assert_eq!(upgraded(request.clone(), 3), request);
    let expected = json!({ "variation_seed": 7, "variation_strength": 0.25, "plain_prompt": false });
    assert_eq!(upgraded(request, 2), expected);
    assert_eq!(upgraded(json!({ "variation": null }), 2), json!({ "plain_prompt": true }));
    assert_eq!(upgraded(json!([1]), 2), json!([1]));
}
