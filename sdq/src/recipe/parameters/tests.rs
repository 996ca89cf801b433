use sdq_engine::pipeline::Caching;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_line_is_cut_at_commas_outside_of_json() {
    for (line, expected) in [
        ("", &[][..]),
        ("no colon", &[]),
        ("Steps: 20", &[("Steps", "20")]),
        ("Steps: 20, Seed: 1,Size:8x8", &[("Steps", "20"), ("Seed", "1"), ("Size", "8x8")]),
        (",, Steps:  20 ,", &[("Steps", "20")]),
        ("Model: \"a, b\", Seed: 1", &[("Model", "a, b"), ("Seed", "1")]),
        ("Model: \"a \\\"b\\\"\", Seed: 1", &[("Model", "a \"b\""), ("Seed", "1")]),
        ("Hashes: {\"a\": \"b, c\"}, Seed: 1", &[("Hashes", "{\"a\":\"b, c\"}"), ("Seed", "1")]),
        ("List: [1, 2], Seed: 1", &[("List", "[1,2]"), ("Seed", "1")]),
        // A value that only looks like JSON is a text up to the comma.
        ("Model: \"open, Seed: 1", &[("Model", "\"open"), ("Seed", "1")]),
        ("Model: [x, Seed: 1", &[("Model", "[x"), ("Seed", "1")]),
        ("Empty: , Seed: 1", &[("Empty", ""), ("Seed", "1")]),
        ("a\"b: 1, Seed: 1", &[]),
        ("words, Seed: 1", &[]),
        (": 1", &[]),
    ] {
        assert_eq!(fields(line), pairs(expected), "{line}");
    }
}

#[test]
fn a_name_is_at_most_so_long() {
    for (len, count) in [(MAX_NAME_LEN, 1), (MAX_NAME_LEN + 1, 0)] {
        assert_eq!(fields(&format!("{}: 1", "n".repeat(len))).len(), count, "{len}");
    }
}

#[test]
fn the_last_line_is_settings_from_three_fields_on() {
    for (text, prompt, steps) in [
        ("a cat\nSteps: 2, Seed: 1, Size: 8x8", "a cat", Some(2)),
        ("a cat\nSteps: 2, Seed: 1", "a cat\nSteps: 2, Seed: 1", None),
        ("Steps: 2, Seed: 1, Size: 8x8", "", Some(2)),
        ("a cat\nSteps: 2, Seed: 1, Size: 8x8\n \n", "a cat", Some(2)),
        ("", "", None),
    ] {
        let found = read(text).unwrap();
        assert_eq!(
            (found.recipe.request.prompt.as_str(), found.recipe.request.steps),
            (prompt, steps),
            "{text}"
        );
    }
    assert_eq!(read("{\"a\": 1}"), None, "JSON is another program's");
}

#[test]
fn only_the_masked_part_is_named_as_in_the_web_ui() {
    let request = Request::new("a cat").steps(2).only_masked(32);
    let text = write(&Recipe { request, ..Recipe::default() });
    assert!(text.contains(", Inpaint area: Only masked, Masked area padding: 32, "), "{text}");
    // Without the mask, which lines do not contain, it cannot be done again.
    let found = read(&text).unwrap();
    assert_eq!(found.recipe.request.only_masked, None);
    assert!(found.unused.contains(&"Masked area padding: 32".to_owned()), "{:?}", found.unused);
}

#[test]
fn the_negative_prompt_begins_a_line() {
    for (prompts, expected) in [
        ("a cat", ("a cat", "")),
        ("a cat\nNegative prompt: a dog", ("a cat", "a dog")),
        ("Negative prompt: a dog", ("", "a dog")),
        ("a\nb\nNegative prompt:c\nd", ("a\nb", "c\nd")),
        ("a Negative prompt: b", ("a Negative prompt: b", "")),
        ("a\nNegative prompt:  b\nNegative prompt: c", ("a", " b\nNegative prompt: c")),
        ("\nNegative prompt:", ("", "")),
    ] {
        assert_eq!(split_prompts(prompts), expected, "{prompts:?}");
    }
}

#[test]
fn values_are_quoted_where_they_would_end_or_begin_otherwise() {
    for (value, written) in [
        ("plain", "plain"),
        ("a b: c", "a b: c"),
        ("in\"side", "in\"side"),
        ("", ""),
        ("a, b", "\"a, b\""),
        ("a\nb", "\"a\\nb\""),
        ("\"a", "\"\\\"a\""),
        ("[a]", "\"[a]\""),
        ("{a", "\"{a\""),
        (" a", "\" a\""),
        ("a ", "\"a \""),
    ] {
        assert_eq!(quoted(value), written);
        assert_eq!(fields(&format!("Model: {written}, x: y"))[0].1, value);
    }
}

/// Each value sets its field, and a value of the wrong type sets nothing.
#[test]
fn fields_set_what_they_are_called() {
    let set = |name: &str, value: &str| {
        let mut recipe = Recipe::default();
        recipe.request.scheduler = Some("ddim".to_owned());
        let before = recipe.clone();
        match set_field(&mut recipe, name, value) {
            Some(()) => Some(recipe),
            None => {
                assert_eq!(recipe, before, "{name}: {value} is not used");
                None
            }
        }
    };
    let request = |name: &str, value: &str| set(name, value).unwrap_or_else(|| panic!("{name}")).request;
    assert_eq!(request("Steps", "30").steps, Some(30));
    assert_eq!(request("CFG scale", "7.5").guidance_scale, Some(7.5));
    assert_eq!(request("Seed", "18446744073709551615").seed, u64::MAX);
    let size = request("Size", "512 x 768");
    assert_eq!((size.width, size.height), (Some(512), Some(768)));
    for (count, skip) in [("2", Some(2)), ("1", Some(1)), ("0", None), ("-1", None)] {
        assert_eq!(request("Clip skip", count).reading.clip_skip, skip, "{count}");
    }
    assert_eq!(request("Denoising strength", "0.4").strength, Some(0.4));
    assert_eq!(request("Image CFG scale", "1.5").image_guidance_scale, Some(1.5));
    assert_eq!(request("Cache", "guidance:2").caching, Caching::Guidance { every: 2 });
    assert_eq!(request("Eta", "0.5").scheduler_options, pairs(&[("eta", "0.5")]));
    assert_eq!(set("Model", "a b").map(|recipe| recipe.model).as_deref(), Some("a b"));
    assert_eq!(set("VAE", "a.pt, b.pt").unwrap().vae, ["a.pt", "b.pt"]);
    for own in ["None", "Automatic"] {
        assert!(set("VAE", own).unwrap().vae.is_empty());
    }
    assert_eq!(set("Version", "v1.9.4").map(|recipe| recipe.version).as_deref(), Some("v1.9.4"));
    for (name, value) in [
        ("Steps", "-1"),
        ("Steps", "2.5"),
        ("CFG scale", "high"),
        ("Seed", "-1"),
        ("Size", "512"),
        ("Size", "512x"),
        ("Size", "ax8"),
        ("Clip skip", "two"),
        ("Denoising strength", ""),
        ("Cache", "none"),
        ("ENSD", "31337"),
    ] {
        assert!(set(name, value).is_none(), "{name}: {value}");
    }
}

#[test]
fn an_option_is_set_where_the_scheduler_has_it() {
    let set = |scheduler: Option<&str>, key: &str| {
        let mut request =
            sdq_engine::Request { scheduler: scheduler.map(str::to_owned), ..Default::default() };
        (set_option(&mut request, key, "0.5").is_some(), request.scheduler_options.len())
    };
    assert_eq!(set(Some("ddim"), "eta"), (true, 1));
    assert_eq!(set(Some("ddim"), "no_such_option"), (false, 0));
    assert_eq!(set(Some("no-such-scheduler"), "eta"), (false, 0));
    assert_eq!(set(None, "eta"), (false, 0));
}

#[test]
fn the_version_says_who_wrote_the_line() {
    for (version, program) in [
        ("sdq 0.1.0", "sdq"),
        ("sdquite", "AUTOMATIC1111"),
        ("v1.9.4", "AUTOMATIC1111"),
        ("f2.0.1v1.10.1", "Forge"),
        ("stable-diffusion.cpp", "stable-diffusion.cpp"),
    ] {
        let found = read(&format!("a cat\nSteps: 2, Seed: 1, Version: {version}")).unwrap();
        assert_eq!(found.program, program, "{version}");
    }
}

#[test]
fn a_variation_has_both_a_seed_and_a_strength() {
    let read = |rest: &str| read(&format!("a cat\nSteps: 2, Seed: 1, CFG scale: 7{rest}")).unwrap();
    let found = read(", Variation seed: 3, Variation seed strength: 0.25");
    assert_eq!(found.recipe.request.variation, Some(Variation { seed: 3, strength: 0.25 }));
    assert!(found.unused.is_empty());
    for rest in ["Variation seed: 3", "Variation seed strength: 0.25"] {
        let found = read(&format!(", {rest}"));
        assert_eq!((found.recipe.request.variation, found.unused), (None, vec![rest.to_owned()]));
    }
    let found = read(", Variation seed: x, Variation seed strength: 0.25");
    assert_eq!((found.recipe.request.variation, found.unused.len()), (None, 2));
}

/// Extensions of the web UI, such as Dynamic Prompts, write more lines.
#[test]
fn lines_after_the_settings_are_listed() {
    let template = "Template: a {cat|dog}, size: big, mood: good, more: yes";
    for (text, unused) in [
        (
            format!("a cat\nNegative prompt: lowres\nSteps: 2, Seed: 1, CFG scale: 7\n{template}"),
            vec![template],
        ),
        (
            format!(
                "a cat\nNegative prompt: lowres\nSteps: 2, Seed: 1, CFG scale: 7\n{template}\n\nNegative Template: x"
            ),
            vec![template, "Negative Template: x"],
        ),
        // Lines like that of the settings inside the prompts.
        (
            "a cat\nNegative prompt: lowres\nSteps: 9, Seed: 9\nSteps: 2, Seed: 1, CFG scale: 7".to_owned(),
            vec![],
        ),
    ] {
        let found = read(&text).unwrap();
        let request = found.recipe.request;
        assert_eq!((&*request.prompt, request.steps, request.seed), ("a cat", Some(2), 1), "{text}");
        assert!(
            request.negative_prompt.starts_with("lowres") && !request.negative_prompt.contains("Template")
        );
        assert_eq!(found.unused, unused, "{text}");
    }
}

#[test]
fn ends_of_lines_of_windows_are_no_part_of_the_prompts() {
    let found =
        read("a cat,\r\na dog\r\nNegative prompt: lowres\r\nSteps: 2, Seed: 1, CFG scale: 7\r\n").unwrap();
    let request = found.recipe.request;
    assert_eq!((&*request.prompt, &*request.negative_prompt), ("a cat,\na dog", "lowres"));
    assert_eq!(request.guidance_scale, Some(7.0));
}
