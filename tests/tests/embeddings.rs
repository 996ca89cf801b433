//! Textual inversions: words beside a model's vocabulary.

use sdq_engine::{
    PromptReading, PromptSyntax,
    adapters::textual_inversion::{TextualInversions, WordVectors},
};
use sdq_formats::{WeightType, checkpoint::Checkpoint, picture};
use sdq_tests::{checkpoint::write_f32, command, goldens, models::Model};
use tempfile::TempDir;

const SDQ: &str = env!("CARGO_BIN_EXE_sdq-under-test");

/// A vector that equals a row of the vocabulary has the same effect as that token.
#[test]
fn a_word_reads_as_the_tokens_whose_vectors_it_has() {
    let model = Model::convert("sd1", WeightType::F32);
    let pipeline = model.open(2);
    let source = goldens::folder("sd1").join("model/text_encoder/model.safetensors");
    let source = Checkpoint::open(source).unwrap();
    let table = source.tensors().find(|tensor| tensor.name.ends_with("token_embedding.weight")).unwrap();
    let width = table.shape[1];
    let ids = pipeline.tokenize("a red apple").unwrap();
    let mut vectors = Vec::new();
    for &id in &ids[2..4] {
        let mut row = vec![0.0; width];
        table.read_f32(id as usize * width, &mut row).unwrap();
        vectors.extend(row);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("e.safetensors");
    write_f32(&path, &[("emb_params", &[2, width], &vectors)]);
    let inversions = TextualInversions::read(&Checkpoint::open(&path).unwrap()).unwrap();
    let with = pipeline.with_word("ripe-fruit", &inversions.words[0].vectors).unwrap();
    for syntax in [PromptSyntax::Plain, PromptSyntax::Weighted] {
        let reading = PromptReading { syntax, clip_skip: None };
        // The words that begin with these two tokens end after them.
        let found = with.encode_prompts_as(&["a ripe-fruit"], reading).unwrap().text_states;
        let tokens = pipeline.encode_prompts(&["a red apple"]).unwrap().text_states;
        assert_eq!(found.values()[..4 * width], tokens.values()[..4 * width], "{syntax:?}");
        let same = with.encode_prompts_as(&["a red apple"], reading).unwrap().text_states;
        assert_eq!(same.values(), tokens.values());
    }
    assert_ne!(with.fingerprint(), pipeline.fingerprint());
}

#[test]
fn every_layout_is_read_and_others_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("e.safetensors");
    let read = |tensors: &[(&str, &[usize], &[f32])]| {
        write_f32(&path, tensors);
        TextualInversions::read(&Checkpoint::open(&path).unwrap()).map_err(|error| error.to_string())
    };
    // The words with the encoder and the width of their vectors, and what is left out.
    let row =
        |name: &'static str, shape: &'static [usize]| (name, shape, &[0.0; 6][..shape.iter().product()]);
    for (tensors, expected) in [
        (vec![row("<cat-toy>", &[2])], r#"[(Some("<cat-toy>"), [(None, 2)])] []"#),
        (
            vec![row("<s0>", &[1, 2]), row("<s1>", &[1, 2])],
            r#"[(Some("<s0>"), [(None, 2)]), (Some("<s1>"), [(None, 2)])] []"#,
        ),
        (vec![row("clip_g", &[1, 3]), row("clip_l", &[1, 2])], "[(None, [(Some(1), 3), (Some(0), 2)])] []"),
        (vec![row("clip_l", &[1, 2])], "[(None, [(Some(0), 2)])] []"),
        (
            vec![row("text_encoders_0", &[2, 2]), row("text_encoders_1", &[2, 2])],
            "[(None, [(Some(0), 2), (Some(1), 2)])] []",
        ),
        (vec![row("emb_params", &[2, 2]), row("step", &[1])], r#"[(None, [(None, 2)])] ["step"]"#),
        (
            vec![row("string_to_param.*", &[2, 2]), row("string_to_token.*", &[])],
            r#"[(None, [(None, 2)])] ["string_to_token.*"]"#,
        ),
        (
            vec![row("string_to_param.a", &[1, 2]), row("string_to_param.b", &[2, 2])],
            r#"[(Some("a"), [(None, 2)]), (Some("b"), [(None, 2)])] []"#,
        ),
    ] {
        let found = read(&tensors).unwrap();
        let layout = |vectors: &[WordVectors]| -> Vec<_> {
            vectors.iter().map(|vectors| (vectors.encoder, vectors.width)).collect()
        };
        let words: Vec<_> = found.words.iter().map(|word| (&word.word, layout(&word.vectors))).collect();
        assert_eq!(format!("{words:?} {:?}", found.left_out), expected);
    }
    for (tensors, words) in [
        (
            &[("a", &[1][..], &[0.0][..]), ("b.weight", &[1], &[0.0])][..],
            "found 2 tensors, the first of which is `a`",
        ),
        (&[("a", &[1, 1, 1], &[0.0])], "found 1 tensors"),
        (&[], "found 0 tensors, the first of which is `none`"),
        (&[("emb_params", &[1, 1, 1], &[0.0])], "has the shape [1, 1, 1]"),
        (&[("emb_params", &[0, 4], &[])], "has the shape [0, 4]"),
        (&[("emb_params", &[76, 1], &[0.0; 76])], "expected 1 to 75 vectors"),
        (&[("emb_params", &[1], &[f32::NAN])], "NaN"),
    ] {
        let message = read(tensors).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    let pickled = Checkpoint::open(goldens::folder("pickles").join("embedding.pt")).unwrap();
    let vectors = TextualInversions::read(&pickled).unwrap().words.remove(0).vectors;
    assert_eq!((vectors[0].width, vectors[0].values.as_slice()), (3, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]));
    let pipeline = Model::convert("sd1", WeightType::F32).open(1);
    let message = pipeline.with_word("x", &vectors).unwrap_err().to_string();
    assert!(message.contains("vectors of width 3, expected width"), "{message}");
}

#[test]
fn each_encoder_reads_its_own_vectors() {
    let model = Model::convert("sdxl", WeightType::F32);
    let folder = TempDir::new().unwrap();
    let flags = |files: &[&str]| {
        let embeddings = files.iter().flat_map(|file| ["--embedding".to_owned(), format!("{file}:toy")]);
        let common = ["generate", "a toy", "-W", "32", "-H", "32", "--steps", "1", "-o", "a.png", "-m"];
        let line = common.map(str::to_owned).into_iter().chain([model.path().display().to_string()]);
        line.chain(embeddings).collect::<Vec<_>>()
    };
    let draw = |files: &[&str]| {
        command::run(SDQ, folder.path(), &flags(files)).assert_done();
        picture::read(folder.path().join("a.png")).unwrap().rgb
    };
    let write =
        |file: &str, tensors: &[(&str, &[usize], &[f32])]| write_f32(&folder.path().join(file), tensors);
    let (first, second) = (&[1, 16][..], &[1, 24][..]);
    let (zeros, ones) = ([0.0; 24], [1.0; 24]);
    write("both.safetensors", &[("clip_l", first, &zeros[..16]), ("clip_g", second, &ones)]);
    let expected = draw(&["both.safetensors"]);
    write(
        "both.safetensors",
        &[("text_encoders_0", first, &zeros[..16]), ("text_encoders_1", second, &ones)],
    );
    assert!(draw(&["both.safetensors"]) == expected);
    write("both.safetensors", &[("clip_l", first, &ones[..16]), ("clip_g", second, &zeros)]);
    assert!(draw(&["both.safetensors"]) != expected);

    // In two files under one word; not where both would be of one encoder.
    write("l.safetensors", &[("clip_l", first, &zeros[..16])]);
    write("g.safetensors", &[("emb_params", second, &ones)]);
    assert!(draw(&["g.safetensors", "l.safetensors"]) == expected);
    command::run(SDQ, folder.path(), &flags(&["l.safetensors"])).assert_failed(
        1,
        &["width 16, expected width 24 for `text_encoder_2`; the word is for another model"],
    );
    command::run(SDQ, folder.path(), &flags(&["l.safetensors", "l.safetensors"]))
        .assert_failed(2, &["`l.safetensors` and `l.safetensors` both have vectors of width 16 for `toy`"]);

    // A file of several words needs no name for them, and takes none.
    write("two.safetensors", &[("<s0>", first, &zeros[..16]), ("<s1>", second, &ones)]);
    command::run(SDQ, folder.path(), &flags(&["two.safetensors"]))
        .assert_failed(2, &["which are `<s0>`, `<s1>`"]);
}
