//! What reads each kind of file.

use std::{fs, ops::ControlFlow, path::Path};

use sdq::{
    Cancel, Watch,
    add_ons::{AddOns, EmbeddingFile, LoraFile},
    convert::{self, ConvertOptions, ModelFiles},
    inspect::{self, InspectOptions},
    picture,
    recipe::Found,
    run::Unfinished,
    text::printable,
};
use sdq_engine::{
    Error, Pipeline, PipelineOptions, PromptReading, PromptSyntax, Request,
    tokenizer::{Tokenizer, TokenizerFiles},
};
use sdq_schedulers::SchedulerConfig;
use sdq_tests::goldens;

use crate::{
    Kind, Read,
    damage::{seal_png, seal_sdq},
    fixtures::{Fixtures, recipes},
};

/// All kinds of files.
pub(crate) fn all(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    [containers, add_ons, tokenizers, texts, pictures].into_iter().flat_map(|kinds| kinds(fixtures)).collect()
}

/// Files of tensors.
fn containers(fixtures: &Fixtures) -> Vec<Kind<'_>> {
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
    ]
}

/// Changes to a model, and a run that was saved.
fn add_ons(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    vec![
        kind(
            "lora",
            "safetensors",
            vec![fixtures.lora()],
            plain,
            Box::new(|path, _| {
                let loras = vec![LoraFile { path: path.to_owned(), strength: 0.5, text_strength: None }];
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

/// The files of tokenizers.
fn tokenizers(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    let vocabulary = move |name: &str| fs::read(fixtures.directory.file(name)).unwrap();
    vec![
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
    ]
}

/// Settings and prompts.
fn texts(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    let vocabulary = move |name: &str| fs::read(fixtures.directory.file(name)).unwrap();
    vec![
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
    ]
}

/// Pictures.
fn pictures(fixtures: &Fixtures) -> Vec<Kind<'_>> {
    vec![
        kind("png", "png", vec![fixtures.pictures("png")], seal_png, Box::new(|path, _| read_picture(path))),
        kind("jpeg", "jpg", vec![fixtures.pictures("jpg")], plain, Box::new(|path, _| read_picture(path))),
        kind("webp", "webp", vec![fixtures.pictures("webp")], plain, Box::new(|path, _| read_picture(path))),
    ]
}

/// A kind of file: what it is called, valid ones, and what reads them.
fn kind<'a>(
    name: &'static str,
    extension: &'static str,
    files: Vec<Vec<u8>>,
    seal: fn(&mut [u8]),
    read: Read<'a>,
) -> Kind<'a> {
    Kind { name, extension, files, seal, read }
}

/// Checksums that nobody repairs.
fn plain(_: &mut [u8]) {}

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

fn read_picture(path: &Path) -> bool {
    let filled = picture::read_within(path, 64 << 20).map(|seen| seen.picture.fill_within(64, 64, 64 << 20));
    // A recipe may be there where pixels are not.
    let described = inspected(path);
    told(filled) && described
}

fn tokenized(files: &TokenizerFiles<'_>) -> bool {
    let tokenizer = Tokenizer::new(files, 77, 1 << 16);
    // A vocabulary may lack what a prompt needs.
    told(tokenizer.map(|tokenizer| told(tokenizer.encode("a (red) apple, 1234 ☕ \u{1b}"))))
}
