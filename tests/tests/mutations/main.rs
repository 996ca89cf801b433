//! Files that somebody has damaged, by chance or on purpose: every reader gives an error or what is in the file. None
//! panics, and none takes more memory than a few times the file.
//!
//! The suite tries 150 damages of each kind of file. `SDQ_MUTATIONS=20000` tries so many of each, and
//! `SDQ_MUTATIONS_SEED` begins elsewhere; `docs/robustness.md` says how. The input under test lies in a folder below
//! `target/tmp/mutations`, also when the process was aborted.

mod damage;
mod fixtures;
mod kinds;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use sdq_tests::allocator::Counting;

use damage::{Random, damaged};
use fixtures::Fixtures;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Most bytes that reading a file may take: four times the file, and this.
const MEMORY: usize = 100 << 20;

/// Damages of each kind of file, unless the environment says otherwise.
const INPUTS: usize = 150;

/// A kind of file: valid ones, and what reads them.
pub(crate) struct Kind<'a> {
    name: &'static str,
    extension: &'static str,
    files: Vec<Vec<u8>>,
    seal: fn(&mut [u8]),
    read: Read<'a>,
}

/// Reads the file at a path, whose content is known, and tells whether it was accepted.
pub(crate) type Read<'a> = Box<dyn Fn(&Path, &[u8]) -> bool + 'a>;

impl Kind<'_> {
    /// Reads damaged files; what went wrong, a line each.
    fn run(&self, folder: &Path, inputs: usize, seed: u64) -> Vec<String> {
        let path = folder.join(format!("{}.{}", self.name, self.extension));
        let (mut accepted, mut peak, mut slowest) = (0, 0, Duration::ZERO);
        let mut failures = Vec::new();
        for input in 0..inputs as u64 {
            let mut random = Random::new(seed.wrapping_add(input));
            let file = &self.files[random.below(self.files.len())];
            // The first are the files themselves: they are accepted.
            let mut bytes = match (input as usize) < self.files.len() {
                true => self.files[input as usize].clone(),
                false => damaged(file, &mut random),
            };
            if random.below(4) > 0 {
                (self.seal)(&mut bytes);
            }
            fs::write(&path, &bytes).unwrap();
            let started = Instant::now();
            let read = || catch_unwind(AssertUnwindSafe(|| (self.read)(&path, &bytes)));
            let (read, taken) = ALLOCATOR.peak_of(read);
            slowest = slowest.max(started.elapsed());
            peak = peak.max(taken);
            let problem = match read {
                Err(_) => "panicked".to_owned(),
                Ok(false) if (input as usize) < self.files.len() => {
                    "refused, and nobody had damaged it".to_owned()
                }
                Ok(_) if taken > MEMORY + 4 * bytes.len() => {
                    format!("took {taken} bytes for {}", bytes.len())
                }
                Ok(read) => {
                    accepted += usize::from(read);
                    continue;
                }
            };
            let kept = path.with_extension(format!("{}.{}", seed.wrapping_add(input), self.extension));
            fs::write(&kept, &bytes).unwrap();
            failures.push(format!("{}: {problem}: {}", self.name, kept.display()));
        }
        println!(
            "{:<12} {inputs:>7} inputs, {accepted:>7} accepted, {:>6.1} MB at most, {slowest:.1?} at most",
            self.name,
            peak as f64 / 1e6
        );
        failures
    }
}

/// The number in an environment variable.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`")))
}

#[test]
fn damaged_files_neither_panic_nor_take_much_memory() {
    let inputs = number("SDQ_MUTATIONS", INPUTS as u64) as usize;
    let seed = number("SDQ_MUTATIONS_SEED", 1);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    fs::create_dir_all(&folder).unwrap();
    let fixtures = Fixtures::new();
    let kinds = kinds::all(&fixtures);
    let documented =
        include_str!("../../../docs/robustness.md").split_whitespace().collect::<Vec<_>>().join(" ");
    for figure in
        [format!("valid files of {} kinds", kinds.len()), format!("The suite tries {INPUTS} of each kind")]
    {
        assert!(documented.contains(&figure), "docs/robustness.md: {figure}");
    }
    let only = std::env::var("SDQ_MUTATIONS_OF").ok();
    let mut failures = Vec::new();
    for kind in kinds.iter().filter(|kind| only.as_deref().is_none_or(|only| only == kind.name)) {
        failures.extend(kind.run(&folder, inputs, seed));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
