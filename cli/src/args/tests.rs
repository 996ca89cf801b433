use super::*;

#[test]
fn bytes_take_units() {
    assert_eq!(bytes("512M"), Ok(512 << 20));
    assert_eq!(bytes("2g"), Ok(2 << 30));
    assert_eq!(bytes("64k"), Ok(64 << 10));
    assert_eq!(bytes("1000"), Ok(1000));
    for wrong in ["", "M", "1.5G", "-1", "5T", "512 M", "99999999999999G", "é"] {
        assert!(bytes(wrong).is_err(), "{wrong}");
    }
}

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(["sdq"].into_iter().chain(line.split_whitespace()))
}

/// Valid lines, and invalid ones with the kind of their error.
#[test]
fn flags_go_together_or_not() {
    use clap::error::ErrorKind::{
        ArgumentConflict, DisplayHelpOnMissingArgumentOrSubcommand, InvalidSubcommand, InvalidValue,
        MissingRequiredArgument, UnknownArgument, ValueValidation,
    };
    for line in [
        "generate fox",
        "generate --from a.png",
        "generate --from a.png --strength 0.5 --mask m.png --image-guidance-scale 1",
        "generate --from a.png --mask-blur 8 --no-paste=false",
        "generate fox -i a.png --mask m.png --no-paste",
        "generate fox -i a.png --mask m.png --only-masked --masked-content noise",
        "generate --from a.png --only-masked=8",
        "generate fox -i a.png --strength -1",
        "generate fox --variation-strength 0.5 --variation-seed 3",
        "generate --from a.png --variation-seed 3",
        "generate fox --preview-every 1 --preview-vae a.pt --preview-vae b.pt",
        "generate fox --plain-prompt",
        "generate -p fox --sampler ddim --cfg-scale 2",
        "generate fox --plain-prompt=false",
        "generate fox -g -1.5 --guidance-rescale -1",
        "plan fox --max-memory 1G",
        "bench --size 512x768 --part unet",
        "resume a.sdq-run -o b.png",
        "convert model -o a.sdq",
        "convert --unet u.pt --dry-run",
        "convert model -o a.sdq --max-size 900",
        "convert model -o a.sdq --type mixed --rule attn2=q8 --rule attn1=f16",
        "eval a.sdq b.sdq --limit 3",
        "info",
        "info a.sdq --verify",
        "schedulers",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for (line, kind) in [
        ("", DisplayHelpOnMissingArgumentOrSubcommand),
        ("draw fox", InvalidSubcommand),
        ("generate fox --no-such-flag", UnknownArgument),
        ("generate fox -p fox", ArgumentConflict),
        ("generate fox --strength 0.5", MissingRequiredArgument),
        ("generate fox --mask m.png", MissingRequiredArgument),
        ("generate fox -i a.png --mask-blur 8", MissingRequiredArgument),
        ("generate fox -i a.png --no-paste", MissingRequiredArgument),
        ("generate fox -i a.png --only-masked", MissingRequiredArgument),
        ("generate fox -i a.png --masked-content noise", MissingRequiredArgument),
        ("generate fox -i a.png --mask m.png --masked-content blur", ValueValidation),
        ("generate fox --image-guidance-scale 2", MissingRequiredArgument),
        ("generate fox --variation-seed 3", MissingRequiredArgument),
        ("generate fox --preview-vae a.pt", MissingRequiredArgument),
        ("generate fox --plain-prompt=maybe", InvalidValue),
        ("generate fox --preview-every 0", ValueValidation),
        ("generate fox -t 0", ValueValidation),
        ("generate fox --seed -2", ValueValidation),
        ("generate fox --seed 1.5", ValueValidation),
        ("generate fox --clip-skip -1", ValueValidation),
        ("generate fox --steps -1", ValueValidation),
        ("generate fox --count -1", ValueValidation),
        ("generate fox -W -64", ValueValidation),
        ("generate fox --lora a.pt:inf", ValueValidation),
        ("generate fox --embedding a.pt:", ValueValidation),
        ("generate fox --cache none:2", ValueValidation),
        ("generate fox --scheduler-option eta", ValueValidation),
        ("generate fox --backend gpu", InvalidValue),
        ("bench --rounds 0", ValueValidation),
        ("bench --size 512", ValueValidation),
        ("bench --part steps", InvalidValue),
        ("resume", MissingRequiredArgument),
        ("convert -o a.sdq", MissingRequiredArgument),
        ("convert model", MissingRequiredArgument),
        ("convert model -o a.sdq --max-size 900 --target-psnr 40", ArgumentConflict),
        ("convert model -o a.sdq --max-size 900 --type q8", ArgumentConflict),
        ("convert model -o a.sdq --max-size 900 --unet-type q8", ArgumentConflict),
        ("convert model -o a.sdq --max-size 900 --vae-type q8", ArgumentConflict),
        ("convert model -o a.sdq --target-psnr 40 --text-type q8", ArgumentConflict),
        ("convert model -o a.sdq --target-psnr 40 --rule a=q8", ArgumentConflict),
        ("convert model -o a.sdq --type q3", InvalidValue),
        ("convert model -o a.sdq --rule attn2", ValueValidation),
        ("convert model -o a.sdq --calibrate 0", ValueValidation),
        ("eval a.sdq", MissingRequiredArgument),
        ("eval a.sdq b.sdq --limit 0", ValueValidation),
        ("info --verify", MissingRequiredArgument),
        ("schedulers all", UnknownArgument),
    ] {
        assert_eq!(parse(line).map(drop).map_err(|error| error.kind()), Err(kind), "{line}");
    }
}

/// Clap's own checks of every flag, name and group.
#[test]
fn the_command_line_is_sound() {
    <Args as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn open_flags_have_the_documented_values() {
    let Command::Generate(args) = parse("generate fox").unwrap().command else { panic!("generate") };
    assert_eq!((args.output, args.count, args.seed, args.force), (None, 1, None, false));
    assert_eq!((args.run.save_every, args.run.max_memory, args.plain_prompt), (20, None, None));
    assert!(args.sampling.width.is_none() && args.sampling.steps.is_none() && args.cache.is_none());
    let Command::Bench(args) = parse("bench").unwrap().command else { panic!("bench") };
    assert_eq!((args.rounds.get(), args.part, args.profile), (3, PartArg::All, false));
    let Command::Eval(args) = parse("eval a b").unwrap().command else { panic!("eval") };
    assert_eq!((args.seed, args.limit), (42, None));
    let Command::Convert(args) = parse("convert m -o a").unwrap().command else { panic!("convert") };
    assert_eq!(args.precision.0.name(), "f16");
}

#[test]
fn a_flag_that_may_have_a_value_is_on_without_one() {
    for (line, plain) in [
        ("generate fox", None),
        ("generate fox --plain-prompt", Some(true)),
        ("generate fox --plain-prompt=true", Some(true)),
        ("generate fox --plain-prompt=false", Some(false)),
    ] {
        let Command::Generate(args) = parse(line).unwrap().command else { panic!("generate") };
        assert_eq!(args.plain_prompt, plain, "{line}");
    }
    // The value must follow its equals sign, otherwise it would be the prompt.
    let Command::Generate(args) = parse("generate --plain-prompt false").unwrap().command else {
        panic!("generate")
    };
    assert_eq!((args.plain_prompt, args.prompt.as_deref()), (Some(true), Some("false")));
}

#[test]
fn parts_of_a_run_have_the_names_of_the_flag() {
    for (name, part) in [
        ("all", None),
        ("text", Some(Part::TextEncoder)),
        ("unet", Some(Part::UNet)),
        ("vae", Some(Part::VaeDecoder)),
    ] {
        assert_eq!(PartArg::from_str(name, false).unwrap().part(), part);
    }
}

#[test]
fn sizes_options_and_caches_are_read_or_named() {
    assert_eq!((size("512x768"), size("8X16"), size("0x0")), (Ok((512, 768)), Ok((8, 16)), Ok((0, 0))));
    for (text, reason) in [
        ("512", "expected WIDTHxHEIGHT, such as 512x768"),
        ("x8", "`` is not a number of pixels"),
        ("8x", "`` is not a number of pixels"),
        ("8x-8", "`-8` is not a number of pixels"),
        ("8x8x8", "`8x8` is not a number of pixels"),
        ("8 x 8", "`8 ` is not a number of pixels"),
    ] {
        assert_eq!(size(text), Err(reason.to_owned()));
    }
    let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
    assert_eq!(
        (key_value("eta=0.5"), key_value("a=b=c"), key_value("a=")),
        (pair("eta", "0.5"), pair("a", "b=c"), pair("a", ""))
    );
    assert!(key_value("eta").is_err());
    assert_eq!(
        (caching("none"), caching("guidance:2")),
        (Ok(Caching::None), Ok(Caching::Guidance { every: 2 }))
    );
    assert!(caching("").is_err() && caching("None").is_err());
}

#[test]
fn bytes_end_where_64_bits_do() {
    assert_eq!(bytes("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(bytes("17179869183G"), Ok(u64::MAX - (1 << 30) + 1));
    for wrong in ["18446744073709551616", "17179869184G", "+", "0x10", "1KB", "1 K"] {
        assert!(bytes(wrong).is_err(), "{wrong}");
    }
    assert_eq!((bytes("0"), bytes("0G"), bytes("1K")), (Ok(0), Ok(0), Ok(1024)));
}

#[test]
fn a_seed_may_be_random() {
    for (flags, seed) in [
        ("", None),
        ("--seed 7", Some(SeedArg::Number(7))),
        ("--seed 18446744073709551615", Some(SeedArg::Number(u64::MAX))),
        ("--seed -1", Some(SeedArg::Random)),
        ("--seed=-1", Some(SeedArg::Random)),
    ] {
        match parse(&format!("generate fox {flags}")).unwrap().command {
            Command::Generate(args) => assert_eq!(args.seed, seed, "{flags}"),
            other => panic!("{other:?}"),
        }
    }
}
