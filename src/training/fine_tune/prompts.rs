//! Prompts made of what a label file says of an image.

use std::collections::BTreeMap;

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

/// What a template may ask for besides the names of free-form attributes.
const ACCESSORIES: &str = "accessories";
const WITH_OR_WITHOUT: &str = "with|without";

/// What prompts can say of an image: its own prompt, or its attributes as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said<'a> {
    own: Option<&'a str>,
    aspect: Option<&'a str>,
    side: Option<Side>,
    accessories: Option<bool>,
    others: &'a BTreeMap<String, String>,
}

/// A template's answers about one image: a prompt is true of every image of which they are.
type Claims = Vec<(String, String)>;

impl<'a> Said<'a> {
    /// Of a mirrored image the side is the other one, and its own prompt may no longer be true.
    pub(super) fn of(attributes: &'a HandAttributes, mirrored: bool) -> Self {
        let others = &attributes.extra;
        let own = others.get(PROMPT).filter(|_| !mirrored).map(String::as_str);
        let side = attributes.side.map(|side| match (side, mirrored) {
            (Side::Left, true) => Side::Right,
            (Side::Right, true) => Side::Left,
            (side, false) => side,
        });
        let aspect = attributes.aspect.map(|aspect| aspect.as_str());
        Self { own, aspect, side, accessories: attributes.accessories, others }
    }

    /// The words for what a template asks for; nothing where it is not known.
    fn answer(&self, asked: &str) -> Option<&'a str> {
        match asked {
            "aspect" => self.aspect,
            "side" => self.side.map(Side::as_str),
            ACCESSORIES => self.worn("with accessories", "without accessories"),
            WITH_OR_WITHOUT => self.worn("with", "without"),
            other => self.others.get(other).map(String::as_str),
        }
    }

    fn worn(&self, with: &'static str, without: &'static str) -> Option<&'a str> {
        self.accessories.map(|worn| if worn { with } else { without })
    }

    /// The image's own prompt, or the template with what is known of the image; and what that claims.
    fn in_words(&self, template: &str) -> (String, Claims) {
        if let Some(own) = self.own {
            return (own.to_owned(), vec![(PROMPT.to_owned(), own.to_owned())]);
        }
        let (mut text, mut claims) = (String::new(), Claims::new());
        for part in parts(template) {
            match part {
                Part::Words(words) => text.push_str(words),
                Part::Asked(asked) => {
                    let Some(answer) = self.answer(asked) else { continue };
                    text.push_str(answer);
                    claims.push((asked.to_owned(), answer.to_owned()));
                }
            }
        }
        // What is left out leaves its spaces behind.
        (text.split_whitespace().collect::<Vec<_>>().join(" "), claims)
    }

    fn is(&self, claims: &Claims) -> bool {
        claims.iter().all(|(asked, answer)| match asked.as_str() {
            PROMPT => self.own == Some(answer),
            asked => self.own.is_none() && self.answer(asked) == Some(answer),
        })
    }
}

enum Part<'a> {
    Words(&'a str),
    Asked(&'a str),
}

/// `{hand}` is aspect and side; every other name in braces asks for itself.
fn parts(template: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((asked, behind)) = behind.split_once('}') else { break };
        parts.push(Part::Words(before));
        match asked {
            "hand" => {
                parts.extend([Part::Asked("aspect"), Part::Words(" "), Part::Asked("side")]);
            }
            asked => parts.push(Part::Asked(asked)),
        }
        rest = behind;
    }
    parts.push(Part::Words(rest));
    parts
}

/// Whether a template asks for anything: without that its prompt is the same for every image.
pub(super) fn asks(template: &str) -> bool {
    parts(template).iter().any(|part| matches!(part, Part::Asked(_)))
}

fn templates(recipe: &PromptRecipe) -> Vec<&str> {
    match recipe.templates.as_slice() {
        [] => TEMPLATES.to_vec(),
        own => own.iter().map(String::as_str).collect(),
    }
}

/// Whether prompts tell any two of these images apart.
pub(super) fn tell_apart<'a>(
    recipe: &PromptRecipe,
    images: impl Iterator<Item = &'a HandAttributes>,
) -> bool {
    let templates = templates(recipe);
    let mut of_first = None;
    for attributes in images {
        let said = Said::of(attributes, false);
        let texts: Vec<String> = templates.iter().map(|of| said.in_words(of).0).collect();
        if *of_first.get_or_insert_with(|| texts.clone()) != texts {
            return true;
        }
    }
    false
}

/// One prompt for each different description of a batch, by the seed one of several templates, and
/// `[batch, prompts]` of 1 where it is true of the image: a prompt that leaves something open is true of more
/// images than the one it was made for.
pub(super) fn describe(
    recipe: &PromptRecipe,
    images: &[Said<'_>],
    seed: u64,
    device: &Device,
) -> candle_core::Result<(Vec<String>, Tensor)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x9407);
    let templates = templates(recipe);
    let mut different = images.to_vec();
    different.sort_unstable();
    different.dedup();
    let mut prompts: Vec<(String, Claims)> = Vec::new();
    for said in different {
        let prompt = said.in_words(templates[rng.random_range(0..templates.len())]);
        if !prompts.contains(&prompt) {
            prompts.push(prompt);
        }
    }
    let is = |said: &Said<'_>, claims: &Claims| f32::from(u8::from(said.is(claims)));
    let matches: Vec<f32> = images
        .iter()
        .flat_map(|said| prompts.iter().map(move |(_, claims)| is(said, claims)))
        .collect();
    let shape = (images.len(), prompts.len());
    let matches = Tensor::from_vec(matches, shape, device)?;
    Ok((prompts.into_iter().map(|(text, _)| text).collect(), matches))
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
        let words = |mirrored| Said::of(&own, mirrored).in_words("{hand}").0;
        assert_eq!(words(false), "a left hand with a watch");
        assert_eq!(words(true), "dorsal right");
    }

    #[test]
    fn templates_ask_for_any_attribute_and_leave_open_what_is_not_known() {
        let mut hand = of(Side::Left, Some(false));
        hand.extra.insert("skin_color".to_owned(), "fair".to_owned());
        let words = |template: &str| Said::of(&hand, false).in_words(template).0;
        let issue = "A {aspect} {side} hand {with|without} accessories";
        assert_eq!(words(issue), "A dorsal left hand without accessories");
        assert_eq!(words("a {skin_color} {hand} hand"), "a fair dorsal left hand");
        assert_eq!(words("a {gender} {hand} hand"), "a dorsal left hand");
        assert_eq!(words("a {hand hand"), "a {hand hand");
        assert!(asks(issue) && !asks("a hand") && !asks("a {hand hand"));
    }

    /// Two images with one prompt must not be drawn away from it by each other.
    #[test]
    fn a_prompt_that_leaves_something_open_is_true_of_all_that_agree() {
        let images = [
            of(Side::Left, Some(true)),
            of(Side::Left, Some(false)),
            of(Side::Right, Some(true)),
            of(Side::Left, None),
        ];
        let said: Vec<Said<'_>> = images.iter().map(|of| Said::of(of, false)).collect();
        let matches = |templates: &[&str]| {
            let templates = templates.iter().map(|&of| of.to_owned()).collect();
            let recipe = PromptRecipe { templates };
            let (texts, matches) = describe(&recipe, &said, 1, &Device::Cpu).unwrap();
            (texts, matches.t().unwrap().to_vec2::<f32>().unwrap())
        };
        let (texts, columns) = matches(&["a {hand} hand"]);
        assert_eq!(texts, ["a dorsal left hand", "a dorsal right hand"]);
        assert_eq!(columns, [[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]);
        let (texts, columns) = matches(&["{hand} {accessories}"]);
        let open = texts.iter().position(|text| text == "dorsal left").unwrap();
        assert_eq!(columns[open], [1.0, 1.0, 0.0, 1.0]);
        let with = texts.iter().position(|text| text == "dorsal left with accessories").unwrap();
        assert_eq!(columns[with], [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn images_of_which_nothing_is_known_cannot_be_told_apart() {
        let nothing = HandAttributes::default();
        let recipe = PromptRecipe::default();
        let told = |images: &[HandAttributes]| tell_apart(&recipe, images.iter());
        assert!(!told(&[nothing.clone(), nothing.clone()]));
        assert!(!told(&[of(Side::Left, None), of(Side::Left, None)]));
        assert!(told(&[of(Side::Left, None), of(Side::Right, None)]));
        let mut own = nothing.clone();
        own.extra.insert("prompt".to_owned(), "a scar".to_owned());
        assert!(told(&[nothing, own]));
    }
}
