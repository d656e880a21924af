use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::domain::{Aspect, Side};

/// What is true of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Surface shown.
    pub aspect: Aspect,
    /// Hand shown.
    pub side: Side,
    /// A ring is worn.
    pub ring: bool,
    /// A bracelet is worn.
    pub bracelet: bool,
    /// A watch is worn.
    pub watch: bool,
    /// The nails are painted.
    pub polish: bool,
    /// A sleeve is in the picture.
    pub sleeve: bool,
}

impl Facts {
    /// Which of the four kinds of hand it is, 0 to 3.
    #[must_use]
    pub fn kind(&self) -> usize {
        match (self.aspect, self.side) {
            (Aspect::Dorsal, Side::Right) => 0,
            (Aspect::Dorsal, Side::Left) => 1,
            (Aspect::Palmar, Side::Right) => 2,
            (Aspect::Palmar, Side::Left) => 3,
        }
    }

    /// Whether any jewellery is worn; polish and sleeves do not count, as in 11k Hands.
    #[must_use]
    pub fn accessories(&self) -> bool {
        self.ring || self.bracelet || self.watch
    }
}

/// What a prompt says of a picture; what is `None` it leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claim {
    /// Surface.
    pub aspect: Option<Aspect>,
    /// Hand.
    pub side: Option<Side>,
    /// Jewellery of any kind.
    pub accessories: Option<bool>,
    /// A ring.
    pub ring: Option<bool>,
    /// A bracelet.
    pub bracelet: Option<bool>,
    /// A watch.
    pub watch: Option<bool>,
    /// Painted nails.
    pub polish: Option<bool>,
    /// A sleeve.
    pub sleeve: Option<bool>,
}

impl Claim {
    /// Whether the claim is true of a picture.
    #[must_use]
    pub fn holds(&self, facts: &Facts) -> bool {
        fn agrees<T: PartialEq>(said: Option<T>, is: T) -> bool {
            said.is_none_or(|said| said == is)
        }
        agrees(self.aspect, facts.aspect)
            && agrees(self.side, facts.side)
            && agrees(self.accessories, facts.accessories())
            && agrees(self.ring, facts.ring)
            && agrees(self.bracelet, facts.bracelet)
            && agrees(self.watch, facts.watch)
            && agrees(self.polish, facts.polish)
            && agrees(self.sleeve, facts.sleeve)
    }
}

/// What may be worn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Jewellery of any kind.
    Accessories,
    /// A ring.
    Ring,
    /// A bracelet.
    Bracelet,
    /// A watch.
    Watch,
    /// Painted nails.
    Polish,
    /// A sleeve.
    Sleeve,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Accessories, Self::Ring, Self::Bracelet, Self::Watch, Self::Polish, Self::Sleeve];

    fn claim(self, worn: bool) -> Claim {
        let (said, open) = (Some(worn), Claim::default());
        match self {
            Self::Accessories => Claim { accessories: said, ..open },
            Self::Ring => Claim { ring: said, ..open },
            Self::Bracelet => Claim { bracelet: said, ..open },
            Self::Watch => Claim { watch: said, ..open },
            Self::Polish => Claim { polish: said, ..open },
            Self::Sleeve => Claim { sleeve: said, ..open },
        }
    }

    /// Ways to say that it is worn, and that it is not.
    fn words(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Accessories => (
                &[" with accessories", " with jewellery", " wearing jewelry", " with an accessory"],
                &[" without accessories", " without jewellery", " with no accessories", ", bare"],
            ),
            Self::Ring => (
                &[" with a ring", " wearing a ring", " with rings", " and a ring on a finger"],
                &[" without a ring", " with no ring", " without rings"],
            ),
            Self::Bracelet => (
                &[" with a bracelet", " wearing a bracelet"],
                &[" without a bracelet", " with no bracelet"],
            ),
            Self::Watch => (
                &[" with a watch", " wearing a wristwatch", " wearing a watch"],
                &[" without a watch", " with no watch"],
            ),
            Self::Polish => (
                &[" with nail polish", " with painted nails"],
                &[" without nail polish", " with unpainted nails"],
            ),
            Self::Sleeve => (
                &[" with a sleeve", " and a sleeve at the wrist"],
                &[" without a sleeve", " with no sleeve"],
            ),
        }
    }
}

/// What contradicting prompts differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Aspect and side: four answers.
    Kind,
    /// Aspect: two answers.
    Aspect,
    /// Side: two answers.
    Side,
    /// Whether something is worn: two answers.
    Worn(Feature),
    /// Aspect, side and whether something is worn: eight answers.
    KindAndWorn(Feature),
}

impl Question {
    /// What each answer claims, and ways to say what it claims beyond aspect and side.
    fn answers(self) -> Vec<(Claim, &'static [&'static str])> {
        let aspects = [Aspect::Dorsal, Aspect::Palmar];
        let kinds = aspects.map(|aspect| {
            [Side::Left, Side::Right].map(|side| Claim {
                aspect: Some(aspect),
                side: Some(side),
                ..Claim::default()
            })
        });
        let worn = |feature: Feature| {
            let (with, without) = feature.words();
            [(feature.claim(true), with), (feature.claim(false), without)]
        };
        let bare: &[&str] = &[""];
        match self {
            Self::Kind => kinds.concat().into_iter().map(|claim| (claim, bare)).collect(),
            Self::Aspect => kinds.map(|[kind, _]| (Claim { side: None, ..kind }, bare)).to_vec(),
            Self::Side => kinds[0].map(|kind| (Claim { aspect: None, ..kind }, bare)).to_vec(),
            Self::Worn(feature) => worn(feature).to_vec(),
            Self::KindAndWorn(feature) => kinds
                .concat()
                .into_iter()
                .flat_map(|Claim { aspect, side, .. }| {
                    worn(feature).map(|(claim, words)| (Claim { aspect, side, ..claim }, words))
                })
                .collect(),
        }
    }
}

/// Writes prompts about pictures, with the claims they make.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prompts;

const OPENERS: [&str; 10] = [
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a close-up photo of ",
    "a photograph of ",
    "",
    "",
    "",
    "the image shows ",
    "photo: ",
];

impl Prompts {
    /// A prompt that is true of `facts`.
    #[must_use]
    pub fn describe(facts: &Facts, rng: &mut ChaCha8Rng) -> (String, Claim) {
        let mut claim = Claim::default();
        let aspect = rng.random_bool(0.85).then_some(facts.aspect);
        let side = rng.random_bool(0.85).then_some(facts.side);
        (claim.aspect, claim.side) = (aspect, side);
        let hand = Self::hand(aspect, side, rng);
        let extra =
            if rng.random_bool(0.65) { Self::extra(facts, &mut claim, rng) } else { String::new() };
        let opener = OPENERS.choose(rng).copied().unwrap_or("");
        (format!("{opener}{hand}{extra}"), claim)
    }

    /// Prompts that contradict each other, so that exactly one is true of any picture: a question with
    /// its answers, all in the same words but for the answer.
    #[must_use]
    pub fn contradicting(question: Question, rng: &mut ChaCha8Rng) -> Vec<(String, Claim)> {
        let wording: u64 = rng.random();
        question
            .answers()
            .into_iter()
            .map(|(claim, words)| {
                // The same stream for each answer makes the same choices of words.
                let rng = &mut ChaCha8Rng::seed_from_u64(wording);
                let extra = words.choose(rng).copied().unwrap_or("");
                (Self::say(claim, extra, rng), claim)
            })
            .collect()
    }

    fn say(claim: Claim, extra: &str, rng: &mut ChaCha8Rng) -> String {
        let opener = OPENERS.choose(rng).copied().unwrap_or("");
        format!("{opener}{}{extra}", Self::hand(claim.aspect, claim.side, rng))
    }

    fn hand(aspect: Option<Aspect>, side: Option<Side>, rng: &mut ChaCha8Rng) -> String {
        let article = ["a ", "the ", "one ", "someone's "].choose(rng).copied().unwrap_or("a ");
        let side_word = side.map_or(String::new(), |side| format!("{side} "));
        let form = rng.random_range(0..5);
        match (aspect, form) {
            (Some(Aspect::Dorsal), 0) => format!("the back of {article}{side_word}hand"),
            (Some(Aspect::Palmar), 0) => format!("the palm of {article}{side_word}hand"),
            (Some(Aspect::Dorsal), 1) => format!("{article}{side_word}hand, back side"),
            (Some(Aspect::Palmar), 1) => format!("{article}{side_word}hand, palm side"),
            (Some(aspect), 2) => format!("{article}{side_word}{aspect} hand"),
            (Some(aspect), 3) => format!("{article}{side_word}hand, {aspect} view"),
            (Some(aspect), _) => format!("{article}{aspect} {side_word}hand"),
            (None, _) => format!("{article}{side_word}hand"),
        }
    }

    fn extra(facts: &Facts, claim: &mut Claim, rng: &mut ChaCha8Rng) -> String {
        let mut said: Vec<(Claim, &[&str])> = Vec::new();
        let base = *claim;
        if facts.accessories() {
            said.push((
                Claim { accessories: Some(true), ..base },
                &[
                    " with accessories",
                    " with jewellery",
                    " wearing jewelry",
                    " with an accessory",
                    " wearing accessories",
                ],
            ));
        } else {
            said.push((
                Claim { accessories: Some(false), ..base },
                &[
                    " without accessories",
                    " without jewellery",
                    " with no accessories",
                    " with no jewelry",
                    ", bare",
                    " wearing nothing",
                ],
            ));
        }
        if facts.ring {
            said.push((
                Claim { ring: Some(true), ..base },
                &[" with a ring", " wearing a ring", " with rings", " and a ring on a finger"],
            ));
        } else {
            said.push((
                Claim { ring: Some(false), ..base },
                &[" without a ring", " with no ring", " without rings"],
            ));
        }
        if facts.watch {
            said.push((
                Claim { watch: Some(true), ..base },
                &[" with a watch", " wearing a wristwatch", " wearing a watch"],
            ));
        }
        if facts.bracelet {
            said.push((
                Claim { bracelet: Some(true), ..base },
                &[" with a bracelet", " wearing a bracelet"],
            ));
        }
        if facts.polish {
            said.push((
                Claim { polish: Some(true), ..base },
                &[" with nail polish", " with painted nails"],
            ));
        }
        if facts.sleeve {
            said.push((
                Claim { sleeve: Some(true), ..base },
                &[" with a sleeve", " and a sleeve at the wrist"],
            ));
        }
        // Jewellery first: it is what people ask for, and rarer than its absence.
        let pick = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..said.len()) };
        let (made, words) = said[pick];
        *claim = made;
        words.choose(rng).copied().unwrap_or("").to_owned()
    }

    /// A corpus that has every word prompts use, for training a tokenizer.
    #[must_use]
    pub fn corpus(rng: &mut ChaCha8Rng) -> Vec<String> {
        (0..4000)
            .map(|_| {
                let facts = Facts {
                    aspect: if rng.random_bool(0.5) { Aspect::Dorsal } else { Aspect::Palmar },
                    side: if rng.random_bool(0.5) { Side::Left } else { Side::Right },
                    ring: rng.random_bool(0.4),
                    bracelet: rng.random_bool(0.3),
                    watch: rng.random_bool(0.3),
                    polish: rng.random_bool(0.3),
                    sleeve: rng.random_bool(0.3),
                };
                Self::describe(&facts, rng).0
            })
            .chain(Feature::ALL.iter().flat_map(|feature| {
                let (with, without) = feature.words();
                with.iter().chain(without).map(|words| format!("a hand{words}"))
            }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all_facts() -> impl Iterator<Item = Facts> + Clone {
        (0..128_u32).map(|bits| Facts {
            aspect: if bits & 1 == 0 { Aspect::Dorsal } else { Aspect::Palmar },
            side: if bits & 2 == 0 { Side::Left } else { Side::Right },
            ring: bits & 4 != 0,
            bracelet: bits & 8 != 0,
            watch: bits & 16 != 0,
            polish: bits & 32 != 0,
            sleeve: bits & 64 != 0,
        })
    }

    #[test]
    fn a_prompt_is_true_of_what_it_describes_and_says_what_it_claims() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        for facts in all_facts().collect::<Vec<_>>().into_iter().cycle().take(5000) {
            let (text, claim) = Prompts::describe(&facts, rng);
            assert!(claim.holds(&facts), "{text} of {facts:?}");
            let mentions_left = text.contains("left");
            assert_eq!(mentions_left, claim.side == Some(Side::Left), "{text}");
            let mentions_palm = text.contains("palm");
            assert_eq!(mentions_palm, claim.aspect == Some(Aspect::Palmar), "{text}");
            if text.contains("with a ring") {
                assert_eq!(claim.ring, Some(true), "{text}");
            }
        }
    }

    #[test]
    fn of_contradicting_prompts_exactly_one_is_true() {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        let mut questions = vec![Question::Kind, Question::Aspect, Question::Side];
        questions.extend(Feature::ALL.map(Question::Worn));
        questions.extend(Feature::ALL.map(Question::KindAndWorn));
        for question in questions {
            let answers = Prompts::contradicting(question, rng);
            for facts in all_facts() {
                let true_of_it = answers.iter().filter(|(_, claim)| claim.holds(&facts)).count();
                assert_eq!(true_of_it, 1, "{question:?} of {facts:?}: {answers:?}");
            }
            let texts: BTreeSet<&String> = answers.iter().map(|(text, _)| text).collect();
            assert_eq!(texts.len(), answers.len(), "{texts:?}");
        }
    }

    #[test]
    fn a_claim_is_false_where_it_contradicts() {
        let facts = all_facts().next().unwrap();
        assert!(!Claim { ring: Some(true), ..Claim::default() }.holds(&facts));
        assert!(!Claim { accessories: Some(true), ..Claim::default() }.holds(&facts));
        assert!(!Claim { aspect: Some(Aspect::Palmar), ..Claim::default() }.holds(&facts));
        assert!(Claim::default().holds(&facts), "a prompt that claims nothing is true of all");
    }

    #[test]
    fn prompts_are_varied() {
        let rng = &mut ChaCha8Rng::seed_from_u64(2);
        let distinct: BTreeSet<String> = Prompts::corpus(rng).into_iter().collect();
        assert!(distinct.len() > 1000, "{}", distinct.len());
    }
}
