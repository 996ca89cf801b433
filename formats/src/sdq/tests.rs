//! The reader with every possible fault of a file, starting from files of the writer.

use std::fs;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::layout::{self, WeightData};
use crate::mmap::{ALIGNMENT, Bytes};
use crate::sniff::FileKind;
use crate::weight::{WeightRole, WeightSpec, WeightType};

fn manifest() -> Manifest {
    Manifest {
        name: "tiny".into(),
        description: "two weights".into(),
        license: "CC0-1.0".into(),
        pipeline_class: "StableDiffusionPipeline".into(),
        converter: "sdq 0.1.0".into(),
        defaults: json!({"width": 64, "height": 64, "steps": 20, "scheduler": "ddim", "guidance_scale": 3.5}),
        sources: vec![Source { file: "unet/a.safetensors".into(), bytes: 7, sha256: "0f".repeat(32) }],
        quantization: None,
    }
}

fn spec(name: &str, role: WeightRole, shape: &[usize]) -> WeightSpec {
    WeightSpec::new(name, role, shape)
}

fn specs() -> Vec<WeightSpec> {
    vec![
        spec("conv_in.weight", WeightRole::Conv, &[17, 3, 3, 2]),
        spec("conv_in.bias", WeightRole::Vector, &[17]),
        spec("proj.weight", WeightRole::Matrix, &[3, 5]),
    ]
}

fn values(spec: &WeightSpec) -> Vec<f32> {
    (0..spec.shape.iter().product()).map(|i: usize| (i as f32 - 7.0) * 0.125).collect()
}

fn weight_type(spec: &WeightSpec) -> WeightType {
    if spec.role == WeightRole::Vector { WeightType::F32 } else { WeightType::F16 }
}

fn write_sample(path: &Path) -> u64 {
    let mut writer = SdqWriter::create(path, manifest()).unwrap();
    writer.add_text("tokenizer/vocab.json", "{\"é\": 0}").unwrap();
    writer.begin_component("unet", json!({"z": 1, "a": [2]})).unwrap();
    for spec in specs() {
        writer.append(&spec, weight_type(&spec), &values(&spec)).unwrap();
    }
    writer.begin_component("vae", json!({})).unwrap();
    let table = spec("table.weight", WeightRole::Table, &[4, 3]);
    writer.append(&table, WeightType::F32, &values(&table)).unwrap();
    writer.add_text("LICENSE", "").unwrap();
    writer.finish().unwrap()
}

fn sample() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.sdq");
    write_sample(&path);
    fs::read(path).unwrap()
}

/// The address of the elements in memory.
fn address(data: &WeightData) -> usize {
    match data {
        WeightData::F32(values) => values.as_ptr().addr(),
        WeightData::F16(values) => values.as_ptr().addr(),
        WeightData::Q8 { values, .. } => values.as_ptr().addr(),
        WeightData::Q4 { values, .. } => values.as_ptr().addr(),
    }
}

fn parse(bytes: &[u8]) -> Result<SdqFile, SdqProblem> {
    SdqFile::from_bytes(Bytes::copy_of(bytes), Path::new("sample.sdq")).map_err(|error| *error.problem)
}

/// `file` with another table of contents, sealed with valid lengths and checksums.
fn with_table(file: &[u8], table: &[u8]) -> Vec<u8> {
    let table_offset = LittleEndian::read_u64(&file[24..32]);
    let mut changed = file[..table_offset as usize].to_vec();
    changed.extend(table);
    let header = header::Header {
        file_len: changed.len() as u64,
        table_offset,
        table_len: table.len() as u64,
        table_crc32: crc32fast::hash(table),
    };
    changed[..64].copy_from_slice(&header.to_bytes().unwrap());
    changed
}

/// The reader's error for the sample after a change to its table of contents.
fn refused(change: impl Fn(&mut Value)) -> SdqProblem {
    let file = sample();
    let mut table: Value =
        serde_json::from_slice(&file[LittleEndian::read_u64(&file[24..32]) as usize..]).unwrap();
    change(&mut table);
    parse(&with_table(&file, table.to_string().as_bytes())).expect_err("the change must be refused")
}

/// The same for a change to the first weight, a convolution.
fn refused_weight(change: impl Fn(&mut Value)) -> SdqProblem {
    refused(|table| change(&mut table["components"][0]["weights"][0]))
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.sdq");
    let len = write_sample(&path);
    let file = SdqFile::open(&path).unwrap();
    assert_eq!(file.file_len(), len);
    assert_eq!(file.path(), path);
    assert_eq!(*file.manifest(), manifest());
    assert_eq!(file.text("tokenizer/vocab.json"), Some("{\"é\": 0}"));
    assert_eq!(file.text("LICENSE"), Some(""));
    assert_eq!(file.text("tokenizer/merges.txt"), None);
    assert_eq!(file.components().map(|c| c.name()).collect::<Vec<_>>(), ["unet", "vae"]);

    let unet = file.component("unet").unwrap();
    // The order of keys is kept: the same input must give the same bytes.
    assert_eq!(unet.config().to_string(), r#"{"z":1,"a":[2]}"#);
    assert_eq!(unet.weights().map(|weight| weight.spec.clone()).collect::<Vec<_>>(), specs());
    for spec in specs() {
        let weight = unet.weight(&spec.name).unwrap();
        assert_eq!(weight.weight_type, weight_type(&spec));
        assert_eq!(address(&weight.data) % ALIGNMENT, 0);
        assert_eq!(layout::decode(&spec, &weight.data), values(&spec), "eighths are exact in both types");
        weight.verify().unwrap();
    }
    let bias = unet.weight("conv_in.bias").unwrap();
    assert_eq!(bias.data, WeightData::F32(&values(&specs()[1])));
    assert!(matches!(unet.weight("conv_in.weight").unwrap().data, WeightData::F16(_)));
    assert!(file.component("text_encoder").is_none());
}

/// The example of `docs/format.md`, byte for byte: without it, reader and writer could agree on another
/// format.
#[test]
fn the_file_is_laid_out_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("example.sdq");
    let manifest = Manifest {
        name: "example".into(),
        description: String::new(),
        license: String::new(),
        pipeline_class: "StableDiffusionPipeline".into(),
        converter: "sdq 0.1.0".into(),
        defaults: json!({"steps": 20}),
        sources: Vec::new(),
        quantization: None,
    };
    let mut writer = SdqWriter::create(&path, manifest).unwrap();
    writer.begin_component("unet", json!({"in_channels": 4})).unwrap();
    writer.append(&spec("conv_in.bias", WeightRole::Vector, &[2]), WeightType::F32, &[1.0, -2.0]).unwrap();
    writer.append(&spec("proj.weight", WeightRole::Matrix, &[1, 2]), WeightType::F16, &[1.0, -2.0]).unwrap();
    writer.add_text("LICENSE", "CC0\n").unwrap();
    writer.finish().unwrap();

    let table = concat!(
        r#"{"manifest":{"name":"example","description":"","license":"","#,
        r#""pipeline_class":"StableDiffusionPipeline","converter":"sdq 0.1.0","#,
        r#""defaults":{"steps":20},"sources":[]},"#,
        r#""components":[{"name":"unet","offset":65536,"length":128,"config":{"in_channels":4},"weights":["#,
        r#"{"name":"conv_in.bias","role":"vector","shape":[2],"type":"f32","#,
        r#""parts":[{"part":"values","offset":65536,"length":8,"crc32":3280414294}]},"#,
        r#"{"name":"proj.weight","role":"matrix","shape":[1,2],"type":"f16","#,
        r#""parts":[{"part":"values","offset":65600,"length":64,"crc32":145955179}]}]}],"#,
        r#""texts":[{"name":"LICENSE","offset":65664,"length":4,"crc32":3853173947}]}"#,
    );
    let file = fs::read(&path).unwrap();
    assert_eq!(std::str::from_utf8(&file[65728..]).unwrap(), table);
    assert_eq!(file[..16], *b"\x89SDQ\r\n\x1a\n\x01\0\0\0\0\0\0\0");
    assert_eq!(file[16..24], (65728 + table.len() as u64).to_le_bytes());
    assert_eq!(file[24..32], 65728u64.to_le_bytes());
    assert_eq!(file[32..40], (table.len() as u64).to_le_bytes());
    assert_eq!(file[40..44], 0x8f1a861au32.to_le_bytes());
    assert!(file[44..60].iter().chain(&file[64..65536]).all(|&byte| byte == 0));
    assert_eq!(file[60..64], 0xde835c79u32.to_le_bytes());
    assert_eq!(file[65536..65544], [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    // One panel: 16 features of input 0, of which only one exists, then input 1.
    assert_eq!(file[65600..65602], [0, 0x3c]);
    assert_eq!(file[65632..65634], [0, 0xc0]);
    assert_eq!(file[65664..65668], *b"CC0\n");
}

#[test]
fn sections_and_weights_are_aligned_in_the_file() {
    let file = sample();
    let table: Value =
        serde_json::from_slice(&file[LittleEndian::read_u64(&file[24..32]) as usize..]).unwrap();
    for component in table["components"].as_array().unwrap() {
        assert_eq!(component["offset"].as_u64().unwrap() % 65536, 0);
        for weight in component["weights"].as_array().unwrap() {
            assert_eq!(weight["parts"][0]["offset"].as_u64().unwrap() % 64, 0);
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    assert_eq!(sample(), sample());
}

#[test]
fn a_static_file_is_read_in_place_and_must_be_aligned() {
    let bytes: &'static Bytes = Box::leak(Box::new(Bytes::copy_of(&sample())));
    let file = SdqFile::from_static(bytes).unwrap();
    let weight = file.component("vae").unwrap().weight("table.weight").unwrap();
    assert!(bytes.as_ptr_range().contains(&(address(&weight.data) as *const u8)));

    let shifted = Box::leak(Box::new(Bytes::copy_of(&[&[0u8; 8][..], &sample()].concat())));
    let error = SdqFile::from_static(&shifted[8..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "built-in model: the file in memory at offset 0 is not aligned to 64 bytes"
    );
}

#[test]
fn threads_may_share_a_file() {
    fn shared<T: Send + Sync>() {}
    shared::<SdqFile>();
    shared::<Weight<'static>>();
    shared::<Component<'static>>();
    shared::<SdqError>();
}

#[test]
fn check_wants_exactly_the_weights_of_the_model() {
    let file = parse(&sample()).unwrap();
    let unet = file.component("unet").unwrap();
    unet.check(&specs()).unwrap();
    let message = |change: &dyn Fn(&mut Vec<WeightSpec>)| {
        let mut specs = specs();
        change(&mut specs);
        unet.check(&specs).unwrap_err().to_string()
    };
    assert_eq!(
        message(&|specs| specs[2].name = "other".into()),
        "sample.sdq: weight `unet.other` is missing"
    );
    assert_eq!(
        message(&|specs| specs.truncate(2)),
        "sample.sdq: weight `unet.proj.weight` is not part of the model"
    );
    assert_eq!(
        message(&|specs| specs[2].shape = vec![5, 3]),
        "sample.sdq: weight `unet.proj.weight` is a matrix [3, 5], expected a matrix [5, 3]"
    );
    assert_eq!(
        message(&|specs| specs[2].role = WeightRole::Table),
        "sample.sdq: weight `unet.proj.weight` is a matrix [3, 5], expected a table [3, 5]"
    );
}

#[test]
fn verify_finds_a_flipped_bit() {
    let mut bytes = sample();
    bytes[65536 + 100] ^= 4;
    let file = parse(&bytes).unwrap();
    let unet = file.component("unet").unwrap();
    let error = unet.weight("conv_in.weight").unwrap().verify().unwrap_err();
    assert!(matches!(*error.problem, SdqProblem::Checksum { .. }));
    assert!(error.to_string().contains("`unet.conv_in.weight`"), "{error}");
    unet.weight("conv_in.bias").unwrap().verify().unwrap();
}

#[test]
fn rejects_files_of_other_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.sdq");
    let open = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        *SdqFile::open(&path).unwrap_err().problem
    };
    assert!(matches!(open(b""), SdqProblem::NotSdq(FileKind::Empty)));
    assert!(matches!(open(b"<!doctype html>"), SdqProblem::NotSdq(FileKind::Html)));
    assert!(matches!(open(&[0; 1000]), SdqProblem::NotSdq(FileKind::Zeros)));
    assert!(matches!(*SdqFile::open(folder.path()).unwrap_err().problem, SdqProblem::Io(_)));
    assert!(matches!(*SdqFile::open(folder.path().join("no")).unwrap_err().problem, SdqProblem::Io(_)));
}

#[test]
fn rejects_a_damaged_table() {
    let mut bytes = sample();
    *bytes.last_mut().unwrap() ^= 1;
    let problem = parse(&bytes).unwrap_err();
    assert!(matches!(problem, SdqProblem::Checksum { ref what, .. } if what == "the table of contents"));
}

#[test]
fn rejects_tables_that_are_not_what_they_should_be() {
    let file = sample();
    for table in [&b""[..], b"{", b"[]", b"{}", b"nonsense\n\x1b[2J", &b"[".repeat(100_000), b"\xff"] {
        let problem = parse(&with_table(&file, table)).unwrap_err();
        assert!(matches!(problem, SdqProblem::Json(_)), "{problem}");
        assert!(problem.to_string().len() < 400 && !problem.to_string().chars().any(char::is_control));
    }
    assert!(matches!(refused(|t| t["components"][0]["offset"] = json!(-1)), SdqProblem::Json(_)));
    assert!(matches!(refused_weight(|w| w["shape"] = json!([1.5])), SdqProblem::Json(_)));
    assert!(matches!(refused_weight(|w| w["shape"] = json!([u64::MAX, 1e30])), SdqProblem::Json(_)));
    assert!(matches!(refused_weight(|w| w["parts"][0]["crc32"] = json!(1u64 << 32)), SdqProblem::Json(_)));
}

#[test]
fn rejects_a_manifest_out_of_place() {
    assert!(matches!(refused(|t| t["manifest"]["defaults"] = json!([])), SdqProblem::Manifest(_)));
    assert!(matches!(
        refused(|t| t["manifest"]["sources"][0]["file"] = json!("/home/me/a")),
        SdqProblem::Name { what: "source file", .. }
    ));
    assert!(matches!(refused(|t| t["components"][1]["config"] = json!(1)), SdqProblem::Manifest(_)));
}

#[test]
fn rejects_bad_and_repeated_names() {
    let name = |problem: SdqProblem| match problem {
        SdqProblem::Name { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(name(refused(|t| t["components"][0]["name"] = json!(""))), "component");
    assert_eq!(name(refused_weight(|w| w["name"] = json!("a\u{1b}[2J"))), "weight");
    assert_eq!(name(refused_weight(|w| w["name"] = json!("a".repeat(2000)))), "weight");
    assert_eq!(name(refused(|t| t["texts"][0]["name"] = json!("../vocab.json"))), "text");

    let duplicate = |problem: SdqProblem| match problem {
        SdqProblem::Duplicate { what, name } => format!("{what} {name}"),
        other => panic!("{other}"),
    };
    assert_eq!(duplicate(refused(|t| t["components"][1]["name"] = json!("unet"))), "component unet");
    assert_eq!(duplicate(refused_weight(|w| w["name"] = json!("proj.weight"))), "weight unet.proj.weight");
    assert_eq!(duplicate(refused(|t| t["texts"][0]["name"] = json!("LICENSE"))), "text LICENSE");
}

#[test]
fn rejects_unknown_roles_and_types_by_name() {
    assert_eq!(
        refused_weight(|w| w["role"] = json!("tensor")).to_string(),
        "weight `unet.conv_in.weight` has the unknown role \"tensor\", expected one of vector, table, matrix, convolution"
    );
    assert_eq!(
        refused_weight(|w| w["type"] = json!("q2")).to_string(),
        "weight `unet.conv_in.weight` has the unknown type \"q2\", expected one of f32, f16, q8, q4; a newer sdq may read it"
    );
}

#[test]
fn rejects_shapes_that_do_not_fit_role_and_type() {
    for shape in [json!([17, 3, 3]), json!([17, 3, 0, 2]), json!([1u64 << 40, 1u64 << 40, 1, 1]), json!([])] {
        let problem = refused_weight(|w| w["shape"] = shape.clone());
        assert!(matches!(problem, SdqProblem::Shape { .. }), "{shape}: {problem}");
    }
    // A vector is never f16.
    assert!(matches!(
        refused(|t| t["components"][0]["weights"][1]["type"] = json!("f16")),
        SdqProblem::Shape { .. }
    ));
}

#[test]
fn rejects_lengths_that_do_not_fit_the_shape() {
    let problem = refused_weight(|w| w["shape"] = json!([17, 3, 3, 3]));
    // 17 channels take two panels of 16: 2 * 16 * 27 elements of 2 bytes, instead of those for 18.
    assert!(matches!(problem, SdqProblem::WeightLength { expected: 1728, found: 1152, .. }), "{problem}");
    let problem = refused_weight(|w| w["type"] = json!("f32"));
    assert!(matches!(problem, SdqProblem::WeightLength { expected: 2304, found: 1152, .. }), "{problem}");
}

#[test]
fn rejects_parts_that_are_not_those_of_the_type() {
    for parts in [json!([]), json!([{"part": "scales", "offset": 65536, "length": 1152, "crc32": 0}])] {
        let problem = refused_weight(|w| w["parts"] = parts.clone());
        assert!(matches!(problem, SdqProblem::Parts { .. }), "{problem}");
    }
    let twice = refused_weight(|w| w["parts"] = json!([w["parts"][0], w["parts"][0]]));
    assert!(matches!(twice, SdqProblem::Parts { .. }), "{twice}");
}

#[test]
fn rejects_ranges_out_of_bounds_overlapping_or_out_of_order() {
    let bounds = |problem: SdqProblem| {
        assert!(matches!(problem, SdqProblem::Bounds { .. }), "{problem}");
    };
    // A component over the header, after the table, wrapping around; two in the same place; a weight outside
    // its section, over its neighbour, wrapping around; a text over a component.
    bounds(refused(|t| t["components"][0]["offset"] = json!(0)));
    bounds(refused(|t| t["components"][0]["length"] = json!(1u64 << 40)));
    bounds(refused(|t| t["components"][0]["length"] = json!(u64::MAX)));
    bounds(refused(|t| t["components"][1]["offset"] = json!(65536)));
    bounds(refused_weight(|w| w["parts"][0]["offset"] = json!(131072)));
    bounds(refused_weight(|w| w["parts"][0]["offset"] = json!(u64::MAX - 63)));
    bounds(refused(|t| t["components"][0]["weights"][1]["parts"][0]["offset"] = json!(65536)));
    bounds(refused(|t| t["components"][0]["length"] = json!(64)));
    bounds(refused(|t| t["texts"][0]["offset"] = json!(65536)));
    bounds(refused(|t| t["texts"][1]["length"] = json!(1 << 20)));
    bounds(refused(|t| t["components"].as_array_mut().unwrap().reverse()));
}

#[test]
fn rejects_ranges_that_are_not_aligned() {
    let alignment = |problem: SdqProblem| match problem {
        SdqProblem::Alignment { alignment, .. } => alignment,
        other => panic!("{other}"),
    };
    assert_eq!(alignment(refused(|t| t["components"][0]["offset"] = json!(4096))), 65536);
    assert_eq!(alignment(refused_weight(|w| w["parts"][0]["offset"] = json!(65540))), 64);
    assert_eq!(alignment(refused(|t| t["texts"][0]["offset"] = json!(1))), 64);
}

#[test]
fn rejects_damaged_texts() {
    assert!(matches!(refused(|t| t["texts"][0]["crc32"] = json!(1)), SdqProblem::Checksum { .. }));
    let problem = refused(|t| t["texts"][0]["length"] = json!(3));
    assert!(
        problem.to_string().starts_with("text `tokenizer/vocab.json` is damaged: the checksum is "),
        "{problem}"
    );
}

#[test]
fn rejects_texts_that_are_not_utf8() {
    let mut file = sample();
    let table: Value =
        serde_json::from_slice(&file[LittleEndian::read_u64(&file[24..32]) as usize..]).unwrap();
    let offset = table["texts"][0]["offset"].as_u64().unwrap() as usize;
    file[offset] = 0xff;
    let mut changed = table.clone();
    changed["texts"][0]["crc32"] = json!(crc32fast::hash(&file[offset..offset + 9]));
    let problem = parse(&with_table(&file, changed.to_string().as_bytes())).unwrap_err();
    assert!(problem.to_string().contains("`tokenizer/vocab.json` is not UTF-8"), "{problem}");
}

#[test]
fn ignores_keys_that_it_does_not_know() {
    let file = sample();
    let mut table: Value =
        serde_json::from_slice(&file[LittleEndian::read_u64(&file[24..32]) as usize..]).unwrap();
    table["manifest"]["colour"] = json!("red");
    table["components"][0]["weights"][0]["relative_error"] = json!(0.01);
    parse(&with_table(&file, table.to_string().as_bytes())).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let file = sample();
    let interesting = (0..200).chain(65530..65545).chain(file.len() - 3000..file.len());
    for len in interesting {
        assert!(parse(&file[..len]).is_err(), "{len}");
    }
    assert!(parse(&[&file[..], b"x"].concat()).is_err());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.sdq");
    let start = || {
        let mut writer = SdqWriter::create(&path, manifest()).unwrap();
        writer.begin_component("unet", json!({})).unwrap();
        writer
    };
    let vector = spec("w", WeightRole::Vector, &[2]);
    let problem = |result: Result<(), SdqError>| *result.unwrap_err().problem;
    let encoded = |lengths: &[usize]| Encoded {
        parts: lengths.iter().map(|&length| vec![0; length]).collect(),
        relative_error: None,
    };

    let mut empty = SdqWriter::create(&path, manifest()).unwrap();
    assert!(matches!(
        problem(empty.append(&vector, WeightType::F32, &[1.0, 2.0])),
        SdqProblem::NoComponent { .. }
    ));
    let mut writer = start();
    writer.append(&vector, WeightType::F32, &[1.0, 2.0]).unwrap();
    assert!(matches!(
        problem(writer.append(&vector, WeightType::F32, &[1.0, 2.0])),
        SdqProblem::Duplicate { .. }
    ));
    assert!(matches!(
        problem(writer.append_encoded(&spec("v", WeightRole::Vector, &[2]), WeightType::F32, &encoded(&[7]))),
        SdqProblem::WeightLength { expected: 8, found: 7, .. }
    ));
    assert!(matches!(
        problem(writer.append_encoded(&spec("v", WeightRole::Vector, &[2]), WeightType::F16, &encoded(&[4]))),
        SdqProblem::Shape { .. }
    ));
    assert!(matches!(
        problem(writer.append(&spec("v", WeightRole::Vector, &[1]), WeightType::F32, &[f32::NAN])),
        SdqProblem::Layout(_)
    ));
    assert!(matches!(
        problem(writer.append(&spec("a\nb", WeightRole::Vector, &[1]), WeightType::F32, &[0.0])),
        SdqProblem::Name { .. }
    ));
    assert!(matches!(problem(writer.begin_component("unet", json!({}))), SdqProblem::Duplicate { .. }));
    assert!(matches!(problem(writer.begin_component("", json!({}))), SdqProblem::Name { .. }));
    assert!(matches!(problem(writer.begin_component("vae", json!(1))), SdqProblem::Manifest(_)));
    writer.add_text("a", "").unwrap();
    assert!(matches!(problem(writer.add_text("a", "")), SdqProblem::Duplicate { .. }));
    assert!(matches!(problem(writer.add_text("../a", "")), SdqProblem::Name { .. }));
    let bad = Manifest { defaults: json!(1), ..manifest() };
    assert!(matches!(*SdqWriter::create(&path, bad).unwrap_err().problem, SdqProblem::Manifest(_)));
    drop((empty, writer));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    // After errors the writer is still usable: the accepted weights are read back.
    let mut writer = start();
    let _ = writer.append(&vector, WeightType::F32, &[f32::NAN, 0.0]);
    writer.append(&vector, WeightType::F32, &[1.0, 2.0]).unwrap();
    writer.finish().unwrap();
    let file = SdqFile::open(&path).unwrap();
    file.component("unet").unwrap().weight("w").unwrap().verify().unwrap();
}

/// A weight of any role and type, with arbitrary valid bytes in its parts.
fn any_weight() -> impl Strategy<Value = (WeightSpec, WeightType, Encoded)> {
    let (role, weight_type) =
        (prop::sample::select(WeightRole::ALL.to_vec()), prop::sample::select(WeightType::ALL.to_vec()));
    let sizes = (1usize..40, 1usize..12, 1usize..4, 1usize..4, any::<bool>());
    (role, weight_type, sizes).prop_map(|(role, weight_type, (n, channels, height, width, joined))| {
        let shape = match role {
            WeightRole::Vector => vec![n],
            WeightRole::Table | WeightRole::Matrix => vec![n, channels],
            WeightRole::Conv => vec![n, channels, height, width],
        };
        let weight_type = if weight_type.stores(role) { weight_type } else { WeightType::F32 };
        let mut spec = spec("", role, &shape);
        if joined && channels > 1 && weight_type.is_quantized() && role != WeightRole::Table {
            spec.inputs = vec![1, channels - 1];
        }
        let parts = layout::stored_parts(&spec, weight_type).unwrap();
        let parts = parts.iter().map(|part| (0..part.bytes).map(|i| i as u8 % 100).collect()).collect();
        (spec, weight_type, Encoded { parts, relative_error: joined.then_some(0.5) })
    })
}

proptest! {
    #[test]
    fn any_weights_round_trip(
        weights in prop::collection::vec(any_weight(), 0..12),
        split in 0usize..12,
        text in ".*",
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sdq");
        let mut writer = SdqWriter::create(&path, manifest()).unwrap();
        writer.begin_component("first", json!({})).unwrap();
        let mut expected = Vec::new();
        for (index, (mut spec, weight_type, encoded)) in weights.into_iter().enumerate() {
            if index == split {
                writer.begin_component("second", json!({})).unwrap();
            }
            spec.name = format!("weight.{index}");
            writer.append_encoded(&spec, weight_type, &encoded).unwrap();
            expected.push((spec, weight_type, encoded));
        }
        writer.add_text("text", &text).unwrap();
        writer.finish().unwrap();

        let file = SdqFile::open(&path).unwrap();
        prop_assert_eq!(file.text("text"), Some(text.as_str()));
        let found: Vec<_> = file.components().flat_map(|component| component.weights().collect::<Vec<_>>()).collect();
        prop_assert_eq!(found.len(), expected.len());
        for (weight, (spec, weight_type, encoded)) in found.iter().zip(&expected) {
            prop_assert_eq!(weight.spec, spec);
            prop_assert_eq!(weight.weight_type, *weight_type);
            let parts: Vec<&[u8]> = encoded.parts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(weight.stored_bytes(), parts.iter().map(|part| part.len()).sum::<usize>());
            let aligned: Vec<Bytes> = parts.iter().map(|part| Bytes::copy_of(part)).collect();
            let aligned: Vec<&[u8]> = aligned.iter().map(|part| &**part).collect();
            prop_assert_eq!(weight.data, WeightData::new(*weight_type, &aligned));
            prop_assert_eq!(weight.relative_error(), encoded.relative_error);
            prop_assert_eq!(layout::decode(spec, &weight.data).len(), spec.shape.iter().product::<usize>());
            prop_assert!(weight.verify().is_ok());
        }
    }

    /// Bytes changed anywhere in the table, with valid checksums, so that the checks after these are reached.
    #[test]
    fn a_mutated_table_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let file = sample();
        let mut table = file[LittleEndian::read_u64(&file[24..32]) as usize..].to_vec();
        for (index, byte) in changes {
            let at = index.index(table.len());
            // Digits are replaced by digits: otherwise nearly every change would only break the JSON.
            table[at] = if table[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        if let Ok(file) = parse(&with_table(&file, &table)) {
            for weight in file.components().flat_map(|component| component.weights().collect::<Vec<_>>()) {
                let _ = (weight.verify(), layout::decode(weight.spec, &weight.data));
            }
        }
    }
}

#[test]
fn components_and_their_configs_are_bounded() {
    let problem = |count: usize, config: &serde_json::Value| {
        let many = refused(|t| {
            let mut component = t["components"][0].clone();
            component["config"] = config.clone();
            let named = |index: usize| {
                component["name"] = json!(format!("c{index}"));
                component.clone()
            };
            t["components"] = (0..count).map(named).collect();
        });
        many.to_string()
    };
    let found = problem(1025, &json!({}));
    assert!(found.contains("more than 1024 components"), "{found}");
    let found = problem(21, &json!({ "x": "x".repeat(200 << 10) }));
    assert!(found.contains("the configs have more than 4 MiB together"), "{found}");
}
