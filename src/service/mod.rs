//! What a caller can ask for, in the caller's words.

pub mod nano_card;
pub mod pretrain;
