use serde_json::json;

use super::*;

/// A run of `steps` steps of a scheduler.
fn settings(scheduler: &str, steps: usize, job: Job) -> Settings {
    Settings {
        request: Request::default(),
        width: 16,
        height: 24,
        steps,
        scheduler: scheduler.to_owned(),
        scheduler_config: SchedulerConfig::default(),
        guidance_scale: 7.5,
        image_guidance_scale: 1.5,
        job,
        mask_blur: None,
        masked_area: None,
        first_step: 0,
        evaluations: 0,
        guidance: Guidance::None,
    }
}

/// `init_timestep = min(int(steps * strength), steps)`, `t_start = max(steps - init_timestep, 0) * order`, as
/// in diffusers, with Python's product of floats.
#[test]
fn a_strength_leaves_out_the_steps_that_diffusers_leaves_out() {
    let first = |scheduler: &str, steps, strength| {
        let settings = settings(scheduler, steps, Job::ImageToImage { strength });
        first_step(&settings, &*settings.new_scheduler().unwrap())
    };
    for (scheduler, steps, strength, expected) in [
        ("ddim", 20, 1.0, 0),
        ("ddim", 20, 0.8, 4),
        ("ddim", 10, 0.29, 8),
        // 0.7 * 10 is 7 exactly, 0.29 * 100 is 28.999999999999996.
        ("ddim", 10, 0.7, 3),
        ("ddim", 100, 0.29, 72),
        ("ddim", 4, 0.25, 3),
        ("heun", 10, 0.5, 10),
        ("heun", 10, 1.0, 0),
    ] {
        assert_eq!(first(scheduler, steps, strength).unwrap(), expected, "{scheduler} {steps} {strength}");
    }
    for (steps, strength) in [(4, 0.24), (20, 0.0), (1, 0.99)] {
        let error = first("ddim", steps, strength).unwrap_err().to_string();
        assert_eq!(error, format!("strength is {strength}, expected enough to leave one of {steps} steps"));
    }
    let whole = settings("ddim", 20, Job::TextToImage);
    assert_eq!(first_step(&whole, &*whole.new_scheduler().unwrap()).unwrap(), 0);
}

#[test]
fn each_picture_has_a_seed_of_its_own() {
    let seeds =
        |request: Request, image| Settings { request, ..settings("ddim", 2, Job::TextToImage) }.seeds(image);
    let plain = Request::default().seed(u64::MAX);
    assert_eq!([0, 1, 2].map(|image| seeds(plain.clone(), image)), [(u64::MAX, None), (0, None), (1, None)]);
    let varied = Request::default().seed(7).variation(u64::MAX, 0.25);
    let variation = |seed| Some(Variation { seed, strength: 0.25 });
    assert_eq!(
        [0, 1].map(|image| seeds(varied.clone(), image)),
        [(7, variation(u64::MAX)), (7, variation(0))]
    );
}

#[test]
fn the_request_of_a_picture_leaves_nothing_open() {
    let request = Request::new("a fox").seed(7).count(3);
    let drawn = |job| Settings { request: request.clone(), ..settings("ddim", 20, job) };
    let complete = Request::new("a fox").seed(9).size(16, 24).steps(20).scheduler("ddim").guidance_scale(7.5);
    assert_eq!(drawn(Job::TextToImage).request_of_image(2), complete);
    let strength = complete.clone().strength(0.5);
    for job in [Job::ImageToImage { strength: 0.5 }, Job::Inpainting { strength: 0.5 }] {
        assert_eq!(drawn(job).request_of_image(2), strength);
    }
    assert_eq!(drawn(Job::Editing).request_of_image(2), complete.image_guidance_scale(1.5));
    assert_eq!(drawn(Job::TextToImage).latent_size(8), (3, 2));
}

#[test]
fn shares_and_scales_are_numbers_in_their_bounds() {
    for value in [0.0, -0.0, 0.5, 1.0] {
        assert_eq!(share("strength", value).unwrap(), value);
    }
    for value in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
        let error = share("strength", value).unwrap_err().to_string();
        assert_eq!(error, format!("strength is {value}, expected from 0 to 1"));
    }
    assert_eq!(finite("guidance-scale", -3.5).unwrap(), -3.5);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = finite("guidance-scale", value).unwrap_err().to_string();
        assert_eq!(error, format!("guidance-scale is {value}, expected a finite number"));
    }
}

#[test]
fn kept_pixels_are_pasted_where_there_is_a_mask() {
    let mask = crate::Mask { width: 1, height: 1, values: vec![0] };
    let masked = || Request::default().mask(mask.clone());
    for (request, expected) in [
        (Request::default(), None),
        (masked(), Some(MASK_BLUR)),
        (masked().mask_blur(0), Some(0)),
        (masked().mask_blur(64), Some(64)),
        (masked().paste(false), None),
    ] {
        assert_eq!(mask_blur(&request).unwrap(), expected, "{request:?}");
    }
    for (request, message) in [
        (
            Request::default().paste(false),
            "no-paste is true, expected a mask, without which no pixels are kept",
        ),
        (
            Request::default().mask_blur(3),
            "mask-blur is 3, expected a mask whose kept pixels are pasted back",
        ),
        (
            masked().mask_blur(3).paste(false),
            "mask-blur is 3, expected a mask whose kept pixels are pasted back",
        ),
        (masked().mask_blur(65), "mask-blur is 65, expected from 0 to 64 pixels"),
    ] {
        assert_eq!(mask_blur(&request).unwrap_err().to_string(), message);
    }
}

#[test]
fn only_the_masked_part_is_drawn_where_there_is_one() {
    let area = |request: Request| {
        let settings = Settings { request, ..settings("ddim", 2, Job::TextToImage) };
        check_sizes(&settings).and_then(|()| masked_area(&settings))
    };
    let picture = crate::Picture { width: 40, height: 20, rgb: vec![0; 3 * 800] };
    let mask = |white: usize| {
        let values = (0..800).map(|index| if index == white { 255 } else { 0 }).collect();
        crate::Mask { width: 40, height: 20, values }
    };
    let masked = |white| Request::default().init_image(picture.clone()).mask(mask(white)).only_masked(2);
    let expected = Area { left: 8, top: 6, width: 5, height: 7 };
    assert_eq!(area(masked(9 * 40 + 10)).unwrap(), Some(expected));
    assert_eq!(area(Request::default()).unwrap(), None);
    for (request, message) in [
        (
            Request::default().only_masked(2),
            "only-masked is 2, expected a mask, which selects the part to redraw",
        ),
        (masked(800), "mask is black, expected white pixels, because only what they redraw is drawn"),
        (
            Request::default().masked_content(MaskedContent::Noise),
            "masked-content is noise, expected a mask, which selects the part to redraw",
        ),
        (
            masked(0).init_image(crate::Picture { width: 20, ..picture.clone() }),
            "init-image is 20x20 (2400 values), expected 20x20 (1200 values)",
        ),
        (
            masked(0).mask(crate::Mask { width: 16, height: 24, values: vec![255; 384] }),
            "mask is 16x24 (384 values), expected 40x20 (800 values)",
        ),
        (
            masked(0).init_image(crate::Picture { width: 0, height: 4, rgb: Vec::new() }),
            "init-image is 0x4, expected sides from 1 to 16384",
        ),
    ] {
        assert_eq!(area(request).unwrap_err().to_string(), message);
    }
}

#[test]
fn pictures_and_masks_are_as_large_as_what_is_drawn() {
    let picture = |width, height, len| crate::Picture { width, height, rgb: vec![0; len] };
    let mask = |width, height, len| crate::Mask { width, height, values: vec![0; len] };
    let check =
        |request: Request| check_sizes(&Settings { request, ..settings("ddim", 2, Job::TextToImage) });
    let area = 16 * 24;
    let image = || Request::default().init_image(picture(16, 24, 3 * area));
    check(image().mask(mask(16, 24, area))).unwrap();
    for (request, message) in [
        (
            Request::default().init_image(picture(24, 16, 3 * area)),
            "init-image is 24x16 (1152 values), expected 16x24 (1152 values)",
        ),
        (
            Request::default().init_image(picture(16, 24, area)),
            "init-image is 16x24 (384 values), expected 16x24 (1152 values)",
        ),
        (image().mask(mask(16, 24, 3 * area)), "mask is 16x24 (1152 values), expected 16x24 (384 values)"),
        (image().mask(mask(8, 48, area)), "mask is 8x48 (384 values), expected 16x24 (384 values)"),
    ] {
        assert_eq!(check(request).unwrap_err().to_string(), message);
    }
}

#[test]
fn defaults_of_a_file_have_their_kind_or_are_silent() {
    let defaults = json!({ "steps": 4, "scheduler": "lcm", "guidance_scale": 1, "width": null });
    let file = FileDefaults(&defaults);
    assert_eq!(
        (file.size("steps", 20).unwrap(), file.size("width", 8).unwrap(), file.size("height", 9).unwrap()),
        (4, 8, 9)
    );
    assert_eq!(
        (file.text("scheduler", "ddim").unwrap().as_str(), file.float("guidance_scale", 7.5).unwrap()),
        ("lcm", 1.0)
    );
    for (value, message) in [
        (json!(-1), "steps is -1 (the model file's default), expected a whole number"),
        (json!(1.5), "steps is 1.5 (the model file's default), expected a whole number"),
        (json!("4"), "steps is \"4\" (the model file's default), expected a whole number"),
    ] {
        let defaults = json!({ "steps": value });
        assert_eq!(FileDefaults(&defaults).size("steps", 20).unwrap_err().to_string(), message);
    }
    let wrong = json!({ "scheduler": 1, "guidance_scale": "7" });
    assert!(FileDefaults(&wrong).text("scheduler", "ddim").is_err());
    assert!(FileDefaults(&wrong).float("guidance_scale", 7.5).is_err());
}
