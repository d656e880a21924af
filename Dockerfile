# syntax=docker/dockerfile:1
#
#   docker build -t handclip .                            CPU (default)
#   docker build -t handclip:cuda --build-arg VARIANT=cuda .   CUDA 13; needs libcuda on the host
#
# Without API keys HandCLIP listens on loopback only, so make one before it is reached from outside:
#   docker run --rm -v handclip-data:/data handclip keys create --name ops --scope admin
#   docker run -p 8470:8470 -e HANDCLIP_LISTEN=0.0.0.0:8470 -v handclip-data:/data handclip

ARG VARIANT=cpu
ARG RUST_VERSION=1.95
ARG CUDA_VERSION=13.0.2

FROM rust:${RUST_VERSION}-bookworm AS build-cpu
ENV FEATURES=""

FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS build-cuda
ARG RUST_VERSION
# The compute capability of the cards it will run on: 80 A100, 86 A10/RTX 30, 89 L4/RTX 40, 90 H100.
ARG CUDA_COMPUTE_CAP=80
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates curl pkg-config \
    && rm -rf /var/lib/apt/lists/* \
    && curl -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain ${RUST_VERSION}
ENV PATH=/root/.cargo/bin:${PATH} CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} FEATURES="--features cuda"

FROM build-${VARIANT} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# The dependencies alone, so that a change of ours does not compile them again.
RUN mkdir -p src tests/it && echo 'fn main() {}' > src/main.rs && touch src/lib.rs tests/it/main.rs \
    && cargo build --release --locked ${FEATURES} \
    && rm -rf src tests
COPY . .
RUN touch src/lib.rs src/main.rs && cargo build --release --locked ${FEATURES} \
    && install -D target/release/handclip /out/handclip

FROM debian:bookworm-slim AS runtime-cpu
FROM nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu24.04 AS runtime-cuda

FROM runtime-${VARIANT}
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin handclip \
    && install -d -o handclip -g handclip -m 0700 /data
COPY --from=build /out/handclip /usr/local/bin/handclip
USER handclip
VOLUME /data
ENV HANDCLIP_DATA_DIR=/data
EXPOSE 8470
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["handclip", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["handclip"]
CMD ["serve"]
