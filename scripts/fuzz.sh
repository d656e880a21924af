#!/usr/bin/env bash
# Fuzzes what reads files of strangers: pictures, checkpoints, tokenizers, backups (libFuzzer with the address sanitizer; needs
# a nightly toolchain and cargo-fuzz). Ends with an error at the first input that panics, hangs or takes too much memory.
#
#   scripts/fuzz.sh [SECONDS] [TARGETS]    seconds for each target (default 600); decode checkpoint tokenizer backup
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(decode checkpoint tokenizer backup)

# Tokenizers and backups have no golden files: the binary makes some.
seeds=target/fuzz-seeds
rm -rf "$seeds" && mkdir -p "$seeds"/{decode,checkpoint,tokenizer,backup}
cp tests/golden/image/decode/*.{jpg,png,webp} "$seeds/decode"
for golden in tests/golden/clip/*/; do
    cp "$golden/model.safetensors" "$seeds/checkpoint/$(basename "$golden")"
done
for file in src/model/nano/tokenizer*.json; do
    { printf '%-200s' 'a dorsal right hand with a ring'; cat "$file"; } >"$seeds/tokenizer/$(basename "$file")"
done
handclip=${HANDCLIP:-target/release/handclip}
export HANDCLIP_MASTER_KEY=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
"$handclip" gallery --data-dir "$seeds/store" create staff >/dev/null
"$handclip" gallery --data-dir "$seeds/store" backup "$seeds/backup/whole" >/dev/null
rm -rf "$seeds/store"

for target in "${targets[@]}"; do
    mkdir -p "target/fuzz-corpus/$target"
    cargo +nightly fuzz run --release --fuzz-dir tests/fuzz --target-dir target/fuzz "$target" \
        "target/fuzz-corpus/$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=262144
done
