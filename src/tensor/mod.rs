//! Devices, and the operations a transformer needs that candle lacks a backward or a fast path for.
//!
//! Every operation on tensors here is differentiable in all its arguments. On a CPU in f32 and on a CUDA device in
//! f32 or bf16 it is one fused pass with its own backward; elsewhere it is composed of basic candle operations,
//! which have theirs. Knows tensors, not models.

mod activation;
mod attention;
mod backward;
mod block;
mod buffer;
mod card;
mod device;
#[cfg(test)]
mod gradients;
pub mod lean;
mod linear;
mod norm;
mod products;
mod room;
mod simd;
mod softmax;
mod update;

pub use activation::{Activation, gelu, quick_gelu};
pub use attention::{attention, attention_weights, mix_heads};
pub use backward::backward;
pub use block::{Affine, BlockParameters, block};
pub use card::{AdamStep, MomentumStep, adam_step, momentum_step, square_sum};
pub use device::{DeviceChoice, DeviceError, open};
pub use linear::linear;
pub use norm::{layer_norm, normalise};
pub use products::Panels;
pub use room::room;
pub use softmax::softmax;
pub use update::{in_place, update, widest, with_values};
