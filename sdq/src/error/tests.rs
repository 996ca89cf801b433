use sdq_schedulers::StepLimit;

use super::*;

#[test]
fn codes_are_unique_and_listed_in_the_documentation() {
    let listed = include_str!("../../../docs/errors.md");
    let rows: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(code, _)| code))
        .collect();
    let codes: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(rows, codes);
    let unique: std::collections::HashSet<&str> = codes.iter().copied().collect();
    assert_eq!(unique.len(), codes.len());
}

#[test]
fn the_field_of_a_wrong_value_is_known() {
    let of_request = EngineError::Request { field: "width", found: "9".to_owned(), expected: "8".to_owned() };
    let option = Error::Option { option: "output", problem: "it is missing".to_owned() };
    let unknown = sdq_schedulers::find("no such scheduler").unwrap_err();
    for (error, field) in [
        (of_request.into(), Some("width")),
        (option.in_file("a.png".as_ref()), Some("output")),
        (EngineError::Scheduler(unknown).into(), Some("scheduler")),
        (Error::LoraTag("x".to_owned()), Some("prompt")),
        (Error::SessionEnded, None),
    ] {
        assert_eq!(error.field(), field, "{error}");
    }
}

#[test]
fn kinds_look_through_what_wraps_an_error() {
    let cancelled = || EngineError::Cancelled { step: 1, steps: 2 };
    assert_eq!(Error::from(cancelled()).code(), "cancelled");
    let in_file = Error::from(cancelled()).in_file(Path::new("a.pt"));
    assert_eq!((in_file.code(), in_file.to_string().as_str()), ("cancelled", "a.pt: stopped at step 1 of 2"));
    let stopped = ConvertError::Cancelled { done: 1, total: 2 };
    assert_eq!(Error::from(stopped).kind(), ErrorKind::Cancelled);
    let steps = SchedulerError::StepCount { found: 0, max: 1000, limit: StepLimit::Training };
    assert_eq!(Error::from(EngineError::from(steps)).code(), "request.invalid");
    let missing = PublishedError::NotFound { path: "x".into() };
    assert_eq!(Error::from(missing).code(), "model.not_found");
}

fn file_problem(problem: impl Into<SdqProblem>) -> SdqError {
    SdqError { path: "a.sdq".into(), problem: Box::new(problem.into()) }
}

fn io_error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

/// Every failure of the engine, and the code by which callers distinguish it.
#[test]
fn failures_of_the_engine_have_the_code_of_their_kind() {
    let text = || "x".to_owned();
    let scheduler = |name: &str| SchedulerError::UnknownOption {
        scheduler: name.to_owned(),
        option: "eta".to_owned(),
        options: "none".to_owned(),
    };
    let value = SchedulerError::InvalidValue { key: text(), expected: text(), found: text() };
    for (error, code) in [
        (EngineError::File(file_problem(io_error(io::ErrorKind::NotFound))), "model.not_found"),
        (EngineError::File(file_problem(io_error(io::ErrorKind::PermissionDenied))), "file.read"),
        (EngineError::File(file_problem(SdqProblem::Header("magic"))), "model.invalid"),
        (EngineError::Scheduler(scheduler("ddim")), "request.invalid"),
        (EngineError::Scheduler(value), "model.invalid"),
        (EngineError::Request { field: "width", found: text(), expected: text() }, "request.invalid"),
        (EngineError::Job(sdq_engine::JobProblem::NoMask), "request.invalid"),
        (EngineError::Word { word: text(), found: text(), expected: text() }, "add_on.invalid"),
        (EngineError::Mismatch { what: text(), expected: text(), found: text() }, "model.mismatch"),
        (EngineError::OutOfMemory { bytes: 1 }, "memory.exhausted"),
        (
            EngineError::DoesNotFit { size: text(), limit: 1, needed: 2, advice: text() },
            "memory.does_not_fit",
        ),
        (EngineError::SavedRun { path: "a.sdq-run".into(), problem: text() }, "saved_run.invalid"),
        (EngineError::NotFinite { stage: text() }, "model.not_finite"),
        (EngineError::Cancelled { step: 0, steps: 1 }, "cancelled"),
        (EngineError::MissingComponent { component: "vae" }, "model.invalid"),
        (EngineError::Tokenizer(text()), "model.invalid"),
        (EngineError::UnknownConfigKey { component: "vae", key: text(), found: text() }, "model.invalid"),
    ] {
        assert_eq!(ErrorKind::of_engine(&error).code(), code, "{error}");
        // The kind is the same for callers that have only the trait object.
        assert_eq!(ErrorKind::of(&error).map(ErrorKind::code), Some(code), "{error}");
        assert_eq!(Error::from(error).code(), code);
    }
}

#[test]
fn failures_of_files_and_options_have_the_code_of_their_kind() {
    let path = || PathBuf::from("a.pt");
    let refused = || io_error(io::ErrorKind::PermissionDenied);
    let io_checkpoint = || CheckpointError::Io { path: path(), reason: refused() };
    let kind = sdq_formats::sniff::FileKind::Html;
    let lora = || LoraError::Half { module: "m".to_owned(), part: "up" };
    let rule = || RuleError::Form { rule: "x".to_owned() };
    for (error, code) in [
        (Error::from(io_checkpoint()), "file.read"),
        (Error::from(CheckpointError::Kind { path: path(), kind }), "model.invalid"),
        (Error::from(PublishedError::NotFound { path: path() }), "model.not_found"),
        (Error::from(PublishedError::Io { path: path(), source: refused() }), "file.read"),
        (Error::from(PublishedError::Checkpoint(io_checkpoint())), "file.read"),
        (Error::from(PublishedError::NoModel), "option.invalid"),
        (Error::from(PublishedError::NotAModel { path: path(), instead: None }), "model.invalid"),
        (Error::from(ConvertError::Read { path: path(), source: refused() }), "file.read"),
        (Error::from(ConvertError::Output(file_problem(refused()))), "file.write"),
        (Error::from(ConvertError::Threads("none".to_owned())), "device.failed"),
        (Error::from(ConvertError::Empty { path: path() }), "model.invalid"),
        (Error::from(ConvertError::MissingTensors { path: path(), tensors: Vec::new() }), "model.invalid"),
        (Error::from(file_problem(refused())), "file.read"),
        (Error::from(rule()), "option.invalid"),
        (Error::Option { option: "output", problem: String::new() }, "option.invalid"),
        (Error::from(lora()), "add_on.invalid"),
        (Error::from(EmbeddingError::Unknown { tensors: 1, first: "x".to_owned() }), "add_on.invalid"),
        (Error::LoraTag("x".to_owned()), "request.invalid"),
        (Error::Prompts { path: path(), problem: String::new() }, "prompts.invalid"),
        (Error::Recipe(RecipeError::None), "picture.invalid"),
        (Error::UnknownFile { path: path(), found: String::new() }, "model.invalid"),
        (Error::NotConverted { path: path(), found: String::new(), command: String::new() }, "model.invalid"),
        (Error::AddOnAsModel { path: path(), found: "a LoRA", flag: "--lora" }, "model.invalid"),
        (Error::Read { path: path(), error: refused() }, "file.read"),
        (Error::Write { path: path(), error: refused() }, "file.write"),
        (Error::TemporaryFolder(refused()), "file.write"),
        (Error::Verdicts(refused()), "file.write"),
        (Error::Thread(refused()), "device.failed"),
        (Error::SessionEnded, "device.failed"),
        (Error::NoDevice { wanted: None }, "device.failed"),
        (Error::LoraTag("x".to_owned()).in_file(Path::new("b")).in_file(Path::new("c")), "request.invalid"),
    ] {
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(ErrorKind::of(&error).map(ErrorKind::code), Some(code), "{error}");
    }
    assert_eq!(ErrorKind::of(&refused()), None, "an error of the system alone has no kind");
}

#[test]
fn messages_name_the_file_and_what_to_do() {
    let path = || PathBuf::from("dir/a.txt");
    let reason = || io::Error::other("the disk is full");
    for (error, message) in [
        (
            Error::Option { option: "max_size", problem: "0 is not a number above 0".to_owned() },
            "max_size: 0 is not a number above 0",
        ),
        (
            Error::Prompts { path: path(), problem: "the file contains no prompts".to_owned() },
            "cannot read prompts from `dir/a.txt`: the file contains no prompts",
        ),
        (Error::Read { path: path(), error: reason() }, "cannot read `dir/a.txt`: the disk is full"),
        (Error::Write { path: path(), error: reason() }, "cannot write `dir/a.txt`: the disk is full"),
        (Error::TemporaryFolder(reason()), "cannot create a temporary folder: the disk is full"),
        (Error::Thread(reason()), "cannot start a thread: the disk is full"),
        (Error::SessionEnded, "the session has ended after an internal error; open the model again"),
        (
            Error::UnknownFile { path: path(), found: "an empty file".to_owned() },
            "dir/a.txt: expected a model, a checkpoint, a LoRA, an embedding, a saved run or a picture, found an empty file",
        ),
        (
            Error::NoDevice { wanted: Some("arc".to_owned()) },
            "there is no device `arc`; `sdq info` lists the devices",
        ),
        (Error::NoDevice { wanted: None }, "Vulkan finds no device; install the graphics driver"),
        (
            Error::Recipe(RecipeError::None).in_file(&path()),
            "dir/a.txt: the picture contains no recipe that sdq can read",
        ),
    ] {
        assert_eq!(error.to_string(), message);
        assert!(!message.contains('\n'));
    }
}
