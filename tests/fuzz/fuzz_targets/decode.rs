//! Pictures: whatever comes is refused or within the limits.
#![no_main]

use handclip::image::{DecodeLimits, decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits =
        DecodeLimits { max_side: 512, max_decoded_bytes: 1 << 19, ..DecodeLimits::default() };
    if let Ok(picture) = decode(bytes, &limits) {
        assert!(picture.width() <= 512 && picture.height() <= 512);
        assert!(picture.rgb().len() <= 1 << 19);
    }
});
