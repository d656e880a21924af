//! What vectors are compared by, written for AVX2 and AVX-512: left to the compiler, some loops were unrolled and then worked on value by value.

mod dots;
mod hamming;
mod lookup;

pub(super) use hamming::Counting;
