//! Compiles the CUDA kernels, where the feature `cuda` is on. What else is built needs no script.
#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]

use std::path::PathBuf;
use std::process::Command;

const KERNELS: &str = "src/tensor/card/kernels.cu";
/// The oldest architecture that knows bf16 (A100); drivers translate for newer ones.
const ARCHITECTURE: &str = "-arch=compute_80";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={KERNELS}");
    let toolkit = ["CUDA_HOME", "CUDA_PATH"].iter().find_map(std::env::var_os);
    let nvcc =
        toolkit.map_or_else(|| PathBuf::from("nvcc"), |at| PathBuf::from(at).join("bin/nvcc"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.ptx");
    let compiled =
        Command::new(&nvcc).args(["-ptx", "-O3", ARCHITECTURE, KERNELS, "-o"]).arg(&out).status();
    match compiled {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{KERNELS} was not compiled: {status}")),
        Err(error) => fail(&format!(
            "{} does not start ({error}): install the CUDA toolkit or set CUDA_HOME, or use scripts/cuda-build.sh",
            nvcc.display()
        )),
    }
}

fn fail(reason: &str) {
    println!("cargo::error={reason}");
    std::process::exit(1);
}
