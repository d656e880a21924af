//! Prompts made of what a label file says of an image.

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::domain::{HandAttributes, Side};

use super::recipe::PromptRecipe;

/// The free-form attribute whose value describes an image in words: a column of a CSV manifest.
const PROMPT: &str = "prompt";

/// Templates where a recipe names none.
const TEMPLATES: [&str; 6] = [
    "A {hand} hand {accessories}",
    "a photo of a {hand} hand {accessories}",
    "a {hand} hand of a person {accessories}",
    "a close photo of one {hand} hand {accessories}",
    "an image of a human {hand} hand {accessories}",
    "{hand} hand {accessories}",
];

/// What prompts can say of an image: its own prompt, or aspect, side and accessories where they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said<'a> {
    own: Option<&'a str>,
    aspect: Option<&'a str>,
    side: Option<Side>,
    accessories: Option<bool>,
}

impl<'a> Said<'a> {
    /// Of a mirrored image the side is the other one, and its own prompt may no longer be true.
    pub(super) fn of(attributes: &'a HandAttributes, mirrored: bool) -> Self {
        let own = attributes.extra.get(PROMPT).filter(|_| !mirrored).map(String::as_str);
        if own.is_some() {
            return Self { own, aspect: None, side: None, accessories: None };
        }
        let side = attributes.side.map(|side| match (side, mirrored) {
            (Side::Left, true) => Side::Right,
            (Side::Right, true) => Side::Left,
            (side, false) => side,
        });
        let aspect = attributes.aspect.map(|aspect| aspect.as_str());
        Self { own, aspect, side, accessories: attributes.accessories }
    }

    fn in_words(&self, template: &str) -> String {
        if let Some(own) = self.own {
            return own.to_owned();
        }
        let hand = [self.aspect, self.side.map(Side::as_str)];
        let hand: Vec<&str> = hand.into_iter().flatten().collect();
        let worn = match self.accessories {
            Some(true) => "with accessories",
            Some(false) => "without accessories",
            None => "",
        };
        let text = template.replace("{hand}", &hand.join(" ")).replace("{accessories}", worn);
        // What is left out leaves its spaces behind.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// One prompt for each different description of a batch, by the seed one of several templates, and
/// `[batch, prompts]` of 1 where it is that image's.
pub(super) fn describe(
    recipe: &PromptRecipe,
    images: &[Said<'_>],
    seed: u64,
    device: &Device,
) -> candle_core::Result<(Vec<String>, Tensor)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9407);
    let mut different = images.to_vec();
    different.sort_unstable();
    different.dedup();
    let mut draw = || match recipe.templates.as_slice() {
        [] => TEMPLATES[rng.random_range(0..TEMPLATES.len())],
        own => own[rng.random_range(0..own.len())].as_str(),
    };
    let texts = different.iter().map(|said| said.in_words(draw())).collect();
    let matches: Vec<f32> = images
        .iter()
        .flat_map(|own| different.iter().map(move |other| f32::from(u8::from(other == own))))
        .collect();
    let shape = (images.len(), different.len());
    Ok((texts, Tensor::from_vec(matches, shape, device)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Aspect;

    fn of(side: Side, accessories: Option<bool>) -> HandAttributes {
        HandAttributes {
            aspect: Some(Aspect::Dorsal),
            side: Some(side),
            accessories,
            ..HandAttributes::default()
        }
    }

    #[test]
    fn images_share_the_prompt_that_is_true_of_them() {
        let images = [
            of(Side::Left, Some(true)),
            of(Side::Right, None),
            of(Side::Left, Some(true)),
            of(Side::Left, Some(false)),
        ];
        let said: Vec<Said<'_>> = images.iter().map(|of| Said::of(of, false)).collect();
        let recipe = PromptRecipe::default();
        let (texts, matches) = describe(&recipe, &said, 3, &Device::Cpu).unwrap();
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

    #[test]
    fn a_mirrored_hand_is_described_as_one_of_the_other_side() {
        let left = of(Side::Left, None);
        let templates = vec!["one {hand} hand {accessories}".to_owned()];
        let recipe = PromptRecipe { templates };
        let said = [Said::of(&left, false), Said::of(&left, true)];
        let (mut texts, _) = describe(&recipe, &said, 1, &Device::Cpu).unwrap();
        texts.sort();
        assert_eq!(texts, ["one dorsal left hand", "one dorsal right hand"]);
    }

    #[test]
    fn a_prompt_of_the_label_file_stands_as_it_is() {
        let mut own = of(Side::Left, Some(true));
        own.extra.insert("prompt".to_owned(), "a left hand with a watch".to_owned());
        let words = |mirrored| Said::of(&own, mirrored).in_words("{hand}");
        assert_eq!(words(false), "a left hand with a watch");
        assert_eq!(words(true), "dorsal right");
    }
}
