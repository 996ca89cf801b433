//! `sdq generate`: prompts → picture files.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
    time::Instant,
};

use anyhow::Context as _;
use sdq::{
    MemoryBudget, Pipeline, Request, Session,
    add_ons::AddOns,
    batch::Entry,
    model,
    recipe::Source,
    request::PromptSyntax,
    run::{self, RunFiles, SideFile, Written},
};

use crate::{
    args::{GenerateArgs, SeedArg},
    config, interrupt,
    job::{self, Asked},
    sheet,
    streams::{self, Streamed},
    terminal,
};

/// The output file if no flag names one and it does not exist.
const DEFAULT_OUTPUT: &str = "sdq.png";

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    // From the start, so that a run that is interrupted before its first step can be resumed too.
    interrupt::listen();
    let streamed = Streamed::of(args)?;
    let model = config::model(args.model.as_deref())?;
    let pipeline = model::open(model.as_deref(), &args.run.options()?)?;
    let entries = args.prompts.as_deref().map(job::entries).transpose()?;
    if let Some(path) = &args.sheet {
        sheet::check(path, entries.as_ref().map_or(1, Vec::len).saturating_mul(args.count))?;
    }
    let asked = job::read(args, streamed.init_image())?;
    let started = Instant::now();
    let is_batch = entries.as_ref().is_some_and(|entries| entries.len() > 1);
    let (opened, told) = (RefCell::new(None), Cell::new(false));
    let draw = Draw { args, model, pipeline, streamed, is_batch, opened, told };
    let written = match entries {
        None => draw.one(&asked, asked.request.clone(), args.seed.is_some(), &draw.output(None))?,
        Some(entries) => draw.all(&asked, &entries)?,
    };
    if let Some(path) = &args.sheet {
        sheet::write(path, &written)?;
    }
    if draw.streamed.to_stdout() {
        return streams::copy_picture(&written);
    }
    crate::run::report(args.save_latents.as_deref(), args.run.json, &written, started);
    if let Some(path) = args.sheet.as_ref().filter(|_| !args.run.json) {
        say!("{}", path.display());
    }
    Ok(())
}

/// The parts of all runs of one command.
struct Draw<'a> {
    args: &'a GenerateArgs,
    model: Option<PathBuf>,
    /// Without add-ons.
    pipeline: Pipeline,
    streamed: Streamed,
    /// Whether there are several prompts.
    is_batch: bool,
    /// The model of the last prompt.
    opened: RefCell<Option<Rc<Opened>>>,
    /// Whether the limits of the built-in model have been told: once per command.
    told: Cell<bool>,
}

/// The model with the add-ons of a prompt.
struct Opened {
    add_ons: AddOns,
    pipeline: Pipeline,
    /// Keeps the graphs for the next prompt. A single run drops them as soon as it can, which takes less memory.
    session: Option<Session>,
}

impl Draw<'_> {
    /// The model with `add_ons`: that of the last prompt if it has the same ones.
    fn open(&self, add_ons: &AddOns) -> anyhow::Result<Rc<Opened>> {
        let mut last = self.opened.borrow_mut();
        if let Some(opened) = last.as_ref().filter(|opened| opened.add_ons == *add_ons) {
            return Ok(opened.clone());
        }
        // Its graphs make room for those of the next one.
        *last = None;
        let args = &self.args.run;
        let model = self.pipeline.clone();
        let pipeline = terminal::watched(|watch| add_ons.apply(model, args.device.threads, watch))?;
        let budget = MemoryBudget::new(args.max_memory);
        let session = self.is_batch.then(|| Session::new(pipeline.clone(), &budget)).transpose()?;
        Ok(last.insert(Rc::new(Opened { add_ons: add_ons.clone(), pipeline, session })).clone())
    }

    /// The output of the run for prompt number `number`, if there are several, and whether the user named it.
    fn output(&self, number: Option<usize>) -> (PathBuf, bool) {
        let (output, is_named) = match (self.streamed.output(), &self.args.output) {
            (Some(output), _) => (output, true),
            (None, Some(output)) => (output.clone(), true),
            (None, None) => (PathBuf::from(DEFAULT_OUTPUT), false),
        };
        (number.map_or(output.clone(), |number| run::numbered(&output, number)), is_named)
    }

    /// Draws all prompts of a file, one after the other.
    fn all(&self, asked: &Asked, entries: &[Entry]) -> anyhow::Result<Vec<Written>> {
        let mut all = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let request = entry.request(&asked.request)?;
            let is_given = self.args.seed.is_some() || entry.has("seed");
            let has_seed = is_given && !entry.asks_for_random_seed();
            let number = (entries.len() > 1).then_some(index + 1);
            note!("prompt {} of {}: {}", index + 1, entries.len(), request.prompt);
            all.extend(self.one(asked, request, has_seed, &self.output(number))?);
        }
        Ok(all)
    }

    /// Draws the pictures of `request`, which has the pictures and add-ons of `asked`.
    fn one(
        &self,
        asked: &Asked,
        mut request: Request,
        has_seed: bool,
        (output, is_named): &(PathBuf, bool),
    ) -> anyhow::Result<Vec<Written>> {
        let args = self.args;
        let add_ons = job::add_ons(args, asked, &mut request)?;
        if !has_seed && !asked.source.as_ref().is_some_and(|source| source.found.has_seed) {
            request.seed = job::number(SeedArg::Random, "seed");
        }
        let opened = self.open(&add_ons)?;
        let pipeline = &opened.pipeline;
        self.check_prompts(pipeline, &request, asked.source.as_ref())?;
        let settings = pipeline.settings(&request)?;
        terminal::watched(|watch| run::note_without_effect(pipeline, &settings, watch));
        if self.model.is_none() && !self.told.replace(true) {
            terminal::watched(|watch| model::note_beyond_built_in(pipeline, &settings, watch))?;
        }
        let count = settings.request.count;
        let output = if *is_named { output.clone() } else { run::free_output(output, count)? };
        let files = RunFiles {
            model: absolute(self.model.as_deref())?,
            output,
            save_latents: args.save_latents.clone(),
            init_image: asked.init_image.clone(),
            mask: asked.mask.clone(),
            add_ons: add_ons.absolute()?,
            is_temporary: self.streamed.to_stdout(),
        };
        self.check_files(&files, count)?;
        crate::run::run(pipeline, &files, count, &args.run, |options, watch| match &opened.session {
            Some(session) => session.generate(&request, &files, options, watch),
            None => run::generate(pipeline, &request, &files, options, watch),
        })
    }

    /// Checks that words have an effect, and reports what else about the prompts has none.
    fn check_prompts(
        &self,
        pipeline: &Pipeline,
        request: &Request,
        source: Option<&Source>,
    ) -> anyhow::Result<()> {
        // A word of the recipe may be missing in a prompt from a flag.
        let given = AddOns { embeddings: self.args.add_ons.embeddings.clone(), ..AddOns::default() };
        given.check_used(pipeline, &[&request.prompt, &request.negative_prompt], request.reading.syntax)?;
        if let Some(source) = source {
            terminal::watched(|watch| source.note_differences(pipeline, watch));
        }
        for prompt in [&request.prompt, &request.negative_prompt] {
            let surplus = pipeline.surplus_tokens(prompt)?;
            if request.reading.syntax == PromptSyntax::Plain && surplus > 0 {
                note!("note: the prompt is too long, and the model does not read the last {surplus} tokens");
            }
        }
        Ok(())
    }

    /// Checks that the files can be written, and that none is replaced that the user did not name.
    fn check_files(&self, files: &RunFiles, count: usize) -> anyhow::Result<()> {
        let args = self.args;
        let mut also_read: Vec<(&str, &Path)> =
            args.run.preview_vae.iter().map(|path| ("the previews' VAE", &**path)).collect();
        also_read.extend(args.from.as_deref().map(|path| ("the picture with the recipe", path)));
        also_read.extend(args.prompts.as_deref().map(|path| ("the file of prompts", path)));
        // A second Ctrl-C waits for the files that try whether something can be written.
        interrupt::while_writing(|| files.check(count, &also_read))?;
        let mut pictures = files.pictures(count)?;
        if let Some(sheet) = &args.sheet {
            interrupt::while_writing(|| files.check_beside(count, "the contact sheet", sheet))?;
            pictures.push(sheet.clone());
        }
        if !args.force {
            run::check_replaced(&pictures, files.save_latents.as_deref())?;
        }
        let saved_run = files.saved_run();
        if SideFile::SavedRun.is_at(&saved_run) {
            let path = saved_run.display();
            note!("note: this run replaces the unfinished run `{path}`, which `sdq resume` would finish");
        }
        Ok(())
    }
}

fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().context("the current folder does not exist")
}
