#!/usr/bin/env bash
# Compiles `handclip --features cuda` where there is neither a GPU nor the CUDA toolkit: compiler and libraries
# come from Python wheels, and the driver library, which only a driver brings, is linked as a stub. The binary
# needs the real libcuda, libcublas, libcurand and libcudart where it runs.
#
#   scripts/cuda-build.sh [TARGETS]     TARGETS: what cargo build takes, as `--bench train`; default: the binary
#
# CUDA_TOOLKIT is a folder to keep the toolkit in; default target/cuda-toolkit.
# CUDA_COMPUTE_CAP picks the architecture: 80 A100, 86 RTX 30, 89 RTX 40 and L4, 90 H100 and H200 (default).
set -euo pipefail
cd "$(dirname "$0")/.."

toolkit=${CUDA_TOOLKIT:-target/cuda-toolkit}
mkdir -p "$toolkit"
toolkit=$(cd "$toolkit" && pwd)

if [ ! -x "$toolkit/bin/nvcc" ]; then
    python3 -m venv "$toolkit/venv"
    "$toolkit/venv/bin/pip" install --quiet \
        "nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" \
        "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cccl==13.0.*" "nvidia-cublas==13.0.*" \
        "nvidia-cuda-nvrtc==13.0.*" nvidia-curand
    wheels=$(echo "$toolkit"/venv/lib/python3*/site-packages/nvidia/cu13)
    for part in include nvvm bin; do
        ln -sfn "$wheels/$part" "$toolkit/$part"
    done
    mkdir -p "$toolkit/lib64"
    for library in cublas cublasLt cudart nvrtc curand; do
        found=$(find "$wheels/lib" -name "lib$library.so.*" | sort | head -n 1)
        ln -sfn "$found" "$toolkit/lib64/lib$library.so"
    done
fi

if [ ! -e "$toolkit/lib64/libcuda.so" ]; then
    cargo fetch --locked
    names=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*/cudarc-*/src/driver/sys/mod.rs' -print0 |
        xargs -0 grep -hoE '\bcu[A-Z][A-Za-z0-9_]+' | sort -u)
    for name in $names; do
        echo "int $name(void) { return 999; }"
    done > "$toolkit/stub.c"
    cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$toolkit/lib64/libcuda.so" "$toolkit/stub.c"
fi

export CUDA_HOME=$toolkit CUDA_PATH=$toolkit CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
export PATH=$toolkit/bin:$PATH
exec cargo build --release --locked --features cuda --target-dir target/cuda "$@"
