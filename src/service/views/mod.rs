//! What the service takes and gives. Everything given is `Serialize` and has a schema, so that the
//! REST API and `--json` print the same.

mod enrolled;
mod explain;
mod jobs;
mod keys;
mod recognition;
mod system;

use serde::Serializer;

pub use enrolled::*;
pub use explain::*;
pub use jobs::*;
pub use keys::*;
pub use recognition::*;
pub use system::*;

/// Digits of a similarity that leave the server. More would only help those who change a picture little by little to
/// see whether it comes closer to somebody (hill climbing).
const STEPS: f64 = 1e4;
/// Of one image and itself the product may fall short of 1 by this.
const ROUNDING: f64 = 5e-7;

/// Writes a similarity with four digits, rounded down: whoever compares it with a threshold of their own accepts
/// nobody that the whole number would not. Decisions here are taken on the whole number.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn rounded<S: Serializer>(similarity: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    let steps = ((f64::from(*similarity) + ROUNDING) * STEPS).floor();
    serializer.serialize_f32((steps / STEPS) as f32)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::rounded;

    #[derive(Serialize)]
    struct Shown(#[serde(serialize_with = "rounded")] f32);

    #[test]
    fn a_similarity_leaves_with_four_digits_and_never_larger_than_it_is() {
        for (similarity, shown) in [
            (0.837_291_5, "0.8372"),
            (0.999_999_94, "1.0"),
            (0.999_94, "0.9999"),
            (-0.000_04, "-0.0001"),
            (-1.0, "-1.0"),
            (0.5, "0.5"),
        ] {
            assert_eq!(serde_json::to_string(&Shown(similarity)).unwrap(), shown);
        }
    }
}
