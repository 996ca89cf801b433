//! Textual inversions: words beside a model's vocabulary.

use sdq_engine::{PromptReading, PromptSyntax, adapters::textual_inversion::TextualInversion};
use sdq_formats::{WeightType, checkpoint::Checkpoint};
use sdq_tests::{checkpoint::write_f32, goldens, models::Model};
use tempfile::TempDir;

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
    let inversion = TextualInversion::read(&Checkpoint::open(&path).unwrap()).unwrap();
    let with = pipeline.with_word("ripe-fruit", &inversion.vectors).unwrap();
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
        TextualInversion::read(&Checkpoint::open(&path).unwrap()).map_err(|error| error.to_string())
    };
    let (word, vectors) =
        read(&[("<cat-toy>", &[2], &[1.0, 2.0])]).map(|found| (found.word, found.vectors)).unwrap();
    assert_eq!((word.as_deref(), vectors[0].width), (Some("<cat-toy>"), 2));
    let both = read(&[("clip_g", &[1, 3], &[0.0; 3]), ("clip_l", &[1, 2], &[0.0; 2])]).unwrap().vectors;
    assert_eq!((both[0].width, both[1].width), (2, 3));
    for (tensors, words) in [
        (&[("a", &[1][..], &[0.0][..]), ("b", &[1], &[0.0])][..], "found 2 tensors"),
        (&[("emb_params", &[1, 1, 1], &[0.0])], "is [1, 1, 1]"),
        (&[("emb_params", &[0, 4], &[])], "is [0, 4]"),
        (&[("emb_params", &[76, 1], &[0.0; 76])], "up to 75 vectors"),
        (&[("emb_params", &[1], &[f32::NAN])], "NaN"),
    ] {
        let message = read(tensors).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    let pickled = Checkpoint::open(goldens::folder("pickles").join("embedding.pt")).unwrap();
    let vectors = TextualInversion::read(&pickled).unwrap().vectors;
    assert_eq!((vectors[0].width, vectors[0].values.as_slice()), (3, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]));
    let pipeline = Model::convert("sd1", WeightType::F32).open(1);
    let message = pipeline.with_word("x", &vectors).unwrap_err().to_string();
    assert!(message.contains("a width of") && message.contains("[(2, 3)]"), "{message}");
}
