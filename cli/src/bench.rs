//! `sdq bench`: the speed of a model on this machine, compared with the machine's limits.

use sdq::{
    Request,
    measure::{MeasureOptions, MeasuredPart, Measurement, measure},
    model,
    text::printable,
};

use crate::{args::BenchArgs, config, output};

/// Most characters of a model's name that are shown.
const SHOWN_CHARS: usize = 200;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let path = config::model(args.model.as_deref())?;
    let pipeline = model::open(path.as_deref(), &args.device.options()?)?;
    let (width, height) = args.size.unzip();
    // Guidance needs a prompt that is not empty.
    let request = Request { prompt: "a red apple".to_owned(), width, height, ..Request::default() };
    let options = MeasureOptions { part: args.part.part(), rounds: args.rounds, profile: args.profile };
    let measurement = measure(&pipeline, &request, &options)?;
    match args.json {
        true => output::say_json(&measurement.json()),
        false => print(&measurement),
    }
    Ok(())
}

fn print(measurement: &Measurement) {
    let Measurement { model, backend, width, height, limits, parts, picture } = measurement;
    let model = printable(model, SHOWN_CHARS);
    say!("{model}, {width}x{height}, {backend}");
    let [integer, float, copy] = [limits.integer, limits.float, limits.copy].map(|rate| rate / 1e9);
    say!(
        "the device: {integer:.0} G multiply-adds/s of integers, {float:.0} of floats, {copy:.1} GB/s copied"
    );
    say!("{:<14}{:>10}{:>10}{:>10}{:>9}{:>10}", "", "least", "median", "most", "GMAC/s", "of limit");
    for part in parts {
        let [least, .., most] = part.seconds[..] else {
            row(part, part.median(), part.median());
            continue;
        };
        row(part, least, most);
    }
    for part in parts.iter().filter(|part| !part.profile.is_empty()) {
        say!("");
        say!("{}: time of each kind of op", part.name());
        let all: f64 = part.profile.iter().map(|op| op.time.as_secs_f64()).sum();
        for op in &part.profile {
            let seconds = op.time.as_secs_f64();
            let [arithmetic, memory] = measurement.shares(op).map(|share| 100.0 * share);
            let rate = match op.integer + op.float {
                0 => format!("{memory:.0} % of copying"),
                work => format!("{arithmetic:.0} % of the limit, {:.0} GMAC/s", work as f64 / seconds / 1e9),
            };
            say!(
                "  {:<24}{:>5}{:>12}{:>7.1} %   {rate}",
                op.op,
                op.count,
                duration(seconds),
                100.0 * seconds / all
            );
        }
    }
    if let &Some((steps, seconds)) = picture {
        say!("a picture of {steps} steps takes about {}", duration(seconds));
    }
}

fn row(part: &MeasuredPart, least: f64, most: f64) {
    let [least, median, most] = [least, part.median(), most].map(duration);
    let (rate, share) = (part.rate() / 1e9, 100.0 * part.limit / part.median());
    say!("{:<14}{least:>10}{median:>10}{most:>10}{rate:>9.0}{share:>8.0} %", part.name());
}

/// Seconds in a suitable unit.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..0.1 => format!("{:.2} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}
