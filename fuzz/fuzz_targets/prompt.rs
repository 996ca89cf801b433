//! Any text as a prompt, with weights, plain and with tags: an error or text states, never a panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sdq::{
    Cancel, Pipeline, PipelineOptions, Watch,
    add_ons::AddOns,
    request::{PromptReading, PromptSyntax},
};

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    let options = PipelineOptions { threads: std::num::NonZeroUsize::new(1), ..PipelineOptions::default() };
    sdq::model::open(None, &options).expect("the built-in model opens")
});

fuzz_target!(|data: &[u8]| {
    let mut prompt = String::from_utf8_lossy(data).into_owned();
    for syntax in [PromptSyntax::Plain, PromptSyntax::Weighted] {
        let _ = PIPELINE.encode_prompts_as(&[&prompt], PromptReading { syntax, clip_skip: None });
    }
    let mut negative_prompt = prompt.clone();
    let mut observer = |_| {};
    let mut watch = Watch::new(&mut observer, &Cancel::new());
    let _ = AddOns::default().take_tags(&mut prompt, &mut negative_prompt, None, &mut watch);
});
