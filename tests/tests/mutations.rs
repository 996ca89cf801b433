//! Files that somebody has damaged, by chance or on purpose: every reader gives an error or what is in the file. None
//! panics, and none takes more memory than a few times the file.
//!
//! The suite tries a few hundred damages of each kind of file. `SDQ_MUTATIONS=20000` tries so many of each, and
//! `SDQ_MUTATIONS_SEED` begins elsewhere; `docs/robustness.md` says how. The input under test lies in a folder below
//! `target/tmp/mutations`, also when the process was aborted.

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sdq::{
    Cancel, Watch,
    add_ons::{AddOns, EmbeddingFile, LoraFile},
    convert::{self, ConvertOptions, ModelFiles},
    inspect::{self, InspectOptions},
    picture::{self, Picture},
    recipe::{Found, Recipe},
    run::Unfinished,
    text::printable,
};
use sdq_engine::{
    Error, Event, Pipeline, PipelineOptions, PromptReading, PromptSyntax, Request,
    tokenizer::{Tokenizer, TokenizerFiles},
};
use sdq_formats::{WeightType, picture::PREVIEW};
use sdq_schedulers::SchedulerConfig;
use sdq_tests::{
    allocator::Counting,
    checkpoint::{ModelCopy, write_f32},
    goldens,
    models::Model,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Most bytes that reading a file may take: four times the file, and this.
const MEMORY: usize = 100 << 20;

/// Damages of each kind of file, unless the environment says otherwise.
const INPUTS: usize = 150;

/// Random numbers, the same ones for a seed on every machine: xorshift64*, Vigna 2016, arXiv:1402.6246.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Pieces that mean something to one reader or another.
const WORDS: [&[u8]; 26] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b"((((((((",
    b"\"",
    b"\\",
    b",",
    b":",
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"9223372036854775808",
    b"../../x",
    b"\x1b[2J",
    b"\xc2\x9b",
    b"\0",
    b"\xff\xfe",
    b"__metadata__",
    b"data_offsets",
    b"<lora:x:1>",
    b"\xf0\x9f\xa6\x8a",
    b"\n",
];

/// Numbers at which something changes.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];

/// `file` with one to six damages.
fn damaged(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        // Headers and tables stand at the beginning and at the end.
        let at = match random.below(4) {
            0 | 1 => random.below(bytes.len().min(2048)),
            2 => bytes.len() - 1 - random.below(bytes.len().min(4096)),
            _ => random.below(bytes.len()),
        };
        let longest = 1 << random.below(12);
        let end = at + random.below((bytes.len() - at).min(longest) + 1);
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 << random.below(6);
                bytes.splice(at..at, piece.repeat(times));
            }
            5 => {
                let word = random.one_of(&WORDS);
                bytes.splice(at..at, word.iter().copied());
            }
            6 => bytes.truncate(at),
            7 => replace_number(&mut bytes, at, random),
            _ => {
                let from = random.below(bytes.len());
                let piece = bytes[from..(from + end - at).min(bytes.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

/// Puts another number in place of the decimal one at or after `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = NUMBERS[random.below(NUMBERS.len())].to_string();
    bytes.splice(start..start + len, number.into_bytes());
}

/// Makes the checksums of an `.sdq` file right, so that what stands behind them is reached.
fn seal_sdq(bytes: &mut [u8]) {
    let Some(table) = bytes.get(24..32).map(|field| u64::from_le_bytes(field.try_into().unwrap())) else {
        return;
    };
    let (table, len) = (usize::try_from(table).unwrap_or(usize::MAX), bytes.len());
    if len < 64 || table > len {
        return;
    }
    let checksum = crc32fast::hash(&bytes[table..]);
    bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    bytes[32..40].copy_from_slice(&((len - table) as u64).to_le_bytes());
    bytes[40..44].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
}

/// The same for the chunks of a PNG file, as far as their lengths lead.
fn seal_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 4) {
        let len = u32::from_be_bytes(head.try_into().unwrap()) as usize;
        let Some(end) = at.checked_add(8 + len).filter(|end| end + 4 <= bytes.len()) else { break };
        let checksum = crc32fast::hash(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}

/// A kind of file: valid ones, and what reads them. `read` tells whether it was accepted.
struct Kind<'a> {
    name: &'static str,
    extension: &'static str,
    files: Vec<Vec<u8>>,
    seal: fn(&mut [u8]),
    read: Box<dyn Fn(&Path, &[u8]) -> bool + 'a>,
}

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

fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    // Notes are shown as a front end would.
    let mut observer = |event: sdq::Event| {
        if let sdq::Event::Note(note) = event {
            let _ = printable(&note.to_string(), 8000).len();
        }
    };
    work(&mut Watch::new(&mut observer, &Cancel::new()))
}

/// Whether it worked; an error is put into words, as a front end would.
fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> bool {
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    result.is_ok()
}

fn inspected(path: &Path) -> bool {
    told(inspect::file(path, InspectOptions { verify: true, whole: true }))
}

fn open(path: &Path) -> Result<Pipeline, Error> {
    Pipeline::open(
        path,
        &PipelineOptions { threads: std::num::NonZeroUsize::new(1), ..PipelineOptions::default() },
    )
}

fn read_golden(name: &str) -> Vec<u8> {
    fs::read(goldens::folder(name)).unwrap()
}

/// The golden model with the smallest vocabulary, as files and open.
struct Fixtures {
    pipeline: Pipeline,
    model: Vec<u8>,
    folder: tempfile::TempDir,
    directory: ModelCopy,
}

impl Fixtures {
    fn new() -> Fixtures {
        let model = Model::convert("old", WeightType::Q8);
        let (pipeline, model) = (model.open(1), fs::read(model.path()).unwrap());
        Fixtures { pipeline, model, folder: tempfile::tempdir().unwrap(), directory: ModelCopy::of("old") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn written(&self, name: &str, write: impl FnOnce(&Path)) -> Vec<u8> {
        let path = self.file(name);
        write(&path);
        fs::read(path).unwrap()
    }

    fn lora(&self) -> Vec<u8> {
        let weights = self.pipeline.weights();
        let (_, specs) = weights.iter().find(|(component, _)| *component == "unet").unwrap();
        let spec = specs.iter().find(|spec| spec.name.ends_with("attn1.to_q.weight")).unwrap();
        let module = spec.name.trim_end_matches(".weight");
        let (rows, columns) = (spec.shape[0], spec.shape[1..].iter().product::<usize>());
        let [down, up] = ["down", "up"].map(|part| format!("unet.{module}.lora.{part}.weight"));
        let values = vec![0.1; rows.max(columns)];
        self.written("lora.safetensors", |path| {
            let down = (down.as_str(), &[1, columns][..], &values[..columns]);
            write_f32(path, &[down, (up.as_str(), &[rows, 1][..], &values[..rows])]);
        })
    }

    fn saved_run(&self) -> Vec<u8> {
        let path = self.file("a.png.sdq-run");
        let request = Request::new("a (red:1.2) apple").size(16, 16).steps(3).count(2).scheduler("unipc");
        let result = self.pipeline.generate(&request, &mut |event: Event<'_>| {
            if let Event::Saveable(checkpoint) = event {
                checkpoint.save(&path, &[("sdq.files", r#"{"output":"/x/a.png"}"#)]).unwrap();
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(Error::Cancelled { .. })));
        fs::read(path).unwrap()
    }

    fn pictures(&self, extension: &str) -> Vec<u8> {
        let rgb = (0..3 * 24 * 16).map(|index| (index * 7 % 256) as u8).collect();
        let picture = Picture { width: 24, height: 16, rgb };
        let recipe = Recipe {
            model: "m".to_owned(),
            request: Request::new("a ☕ <lora:x:1>").steps(3),
            ..Recipe::default()
        };
        let texts = recipe.texts();
        let mut texts = texts.each_ref().map(|(key, text)| (*key, text.as_str())).to_vec();
        texts.push((PREVIEW, "p"));
        self.written(&format!("picture.{extension}"), |path| picture::write(path, &picture, &texts).unwrap())
    }
}

fn read_picture(path: &Path) -> bool {
    let filled = picture::read_within(path, 64 << 20).map(|picture| picture.fill_within(64, 64, 64 << 20));
    // A recipe may be there where pixels are not.
    let described = inspected(path);
    told(filled) && described
}

fn kinds(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    let plain: fn(&mut [u8]) = |_| {};
    let kind = |name, extension, files, seal, read| Kind { name, extension, files, seal, read };
    let vocabulary = move |name: &str| fs::read(fixtures.directory.file(name)).unwrap();
    vec![
        kind(
            "sdq",
            "sdq",
            vec![fixtures.model.clone()],
            seal_sdq,
            Box::new(|path, _| {
                let described = inspected(path);
                told(open(path).and_then(|pipeline| pipeline.plan(&Request::new("a cat").size(16, 16))))
                    && described
            }),
        ),
        kind(
            "safetensors",
            "safetensors",
            vec![read_golden("pickles/zip.safetensors"), fixtures.lora()],
            plain,
            Box::new(|path, _| inspected(path)),
        ),
        kind(
            "pickle",
            "pt",
            ["zip", "legacy", "protocol4", "lightning", "embedding"]
                .map(|name| read_golden(&format!("pickles/{name}.pt")))
                .to_vec(),
            plain,
            Box::new(|path, _| inspected(path)),
        ),
        kind(
            "gguf",
            "gguf",
            vec![read_golden("ggufs/comfy.gguf"), read_golden("ggufs/formats.gguf")],
            plain,
            Box::new(|path, _| inspected(path)),
        ),
        kind(
            "lora",
            "safetensors",
            vec![fixtures.lora()],
            plain,
            Box::new(|path, _| {
                let loras = vec![LoraFile { path: path.to_owned(), strength: 0.5 }];
                let add_ons = AddOns { loras, ..AddOns::default() };
                told(watched(|watch| add_ons.apply(fixtures.pipeline.clone(), None, watch)))
            }),
        ),
        kind(
            "embedding",
            "pt",
            vec![read_golden("pickles/embedding.pt")],
            plain,
            Box::new(|path, _| {
                let embeddings = vec![EmbeddingFile { path: path.to_owned(), word: Some("w".to_owned()) }];
                let add_ons = AddOns { embeddings, ..AddOns::default() };
                // Its width is another model's: it is read, and then refused.
                let _ = told(watched(|watch| add_ons.apply(fixtures.pipeline.clone(), None, watch)));
                inspected(path)
            }),
        ),
        kind(
            "vocabulary",
            "json",
            vec![vocabulary("tokenizer/vocab.json")],
            plain,
            Box::new(move |_, bytes| {
                let (vocab, merges) = (String::from_utf8_lossy(bytes), vocabulary("tokenizer/merges.txt"));
                let merges = String::from_utf8(merges).unwrap();
                tokenized(&TokenizerFiles {
                    vocab: Some(&vocab),
                    merges: Some(&merges),
                    ..TokenizerFiles::default()
                })
            }),
        ),
        kind(
            "merges",
            "txt",
            vec![vocabulary("tokenizer/merges.txt")],
            plain,
            Box::new(move |_, bytes| {
                let (vocab, merges) = (vocabulary("tokenizer/vocab.json"), String::from_utf8_lossy(bytes));
                let vocab = String::from_utf8(vocab).unwrap();
                tokenized(&TokenizerFiles {
                    vocab: Some(&vocab),
                    merges: Some(&merges),
                    ..TokenizerFiles::default()
                })
            }),
        ),
        kind(
            "tokenizer",
            "json",
            vec![fs::read(goldens::folder("fp16").join("model/tokenizer/tokenizer.json")).unwrap()],
            plain,
            Box::new(|_, bytes| {
                let text = String::from_utf8_lossy(bytes);
                tokenized(&TokenizerFiles { tokenizer: Some(&text), ..TokenizerFiles::default() })
            }),
        ),
        kind(
            "config",
            "json",
            vec![vocabulary("unet/config.json")],
            plain,
            Box::new(|_, bytes| {
                fs::write(fixtures.directory.file("unet/config.json"), bytes).unwrap();
                let files =
                    ModelFiles { model: Some(fixtures.directory.path().to_owned()), ..ModelFiles::default() };
                told(watched(|watch| {
                    convert::dry_run(&convert::open(&files, watch)?, &ConvertOptions::default())
                }))
            }),
        ),
        kind(
            "scheduler",
            "json",
            vec![vocabulary("scheduler/scheduler_config.json")],
            plain,
            Box::new(|_, bytes| {
                let config = SchedulerConfig::from_json(&String::from_utf8_lossy(bytes));
                told(config.and_then(|config| sdq_schedulers::create("ddim", &config, 5).map(drop)))
            }),
        ),
        kind(
            "prompt",
            "txt",
            vec![b"a (red:1.2) ((apple)) on [blue] \\(table\\) BREAK, <lora:x:0.5> AND a cat".to_vec()],
            plain,
            Box::new(|_, bytes| {
                let prompt = String::from_utf8_lossy(bytes);
                let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None };
                told(fixtures.pipeline.encode_prompts_as(&[&prompt], reading))
            }),
        ),
        kind("png", "png", vec![fixtures.pictures("png")], seal_png, Box::new(|path, _| read_picture(path))),
        kind("jpeg", "jpg", vec![fixtures.pictures("jpg")], plain, Box::new(|path, _| read_picture(path))),
        kind("webp", "webp", vec![fixtures.pictures("webp")], plain, Box::new(|path, _| read_picture(path))),
        kind(
            "recipe",
            "txt",
            recipes(),
            plain,
            Box::new(|_, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let found = |keyword: &str| Found::from_texts(&[(keyword.to_owned(), text.clone())]);
                // One of them may be its keyword.
                ["sdq", "parameters", "prompt", "invokeai_metadata", "Comment"]
                    .map(|keyword| told(found(keyword)))
                    .contains(&true)
            }),
        ),
        kind(
            "saved-run",
            "png.sdq-run",
            vec![fixtures.saved_run()],
            plain,
            Box::new(|path, _| {
                let Ok(unfinished) = Unfinished::open(path) else { return false };
                assert!(
                    unfinished.files.output.parent().is_none_or(
                        |folder| folder == path.parent().unwrap() || folder.as_os_str().is_empty()
                    )
                );
                // A run that goes on is stopped before its first step.
                let resumed = fixtures.pipeline.resume(&unfinished.saved, &mut |_| ControlFlow::Break(()));
                match resumed {
                    Ok(_) | Err(Error::Cancelled { .. }) => true,
                    Err(error) => told(Err::<(), _>(error)),
                }
            }),
        ),
    ]
}

/// Recipes as programs write them.
fn recipes() -> Vec<Vec<u8>> {
    let own = Recipe { request: Request::new("a fox").steps(3), ..Recipe::default() };
    let comfy = r#"{"3":{"class_type":"KSampler","inputs":{"seed":5,"steps":20,"cfg":8.0,"sampler_name":"euler",
        "scheduler":"normal","denoise":1.0,"positive":["6",0],"negative":["7",0],"latent_image":["5",0]}},
        "5":{"class_type":"EmptyLatentImage","inputs":{"width":512,"height":512,"batch_size":1}},
        "6":{"class_type":"CLIPTextEncode","inputs":{"text":"a fox"}},"7":{"class_type":"CLIPTextEncode","inputs":{"text":"x"}}}"#;
    let parameters = "a fox <lora:ink:0.8>\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG \
                      scale: 7, Seed: 42, Size: 512x512, Model hash: abc, Model: m, Clip skip: 2, Version: v1.9";
    vec![own.json().to_string().into_bytes(), comfy.as_bytes().to_vec(), parameters.as_bytes().to_vec()]
}

fn tokenized(files: &TokenizerFiles<'_>) -> bool {
    let tokenizer = Tokenizer::new(files, 77, 1 << 16);
    // A vocabulary may lack what a prompt needs.
    told(tokenizer.map(|tokenizer| told(tokenizer.encode("a (red) apple, 1234 ☕ \u{1b}"))))
}

#[test]
fn damaged_files_neither_panic_nor_take_much_memory() {
    let inputs = number("SDQ_MUTATIONS", INPUTS as u64) as usize;
    let seed = number("SDQ_MUTATIONS_SEED", 1);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    fs::create_dir_all(&folder).unwrap();
    let fixtures = Fixtures::new();
    let only = std::env::var("SDQ_MUTATIONS_OF").ok();
    let mut failures: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for kind in kinds(&fixtures).iter().filter(|kind| only.as_deref().is_none_or(|only| only == kind.name)) {
        failures.insert(kind.name, kind.run(&folder, inputs, seed));
    }
    let failures: Vec<String> = failures.into_values().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
