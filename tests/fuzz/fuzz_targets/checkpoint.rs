//! Weights that come from elsewhere: a safetensors file, read for a small configuration.
#![no_main]

use candle_core::Device;
use handclip::model::{ClipConfig, Parameters};

const CONFIG: &str = include_str!("../../golden/clip/legacy_eos/config.json");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = ClipConfig::from_json(CONFIG) else { return };
    let Ok(dir) = tempfile::tempdir() else { return };
    let path = dir.path().join("model.safetensors");
    if std::fs::write(&path, bytes).is_ok() {
        let _ = Parameters::load(&config, &path, &Device::Cpu);
    }
});
