//! The fused operations on a CUDA device in f32 and bf16: a kernel or two each (kernels.cu) where candle would start
//! a dozen. In a build without the feature `cuda`, where no tensor lies on such a device, functions that say so.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod activation;
#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod block;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod linear;
#[cfg(feature = "cuda")]
mod norm;
#[cfg(feature = "cuda")]
mod softmax;
#[cfg(feature = "cuda")]
mod steps;

#[cfg(not(feature = "cuda"))]
pub(super) use absent::{
    activation, activation_backward, attention, attention_backward, block, column_sums, layer_norm,
    layer_norm_backward, linear, softmax, softmax_backward,
};
#[cfg(not(feature = "cuda"))]
pub use absent::{adam_step, momentum_step, square_sum};
#[cfg(feature = "cuda")]
pub use steps::{adam_step, momentum_step, square_sum};
#[cfg(feature = "cuda")]
pub(super) use {
    activation::{activation, activation_backward},
    attention::{attention, attention_backward},
    block::block,
    launch::keep_memory,
    linear::{column_sums, linear},
    norm::{layer_norm, layer_norm_backward},
    softmax::{softmax, softmax_backward},
};

use candle_core::{CudaStorage, Layout};

/// A tensor as an operation's forward pass is given it.
pub(super) type Given<'a> = (&'a CudaStorage, &'a Layout);

/// Factors of one step of AdamW, the same for all values of a parameter.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Keeps the division finite.
    pub eps: f32,
    /// The rate over the mean's bias correction.
    pub rate: f32,
    /// What the root of the mean square is multiplied by: one over the root of its bias correction.
    pub root: f32,
    /// What is left of a value after decay.
    pub keep: f32,
}

/// Factors of one step with momentum.
#[derive(Debug, Clone, Copy)]
pub struct MomentumStep {
    /// Decay of the velocity.
    pub momentum: f32,
    /// How much of a value is added to its gradient.
    pub decay: f32,
    /// The rate.
    pub rate: f32,
}
