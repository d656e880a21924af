//! Files made to harm: each is refused by its own code, or made harmless.

use handclip::image::{DecodeLimits, decode};
use proptest::prelude::*;

use super::build;
use crate::support::golden;

const W: u32 = 40;
const H: u32 = 30;

fn code(file: &[u8]) -> &'static str {
    decode(file, &DecodeLimits::default()).map_or_else(|e| e.code(), |_| "decoded")
}

fn each_format() -> [(&'static str, Vec<u8>); 3] {
    [("jpeg", build::jpeg(W, H)), ("png", build::png(W, H)), ("webp", build::webp(W, H))]
}

#[test]
fn other_media_types_are_refused_by_content() {
    assert_eq!(code(b""), "image_empty");
    for file in [
        &b"\0"[..],
        b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"RIFF\x04\0\0\0WAVE",
        b"GIF89a\x01\0\x01\0\0\0\0;",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\r",
    ] {
        assert_eq!(code(file), "unsupported_media_type", "{file:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    for (name, file) in each_format() {
        // Before this there is no telling what it is.
        let signature = match name {
            "jpeg" => 2,
            "png" => 8,
            _ => 12,
        };
        for length in signature..file.len() {
            assert_eq!(code(&file[..length]), "image_truncated", "{name} cut to {length}");
        }
        assert_eq!(code(&file), "decoded", "{name}");
    }
}

#[test]
fn an_end_marker_in_a_thumbnail_does_not_end_the_image() {
    let thumbnail = build::jpeg(8, 8);
    let file = build::jpeg_with(&build::jpeg(W, H), 0xe1, &[b"Exif\0\0", &thumbnail[..]].concat());
    assert_eq!(code(&file), "decoded");
    assert_eq!(code(&file[..thumbnail.len() + 60]), "image_truncated");
}

#[test]
fn a_polyglot_with_an_archive_behind_it_is_refused() {
    for (name, file) in each_format() {
        for tail in [&b"PK\x03\x04archive"[..], b"x", b"<script>", &file] {
            let polyglot = [&file, tail].concat();
            assert_eq!(code(&polyglot), "image_trailing_data", "{name}");
        }
    }
}

#[test]
fn a_jpeg_may_be_padded_with_a_block_of_zeros_but_not_with_megabytes() {
    let file = build::jpeg(W, H);
    assert_eq!(code(&[&file[..], &[0; 4096]].concat()), "decoded");
    assert_eq!(code(&[&file[..], &[0; 70_000]].concat()), "image_trailing_data");
    assert_eq!(code(&[&build::png(W, H)[..], &[0]].concat()), "image_trailing_data");
    assert_eq!(code(&[&build::webp(W, H)[..], &[0]].concat()), "image_trailing_data");
}

#[test]
fn further_pictures_in_a_jpeg_must_be_announced_and_whole() {
    let (file, preview) = (build::jpeg(W, H), build::jpeg(8, 8));
    let announced = build::jpeg_with(&file, 0xe2, b"MPF\0II*\0\x08\0\0\0");
    let with = |tail: &[u8]| code(&[&announced[..], tail].concat());
    assert_eq!(with(&preview), "decoded");
    assert_eq!(with(&[&[0; 100][..], &preview, &preview].concat()), "decoded");
    assert_eq!(with(&preview[..preview.len() - 9]), "image_truncated");
    assert_eq!(with(&[&preview[..], b"PK\x03\x04"].concat()), "image_trailing_data");
    assert_eq!(with(b"PK\x03\x04"), "image_trailing_data");
    assert_eq!(code(&[&file[..], &preview].concat()), "image_trailing_data");
}

#[test]
fn animations_are_refused() {
    assert_eq!(code(&build::animated_webp(W, H)), "image_animated");
    // The flag alone, and the chunks without the flag.
    let still = &build::webp(W, H)[12..];
    let flag = build::riff(&[&build::vp8x(0x02, W, H), still].concat());
    assert_eq!(code(&flag), "image_animated");
    let chunk = build::riff(
        &[&build::vp8x(0, W, H), &build::riff_chunk(b"ANIM", &[0; 6])[..], still].concat(),
    );
    assert_eq!(code(&chunk), "image_animated");
    let png = build::png(W, H);
    let control = [0, 0, 0, 1, 0, 0, 0, 0];
    assert_eq!(code(&build::png_with(&png, b"acTL", &control)), "image_animated");
    let end = png.len() - 12;
    let late = [&png[..end], &build::png_chunk(b"fdAT", &[0; 9]), &png[end..]].concat();
    assert_eq!(code(&late), "image_animated");
}

/// An 8x8 PNG with a compressed chunk of each kind, 300 MB of zeros each.
fn bombs() -> Vec<Vec<u8>> {
    let zeros = build::zlib_of_zeros(300_000_000);
    let plain = build::png(8, 8);
    let profile = [b"bomb\0\0".as_slice(), &zeros].concat();
    let international = [b"bomb\0\x01\0\0\0".as_slice(), &zeros].concat();
    [(b"iCCP", &profile), (b"zTXt", &profile), (b"iTXt", &international)]
        .map(|(kind, body)| build::png_with(&plain, kind, body))
        .to_vec()
}

#[test]
fn compressed_profiles_and_texts_change_nothing() {
    let expected = decode(&build::png(8, 8), &DecodeLimits::default()).unwrap();
    for bomb in bombs() {
        assert_eq!(decode(&bomb, &DecodeLimits::default()).unwrap(), expected);
    }
}

#[test]
fn pixel_data_may_not_inflate_to_more_than_the_picture() {
    let plain = build::png(8, 8);
    let lines = build::png_chunk(b"IDAT", &build::zlib_of_zeros(300_000_000));
    let file = [&plain[..8 + 25], &lines, &build::png_chunk(b"IEND", &[])].concat();
    // Zeros are a black picture; what follows is never inflated.
    let picture = decode(&file, &DecodeLimits::default()).unwrap();
    assert_eq!(picture.rgb(), [0; 8 * 8 * 3]);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn decode_bombs_and_print_the_peak() {
    for bomb in bombs() {
        decode(&bomb, &DecodeLimits::default()).unwrap();
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
}

#[test]
fn bombs_are_never_inflated_in_memory() {
    if !std::path::Path::new("/proc/self/status").exists() {
        println!("skipped: peak memory is read from /proc");
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("images::hostile::decode_bombs_and_print_the_peak")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    let peak = output.split("VmHWM:").nth(1).and_then(|rest| rest.split_whitespace().next());
    let kilobytes: u64 = peak.unwrap_or_else(|| panic!("{output}")).parse().unwrap();
    assert!(kilobytes < 64 << 10, "peak of {kilobytes} kB");
}

#[test]
fn forged_dimensions_are_refused_from_the_header() {
    let png = |width, height| build::png_raw(width, height, 8, 2, &[0; 9]);
    let mut jpeg = build::jpeg(W, H);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let mut webp = build::webp(W, H);
    webp[21..25].copy_from_slice(&0x0fff_ffff_u32.to_le_bytes());
    for file in [png(u32::MAX, 1), png(1, 8193), png(60_000, 60_000), png(8192, 8192), jpeg, webp] {
        assert_eq!(code(&file), "image_too_large");
    }
    assert_eq!(code(&png(0, 5)), "image_corrupt");
    // A header that promises more than the data holds, within the limits.
    assert_eq!(code(&png(4000, 4000)), "image_corrupt");
}

/// Found by fuzzing: the decoder takes for granted that colours come whole.
#[test]
fn a_palette_of_parts_of_colours_is_corrupt() {
    let header = build::png_raw(4, 4, 8, 3, &[0; 20]);
    for palette in [&[][..], &[1], &[1, 2, 3, 4], &[0; 3 * 257]] {
        let file = build::png_with(&header, b"PLTE", palette);
        assert_eq!(code(&file), "image_corrupt", "{}", palette.len());
    }
    assert_eq!(code(&build::png_with(&header, b"PLTE", &[9; 3])), "decoded");
}

#[test]
fn limits_are_the_callers() {
    let file = build::png(W, H);
    let code =
        |limits: DecodeLimits| decode(&file, &limits).map_or_else(|e| e.code(), |_| "decoded");
    let whole = DecodeLimits {
        max_side: W,
        max_decoded_bytes: u64::from(W * H * 3),
        max_working_bytes: u64::from(W * H * 3) + file.len() as u64,
        max_file_bytes: file.len(),
    };
    assert_eq!(code(whole), "decoded");
    assert_eq!(code(DecodeLimits { max_side: W - 1, ..whole }), "image_too_large");
    assert_eq!(
        code(DecodeLimits { max_decoded_bytes: whole.max_decoded_bytes - 1, ..whole }),
        "image_too_large"
    );
    let code_of =
        |limits| decode(&file, &limits).map_or_else(|e| e.to_string(), |_| "decoded".to_owned());
    let short = DecodeLimits { max_working_bytes: whole.max_working_bytes - 1, ..whole };
    assert!(code_of(short).contains("not progressive"), "{}", code_of(short));
    assert_eq!(code(short), "image_too_large");
    assert_eq!(
        code(DecodeLimits { max_file_bytes: file.len() - 1, ..whole }),
        "image_file_too_large"
    );
}

#[test]
fn damage_inside_a_whole_file_is_corrupt() {
    let png = build::png(W, H);
    let data = png.windows(4).position(|w| w == b"IDAT").unwrap();
    let mut flipped = png.clone();
    flipped[data + 20] ^= 0x40;
    assert_eq!(code(&flipped), "image_corrupt");
    let mut end = png.clone();
    *end.last_mut().unwrap() ^= 1;
    assert_eq!(code(&end), "image_corrupt");
    let unknown = build::png_with(&png, b"ABCD", b"needed");
    assert_eq!(code(&unknown), "image_corrupt");
    let twice = build::png_with(&png, b"IHDR", &png[16..29]);
    assert_eq!(code(&twice), "image_corrupt");
    let headless = [&png[..8], &png[33..]].concat();
    assert_eq!(code(&headless), "image_corrupt");
    let canvas = build::riff(&[&build::vp8x(0, W + 1, H), &build::webp(W, H)[12..]].concat());
    assert_eq!(code(&canvas), "image_corrupt");
    assert_eq!(code(b"\xff\xd8\xff\xd9"), "image_corrupt");
    let mut gap = build::jpeg(W, H);
    gap.splice(2..2, *b"gap");
    assert_eq!(code(&gap), "image_corrupt");
}

#[test]
fn a_damaged_scan_is_corrupt_and_not_painted_grey() {
    for file in [build::jpeg(160, 120), read_progressive()] {
        let scan = file.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
        let mut damaged = file.clone();
        // All ones is the one code that no Huffman table may hold.
        for pair in damaged[scan + 40..scan + 60].chunks_exact_mut(2) {
            pair.copy_from_slice(&[0xff, 0]);
        }
        assert_eq!(code(&damaged), "image_corrupt");
    }
}

fn read_progressive() -> Vec<u8> {
    std::fs::read(golden("image/decode/progressive.jpg")).unwrap()
}

/// Flip, cut, insert and repeat: the ways in which files break, and in which fuzzers break them.
#[derive(Debug, Clone)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, b)| Mutation::Insert(at, b)),
        1 => (at(), 1..40usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (at(), 1..40usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

fn mutate(file: &mut Vec<u8>, mutation: Mutation) {
    if file.is_empty() {
        return;
    }
    let end = |at: usize, count: usize, length: usize| (at + count).min(length);
    match mutation {
        Mutation::Set(at, byte) => *at.get_mut(file) = byte,
        Mutation::Insert(at, bytes) => {
            let at = at.index(file.len());
            file.splice(at..at, bytes);
        }
        Mutation::Remove(at, count) => {
            let at = at.index(file.len());
            file.drain(at..end(at, count, file.len()));
        }
        Mutation::Repeat(at, count) => {
            let at = at.index(file.len());
            file.extend_from_within(at..end(at, count, file.len()));
        }
    }
}

/// Recomputes what a fuzzer would: PNG checksums and the RIFF length, so that damage gets past them.
fn repair(file: &mut [u8]) {
    if file.starts_with(b"RIFF") && file.len() >= 12 {
        let length = file.len() as u32 - 8;
        file[4..8].copy_from_slice(&length.to_le_bytes());
    }
    let mut at = 8;
    while file.starts_with(b"\x89PNG") && at + 12 <= file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let Some(body) = file.get(at + 4..at.saturating_add(length).saturating_add(8)) else {
            return;
        };
        let crc = build::crc32(body);
        let end = at + 8 + length;
        let Some(place) = file.get_mut(end..end + 4) else { return };
        place.copy_from_slice(&crc.to_be_bytes());
        at = end + 4;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_mutation_of_a_file_panics_or_breaks_the_limits(
        format in 0..4usize,
        mutations in prop::collection::vec(mutation(), 1..12),
        repaired in any::<bool>(),
    ) {
        let exif = build::exif(6, false);
        let mut file = match format {
            0 => build::jpeg_with(&build::jpeg(33, 17), 0xe1, &[b"Exif\0\0", &exif[..]].concat()),
            1 => build::png_with(&build::png(33, 17), b"eXIf", &exif),
            2 => build::webp_with_exif(33, 17, &exif),
            _ => read_progressive(),
        };
        for mutation in mutations {
            mutate(&mut file, mutation);
        }
        if repaired {
            repair(&mut file);
        }
        let limits = DecodeLimits { max_side: 512, max_decoded_bytes: 1 << 19, ..DecodeLimits::default() };
        match decode(&file, &limits) {
            Ok(picture) => {
                prop_assert!(picture.width() <= 512 && picture.height() <= 512);
                prop_assert!(picture.rgb().len() <= 1 << 19);
            }
            // A panic inside a decoder is caught and called this; none is known.
            Err(refused) => prop_assert!(!refused.to_string().contains("gave up"), "{file:?}"),
        }
    }

    #[test]
    fn no_bytes_behind_a_signature_panic(format in 0..3usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let signature = [&b"\xff\xd8"[..], b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"RIFF\x40\0\0\0WEBPVP8L"][format];
        prop_assert!(decode(&[signature, &bytes].concat(), &DecodeLimits::default()).is_err());
    }
}
