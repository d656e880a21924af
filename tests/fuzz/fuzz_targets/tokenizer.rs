//! Tokenizers that come with models, and what is asked of them: the first 200 bytes are a text, the rest `tokenizer.json`.
#![no_main]

use handclip::model::{ClipConfig, Tokenizer};

const CONFIG: &str = include_str!("../../golden/clip/legacy_eos/config.json");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (text, json) = bytes.split_at(bytes.len().min(200));
    let Ok(config) = ClipConfig::from_json(CONFIG) else { return };
    if let Ok(tokenizer) = Tokenizer::from_bytes(json, &config)
        && let Ok(tokens) = tokenizer.encode(&String::from_utf8_lossy(text))
    {
        assert!(!tokens.is_empty());
    }
});
