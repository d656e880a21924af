//! Prompts made of what a label file says of an image.

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::domain::HandAttributes;

/// What prompts can say of an image: aspect, side, accessories, each where it is known.
type Said<'a> = (Option<&'a str>, Option<&'a str>, Option<bool>);

fn said(attributes: &HandAttributes) -> Said<'_> {
    (
        attributes.aspect.map(|aspect| aspect.as_str()),
        attributes.side.map(|side| side.as_str()),
        attributes.accessories,
    )
}

/// One prompt for each different description of a batch, by the seed one of several templates, and
/// `[batch, prompts]` of 1 where it is that image's.
pub(super) fn describe(
    attributes: &[&HandAttributes],
    seed: u64,
    device: &Device,
) -> candle_core::Result<(Vec<String>, Tensor)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9407);
    let mut different: Vec<Said<'_>> = attributes.iter().map(|of| said(of)).collect();
    different.sort_unstable();
    different.dedup();
    let texts = different.iter().map(|said| prompt(*said, rng.random_range(0..4))).collect();
    let matches: Vec<f32> = attributes
        .iter()
        .flat_map(|of| {
            let own = said(of);
            different.iter().map(move |other| f32::from(u8::from(*other == own)))
        })
        .collect();
    let shape = (attributes.len(), different.len());
    Ok((texts, Tensor::from_vec(matches, shape, device)?))
}

fn prompt((aspect, side, accessories): Said<'_>, template: u8) -> String {
    let worn = match accessories {
        Some(true) => " with accessories",
        Some(false) => " without accessories",
        None => "",
    };
    let hand: String =
        [aspect, side].into_iter().flatten().map(|word| format!("{word} ")).collect();
    match template {
        0 => format!("A {hand}hand{worn}"),
        1 => format!("a photo of a {hand}hand{worn}"),
        2 => format!("a {hand}hand of a person{worn}"),
        _ => format!("a close photo of one {hand}hand{worn}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Aspect, Side};

    #[test]
    fn images_share_the_prompt_that_is_true_of_them() {
        let of = |side, accessories| HandAttributes {
            aspect: Some(Aspect::Dorsal),
            side: Some(side),
            accessories,
            ..HandAttributes::default()
        };
        let images = [
            of(Side::Left, Some(true)),
            of(Side::Right, None),
            of(Side::Left, Some(true)),
            of(Side::Left, Some(false)),
        ];
        let images: Vec<&HandAttributes> = images.iter().collect();
        let (texts, matches) = describe(&images, 3, &Device::Cpu).unwrap();
        assert_eq!(texts.len(), 3);
        let rows = matches.to_vec2::<f32>().unwrap();
        assert_eq!(rows[0], rows[2]);
        for (row, image) in rows.iter().zip(&images) {
            assert_eq!(row.iter().sum::<f32>(), 1.0);
            let text = &texts[row.iter().position(|m| *m == 1.0).unwrap()];
            assert!(text.contains(&format!("dorsal {} hand", image.side.unwrap())), "{text}");
            assert_eq!(text.contains("without"), image.accessories == Some(false), "{text}");
            assert_eq!(text.contains("accessories"), image.accessories.is_some(), "{text}");
        }
    }
}
