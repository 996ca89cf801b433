//! Any bytes as a picture: an error, or pixels and texts, in little memory; never a panic.
#![no_main]

use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use sdq_formats::picture;

const MEMORY: u64 = 64 << 20;

fuzz_target!(|data: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/sdq-fuzz-{}.picture", std::process::id()));
    fs::write(&path, data).expect("the memory disk is writable");
    let _ = picture::read_texts(&path);
    if let Ok(picture) = picture::read_within(&path, MEMORY).map(|seen| seen.picture) {
        assert_eq!(picture.rgb.len(), 3 * picture.width * picture.height);
        if let Ok(filled) = picture.fill_within(64, 48, MEMORY) {
            assert_eq!(filled.rgb.len(), 3 * 64 * 48);
        }
    }
});
