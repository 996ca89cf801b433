//! The memory plan compared with the system's numbers: every case runs in a process of its own, whose
//! anonymous memory is sampled while it draws.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    num::NonZeroUsize,
    ops::ControlFlow,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use sdq_engine::{Error, Event, Picture, Pipeline, PipelineOptions, Request, pipeline::Caching};
use sdq_formats::WeightType;
use sdq_tests::{
    measure::Table,
    models::{Model, demo_model},
};

/// Tolerance of the plan.
const TOLERANCE: f64 = 0.05;

/// Environment variables that make the test a child process.
const MODEL: &str = "SDQ_MEMORY_MODEL";
const CASE: &str = "SDQ_MEMORY_CASE";

/// Width, height and number of the pictures, the memory limit (from 0, the minimum, to 1, all that is
/// useful), whether they start from a picture, and the skip below which the network is cached.
type Case = (usize, usize, usize, f64, bool, Option<usize>);

/// `RssAnon` of this process in bytes, as the engine measures it.
fn anonymous() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Samples this process's memory a thousand times a second.
struct Sampler {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sampler {
    fn start() -> Sampler {
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (its_peak, its_done) = (peak.clone(), done.clone());
        let thread = thread::spawn(move || {
            while !its_done.load(Ordering::Relaxed) {
                its_peak.fetch_max(anonymous(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Sampler { peak, done, thread: Some(thread) }
    }

    /// The maximum since the last call.
    fn take(&self) -> u64 {
        self.peak.fetch_max(anonymous(), Ordering::Relaxed);
        self.peak.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sampler does not panic");
        }
    }
}

fn request((width, height, count, _, from_picture, skip): Case) -> Request {
    let caching = skip.map_or(Caching::None, |skip| Caching::Deep { every: 2, skip });
    let request = Request::new("a red apple").size(width, height).count(count).steps(2).caching(caching);
    match from_picture {
        false => request,
        true => {
            let rgb = (0..width * height * 3).map(|value| (value % 251) as u8).collect();
            request.init_image(Picture { width, height, rgb }).strength(1.0)
        }
    }
}

/// Draws one case and prints the planned and the measured memory of each phase. Not a test of its own: the
/// test below runs it in a process that does nothing else.
#[test]
fn child() {
    let (Ok(model), Ok(case)) = (env::var(MODEL), env::var(CASE)) else { return };
    let case: Case = serde_json::from_str(&case).unwrap();
    let options = PipelineOptions { threads: NonZeroUsize::new(2), ..PipelineOptions::default() };
    let sampler = Sampler::start();
    // Memory of the sampler's own start must not count as the engine's.
    thread::sleep(Duration::from_millis(20));
    let pipeline = Pipeline::open(model.as_ref(), &options).unwrap();
    let at_once = pipeline.plan(&request(case)).unwrap();
    let least = needed(&pipeline, case);
    let limit = least + ((at_once.peak() - least) as f64 * case.3) as u64;
    let pipeline = pipeline.with_max_memory(Some(limit));
    let plan = pipeline.plan(&request(case)).unwrap();
    assert!(plan.peak() <= limit, "{plan:?}");
    assert_eq!(
        plan.phases == at_once.phases,
        limit == at_once.peak(),
        "cut only as the limit asks: {plan:?}"
    );

    let mut seen = vec![sampler.take()];
    pipeline
        .generate(&request(case), &mut |event| {
            match event {
                Event::Encoded => seen.push(sampler.take()),
                Event::Denoised { image, .. } if image + 1 == case.2 => seen.push(sampler.take()),
                Event::Decoded { image, .. } if image + 1 == case.2 => seen.push(sampler.take()),
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let planned: Vec<u64> = plan.phases.iter().map(|phase| phase.bytes).collect();
    println!("RESULT {}", serde_json::json!([planned, seen]));
}

/// The smallest limit with which the case runs.
fn needed(pipeline: &Pipeline, case: Case) -> u64 {
    match pipeline.with_max_memory(Some(1)).plan(&request(case)) {
        Err(Error::DoesNotFit { needed, .. }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    }
}

fn run(model: &Model, case: Case) -> (Vec<u64>, Vec<u64>) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(MODEL, model.path())
        .env(CASE, serde_json::to_string(&case).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.split_once("RESULT ")).map(|(_, result)| result);
    let result =
        result.unwrap_or_else(|| panic!("{case:?}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(result).unwrap()
}

#[test]
fn the_plan_is_what_the_system_counts() {
    let mut table = Table::default();
    let models = [
        ("sd1", Model::convert("sd1", WeightType::F16)),
        ("fp16", Model::convert("fp16", WeightType::F16)),
        ("trained", Model::convert_folder(&demo_model(), WeightType::F16)),
        ("trained q8", Model::convert_folder(&demo_model(), WeightType::Q8)),
    ];
    for (name, model) in &models {
        for case in [
            (512, 512, 1, 1.0, false, None),
            (320, 448, 3, 1.0, false, None),
            (384, 640, 1, 0.3, false, None),
            (512, 448, 2, 0.0, false, None),
            (448, 512, 1, 0.0, true, None),
            (512, 384, 2, 1.0, false, Some(1)),
            (384, 512, 1, 0.0, false, Some(0)),
        ] {
            let (planned, seen) = run(model, case);
            let (peak, highest) = (planned.iter().max().unwrap(), seen.iter().max().unwrap());
            let label = format!("{name} {case:?}: {planned:?} planned, {seen:?} seen");
            table.at_most(&label, (*highest as f64 / *peak as f64 - 1.0).abs(), TOLERANCE);
        }
    }
    table.finish();
}

#[test]
fn what_cannot_fit_is_refused_with_what_would_do() {
    let pipeline = Model::convert("fp16", WeightType::F16).open(2);
    let case = (256, 192, 2, 1.0, false, None);
    let refuse = |pipeline: &Pipeline| match pipeline.generate(&request(case), &mut |_| panic!("it began")) {
        Err(Error::DoesNotFit { needed, advice, size, .. }) => (needed, advice, size),
        other => panic!("{other:?}"),
    };
    let (needed, advice, size) = refuse(&pipeline.with_max_memory(Some(1)));
    assert_eq!((size.as_str(), advice.as_str()), ("256x192", "no size fits"));
    let (_, advice, _) = refuse(&pipeline.with_max_memory(Some(needed - 1)));
    let (width, height) = advice
        .strip_prefix("a picture of ")
        .and_then(|advice| advice.strip_suffix(" fits"))
        .unwrap()
        .split_once('x')
        .unwrap();
    let smaller = (width.parse().unwrap(), height.parse().unwrap(), 2, 1.0, false, None);
    pipeline.with_max_memory(Some(needed - 1)).plan(&request(smaller)).unwrap();
    let fits = pipeline.with_max_memory(Some(needed)).plan(&request(case)).unwrap();
    assert_eq!(fits.peak(), needed, "the smallest limit that would do");
}
