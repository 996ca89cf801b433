use super::*;

#[test]
fn notes_are_sentences() {
    let path = || PathBuf::from("a.pt");
    let layers = |count: usize| (0..count).map(|i| format!("l{i}")).collect::<Vec<_>>();
    let left_out = |names, more| Note::LeftOut { count: 9, why: "of training", names, more };
    for (note, sentence) in [
        (
            Note::LoraApplied { path: path(), applied: 3, modules: 4, strength: 0.5, text_strength: None },
            "a.pt: the LoRA changes 3 of 4 layers with strength 0.5",
        ),
        (
            Note::LoraApplied {
                path: path(),
                applied: 3,
                modules: 4,
                strength: 1.0,
                text_strength: Some(0.5),
            },
            "a.pt: the LoRA changes 3 of 4 layers with strength 1, in text encoders with strength 0.5",
        ),
        (
            Note::TagUnused("<hypernet:x:1>".to_owned()),
            "warning: <hypernet:x:1> is left out: sdq supports only <lora:NAME:STRENGTH>",
        ),
        (
            Note::WithoutGuidance("the negative prompt"),
            "warning: the negative prompt has no effect because the run is not guided: the guidance scale is 1 or \
             less, both prompts are the same, or the model was trained to do without guidance",
        ),
        (
            Note::MoreEvaluations { scheduler: "heun".to_owned(), steps: 2, evaluations: 3 },
            "note: heun evaluates the model 3 times in 2 steps, and each evaluation counts as one",
        ),
        (
            Note::BeyondBuiltIn {
                description: "One of 80 things.".to_owned(),
                words: vec!["castle".to_owned(), "photo".to_owned()],
                size: Some((64, 64)),
            },
            "note: the built-in model is small (One of 80 things), and it does not know `castle`, `photo` and it was \
             trained for 64x64 pixels; for anything else convert a model with `sdq convert` and give it with --model",
        ),
        (
            Note::TagNotClosed("<lora:x:1".to_owned()),
            "warning: <lora:x:1 is read as words, because no > follows it",
        ),
        (
            Note::NoSuchWord("ink".to_owned()),
            "warning: embedding:ink is read as words, because no embedding has this name; give its file with --embedding",
        ),
        (
            Note::TagSaysMore("<lora:x:1:dyn=4>".to_owned()),
            "warning: only the strengths of <lora:x:1:dyn=4> are used, for text encoders and for the U-Net",
        ),
        (
            Note::NegativeTag("<lora:x:1>".to_owned()),
            "warning: <lora:x:1> is left out of the negative prompt; write it in the prompt",
        ),
        (Note::LoraUnmatched { path: path(), layers: layers(2), more: 0 }, "a.pt: the model lacks l0, l1"),
        (
            Note::LoraUnmatched { path: path(), layers: layers(1), more: 1 },
            "a.pt: the model lacks l0 and 1 more",
        ),
        (
            Note::WordAdded { path: path(), word: "<cat>".to_owned(), vectors: 8 },
            "a.pt: `<cat>` stands for 8 vectors",
        ),
        (
            Note::WordAdded { path: path(), word: "ink".to_owned(), vectors: 1 },
            "a.pt: `ink` stands for one vector",
        ),
        (Note::Transparent { path: path() }, "a.pt: transparent pixels become white"),
        (Note::VaeReplaced { path: path() }, "a.pt: this VAE replaces the model's"),
        (
            Note::Recognised {
                path: path(),
                family: "SDXL",
                class_name: "StableDiffusionXLPipeline".to_owned(),
            },
            "a.pt: the model is SDXL (StableDiffusionXLPipeline)",
        ),
        (Note::Predicts("noise".to_owned()), "the model predicts noise"),
        (Note::Remark("one of two is read".to_owned()), "one of two is read"),
        (left_out(Vec::new(), 9), "9 tensors of training are left out"),
        (
            Note::LeftOut { count: 1, why: "of training", names: layers(1), more: 0 },
            "one tensor of training is left out: l0",
        ),
        (left_out(layers(2), 0), "9 tensors of training are left out: l0, l1"),
        (left_out(layers(2), 7), "9 tensors of training are left out: l0, l1 and 7 more"),
        (
            Note::ForeignRecipe { program: "ComfyUI" },
            "note: ComfyUI drew the picture with other noise, so the new picture is similar at best",
        ),
        (Note::RecipeUnused("ENSD: 1".to_owned()), "warning: a part of the recipe is not used: ENSD: 1"),
        (Note::RecipeDiffers("it differs".to_owned()), "warning: it differs"),
        (
            Note::RecipeFileMissing { name: "ink".to_owned() },
            "warning: the recipe needs `ink`, which is neither in --lora-dir nor beside the picture",
        ),
        (
            Note::NotForEditing,
            "warning: the image guidance scale has no effect because the model was not trained to edit pictures",
        ),
        (
            Note::MaskCut { path: "m.png".into(), mask: (64, 128), picture: (64, 64) },
            "m.png: warning: the mask has 64x128 pixels and the start picture 64x64: the ends of the longer side are cut off, \
             so the mask covers other parts than where it was drawn",
        ),
        (
            Note::NothingToDraw { path: "m.png".into() },
            "m.png: warning: no part of the mask is white, so nothing is drawn; make it white where the picture is to change",
        ),
        (Note::FolderMade { path: "out".into() }, "out: warning: the folder had vanished and was made again"),
        (Note::NoPreview("no memory".to_owned()), "warning: the preview cannot be shown: no memory"),
        (
            Note::NotSaved("the disk is full".to_owned()),
            "warning: the unfinished run cannot be saved: the disk is full",
        ),
        (
            Note::Fitting { moves: 3, of: 8, psnr: 33.333 },
            "the similarity is 33.3 dB after 3 of 8 moves towards the smallest file",
        ),
    ] {
        assert_eq!(note.to_string(), sentence);
    }
}

/// Recipes may come from pictures of strangers.
#[test]
fn texts_of_recipes_are_shown_without_controls_and_not_at_length() {
    let text = || format!("\u{1b}[2J{}", "x".repeat(2 * SHOWN_CHARS));
    for note in [
        Note::RecipeUnused(text()),
        Note::RecipeDiffers(text()),
        Note::RecipeFileMissing { name: text() },
        Note::TagUnused(text()),
        Note::TagNotClosed(text()),
        Note::NoSuchWord(text()),
        Note::TagSaysMore(text()),
        Note::NegativeTag(text()),
    ] {
        let shown = note.to_string();
        assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}") && shown.contains('…'), "{shown}");
        assert!(shown.chars().count() < SHOWN_CHARS + 120, "{shown}");
    }
}

#[test]
fn tasks_are_called_and_counted_by_what_they_do() {
    let converting = Task::Converting { component: "unet".to_owned() };
    for (task, name, unit) in [
        (converting, "unet", "tensor"),
        (Task::Measuring, "measuring", "weight"),
        (Task::Calibrating, "calibrating", "step"),
        (Task::Comparing, "comparing", "step"),
        (Task::ReadingPrompt, "reading the prompt", "step"),
        (Task::Drawing, "drawing", "step"),
    ] {
        assert_eq!((task.to_string().as_str(), task.unit()), (name, unit));
    }
}

#[test]
fn a_watch_tells_in_order_and_shares_its_token() {
    let mut told = Vec::new();
    let mut observer = |event| told.push(event);
    let cancel = Cancel::new();
    let mut watch = Watch::new(&mut observer, &cancel);
    watch.progress(Task::Drawing, 1, 2);
    watch.note(Note::NoPreview("x".to_owned()));
    watch.tell(Event::TaskEnded);
    cancel.cancel();
    assert!(watch.cancel().is_cancelled());
    let expected = [
        Event::Progress { task: Task::Drawing, done: 1, total: 2 },
        Event::Note(Note::NoPreview("x".to_owned())),
        Event::TaskEnded,
    ];
    assert_eq!(told, expected);
}
