use std::collections::{BTreeMap, BTreeSet};

use crate::dataset::LabelledImage;
use crate::domain::{Aspect, Side};
use crate::evaluation::{
    Answer, Asked, Entry, Grouping, Outcome, Session, Tally, Trial, Vectors, false_match_share,
    one_a_label, rank,
};

use super::RobustnessError;
use super::studio::Look;

/// Surface and hand; what is not known is a kind of its own.
type Kind = (Option<Aspect>, Option<Side>);

/// Who is enrolled and who asks. Pictures are named by their place in the data set, people by number.
pub(super) struct Plan {
    labels: Vec<u64>,
    kinds: Vec<Kind>,
    /// Pictures without accessories, or of which that is not known.
    pub(super) bare: Vec<usize>,
    /// Pictures with accessories.
    pub(super) worn: Vec<usize>,
    /// Run by run, a draw for each kind.
    runs: Vec<Vec<Draw>>,
}

#[derive(Clone)]
struct Draw {
    gallery: Vec<usize>,
    probes: Vec<usize>,
}

/// The images of the first `limit` subjects, in the order that subjects first appear in.
pub(super) fn limited(images: Vec<LabelledImage>, limit: Option<usize>) -> Vec<LabelledImage> {
    let Some(limit) = limit else { return images };
    let mut known = BTreeSet::new();
    images
        .into_iter()
        .filter(|image| {
            let key = image.key();
            known.contains(&key) || known.len() < limit && known.insert(key)
        })
        .collect()
}

impl Plan {
    pub(super) fn draw(images: &[LabelledImage], runs: usize, seed: u64) -> Self {
        // By number where ids are numbers: a draw depends on the order of the people.
        let name = |image: &LabelledImage| {
            let key = image.key();
            (key.parse().unwrap_or(u64::MAX), key)
        };
        let people: BTreeSet<(u64, String)> = images.iter().map(name).collect();
        let numbers: BTreeMap<(u64, String), u64> = people.into_iter().zip(0..).collect();
        let labels: Vec<u64> =
            images.iter().filter_map(|image| numbers.get(&name(image)).copied()).collect();
        let kinds: Vec<Kind> =
            images.iter().map(|i| (i.attributes.aspect, i.attributes.side)).collect();
        let (worn, bare): (Vec<usize>, Vec<usize>) =
            (0..images.len()).partition(|at| images[*at].attributes.accessories == Some(true));
        let mut by_kind: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        bare.iter().for_each(|at| by_kind.entry(kinds[*at]).or_default().push(*at));
        let draw = |members: &Vec<usize>, seed: u64| {
            let own: Vec<u64> = members.iter().map(|at| labels[*at]).collect();
            let draw = one_a_label(&own, seed);
            let pictures = |of: &[usize]| of.iter().map(|i| members[*i]).collect();
            Draw { gallery: pictures(&draw.gallery), probes: pictures(&draw.query) }
        };
        let run = |seed: u64| by_kind.values().map(|members| draw(members, seed)).collect();
        let runs = (0..runs as u64).map(|r| run(seed.wrapping_add(r))).collect();
        Self { labels, kinds, bare, worn, runs }
    }

    /// Whether a probe can be right, and whether it can be wrong.
    pub(super) fn is_enough(&self) -> bool {
        let draws = || self.runs.iter().flatten();
        draws().any(|draw| draw.gallery.len() > 1 && !draw.probes.is_empty())
    }

    /// People shown without accessories.
    pub(super) fn subjects(&self) -> usize {
        self.bare.iter().map(|at| self.labels[*at]).collect::<BTreeSet<u64>>().len()
    }

    /// Asked about in a run: as many in each.
    pub(super) fn probes(&self) -> usize {
        self.runs.first().map_or(0, |draws| draws.iter().map(|draw| draw.probes.len()).sum())
    }

    /// People who ask in any run, and their pictures that do.
    pub(super) fn askers(&self) -> (usize, usize) {
        let draws = self.runs.iter().flatten();
        let pictures: BTreeSet<usize> =
            draws.flat_map(|draw| draw.probes.iter().copied()).collect();
        let people: BTreeSet<u64> = pictures.iter().map(|at| self.labels[*at]).collect();
        (people.len(), pictures.len())
    }

    /// The same galleries, asked about the pictures with accessories of the hands that are enrolled.
    pub(super) fn with_accessories(&self) -> Self {
        self.asking(|draw| {
            let enrolled: BTreeSet<(u64, Kind)> =
                draw.gallery.iter().map(|at| self.hand(*at)).collect();
            let of_them = self.worn.iter().filter(|at| enrolled.contains(&self.hand(**at)));
            of_them.copied().collect()
        })
    }

    /// The same galleries, asked only about hands that another plan asks about.
    pub(super) fn of_hands_in(&self, other: &Self) -> Self {
        let draws = other.runs.iter().flatten();
        let hands: BTreeSet<(u64, Kind)> =
            draws.flat_map(|draw| draw.probes.iter().map(|at| self.hand(*at))).collect();
        self.asking(|draw| {
            let of_them = draw.probes.iter().filter(|at| hands.contains(&self.hand(**at)));
            of_them.copied().collect()
        })
    }

    fn asking(&self, probes: impl Fn(&Draw) -> Vec<usize>) -> Self {
        let draw = |draw: &Draw| Draw { gallery: draw.gallery.clone(), probes: probes(draw) };
        let runs = self.runs.iter().map(|draws| draws.iter().map(draw).collect()).collect();
        let (labels, kinds) = (self.labels.clone(), self.kinds.clone());
        Self { labels, kinds, bare: self.bare.clone(), worn: self.worn.clone(), runs }
    }

    fn hand(&self, at: usize) -> (u64, Kind) {
        (self.labels[at], self.kinds[at])
    }

    /// The plan's sessions over two looks at the pictures: that of who is enrolled and that of who asks.
    pub(super) fn seen(&self, gallery: &Look, probes: &Look) -> Result<Seen, RobustnessError> {
        let mut next = 0;
        let mut rows = |look: &Look| -> Vec<Option<usize>> {
            let row = |embedding: &Option<_>| {
                embedding.as_ref().map(|_| {
                    next += 1;
                    next - 1
                })
            };
            look.iter().map(row).collect()
        };
        let (enrolled, asked) = (rows(gallery), rows(probes));
        let vectors = Vectors::from_embeddings(gallery.iter().chain(probes).flatten())?;
        let entries = |of: &[usize], rows: &[Option<usize>]| -> Vec<Entry> {
            let entry = |at: &usize| Some(Entry { row: rows[*at]?, label: self.labels[*at] });
            of.iter().filter_map(entry).collect()
        };
        let session = |draw: &Draw| Session {
            gallery: entries(&draw.gallery, &enrolled),
            probes: entries(&draw.probes, &asked),
        };
        let sessions = self.runs.iter().map(|draws| draws.iter().map(session).collect()).collect();
        Ok(Seen { vectors, enrolled, asked, sessions })
    }
}

/// The group that an image belongs to.
type GroupOf<'a> = dyn Fn(&LabelledImage) -> Option<String> + 'a;

/// A plan's sessions over embeddings.
pub(super) struct Seen {
    vectors: Vectors,
    /// Rows of pictures as they are enrolled; `None` for those refused.
    enrolled: Vec<Option<usize>>,
    /// Rows of pictures as they ask; `None` for those refused.
    asked: Vec<Option<usize>>,
    /// As the plan's runs.
    sessions: Vec<Vec<Session>>,
}

impl Seen {
    /// Run by run.
    pub(super) fn trials(&self) -> Result<Vec<Vec<Trial<'_>>>, RobustnessError> {
        let trial = |session| Ok(Trial::new(&self.vectors, session)?);
        self.sessions.iter().map(|run| run.iter().map(trial).collect()).collect()
    }

    /// What became of every probe of the plan, refused ones included.
    pub(super) fn tally(&self, plan: &Plan, threshold: f32) -> Result<Tally, RobustnessError> {
        let trials = self.trials()?;
        let mut runs = Vec::with_capacity(trials.len());
        for (draws, trials) in plan.runs.iter().zip(&trials) {
            let mut run = Vec::new();
            for (draw, trial) in draws.iter().zip(trials) {
                let outcomes: BTreeMap<usize, Outcome> =
                    rank(trial).outcomes.into_iter().map(|o| (o.row, o)).collect();
                run.extend(draw.probes.iter().map(|at| {
                    let found = self.asked[*at].and_then(|row| outcomes.get(&row));
                    let answer = found.map(|o| Answer { rank: o.rank, similarity: o.similarity });
                    Asked { probe: *at, subject: plan.labels[*at], answer }
                }));
            }
            runs.push(run);
        }
        let fmr = false_match_share(&trials.concat(), threshold);
        Ok(Tally::of(&runs, threshold, fmr))
    }

    /// What the data set says of its people and pictures, as far as it says anything.
    pub(super) fn groupings(&self, plan: &Plan, images: &[LabelledImage]) -> Vec<Grouping> {
        let extra = |name: &'static str| {
            move |image: &LabelledImage| image.attributes.extra.get(name).cloned()
        };
        let age = |image: &LabelledImage| image.attributes.extra.get("age")?.parse().ok().map(band);
        let attributes: [(&str, &GroupOf<'_>); 5] = [
            ("skin colour", &extra("skin_color")),
            ("gender", &extra("gender")),
            ("age", &age),
            ("aspect", &|image| image.attributes.aspect.map(|aspect| aspect.to_string())),
            ("side", &|image| image.attributes.side.map(|side| side.to_string())),
        ];
        let mut groupings = Vec::new();
        for (attribute, group) in attributes {
            let mut of = vec![None; self.vectors.len()];
            for (at, image) in images.iter().enumerate() {
                for row in [self.enrolled[at], self.asked[at]].into_iter().flatten() {
                    of[row] = group(image);
                }
            }
            let refused = plan.bare.iter().filter(|at| self.asked[**at].is_none());
            let refused = refused.map(|at| group(&images[*at])).collect();
            if of.iter().any(Option::is_some) {
                groupings.push(Grouping { attribute: attribute.to_owned(), of, refused });
            }
        }
        groupings
    }
}

/// A band of age, in years; they sort by name.
fn band(age: u32) -> String {
    match age {
        0..=17 => "0-17",
        18..=30 => "18-30",
        31..=45 => "31-45",
        46..=60 => "46-60",
        61.. => "61+",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Embedding, HandAttributes, SubjectId};

    fn image(subject: &str, side: Side, accessories: bool) -> LabelledImage {
        LabelledImage {
            path: "x.jpg".into(),
            subject: SubjectId::new(subject).unwrap(),
            attributes: HandAttributes {
                side: Some(side),
                accessories: Some(accessories),
                ..HandAttributes::default()
            },
        }
    }

    fn images() -> Vec<LabelledImage> {
        let of = |subject: &'static str| {
            [
                image(subject, Side::Left, false),
                image(subject, Side::Left, false),
                image(subject, Side::Right, false),
                image(subject, Side::Left, true),
            ]
        };
        ["7", "007", "ann"].into_iter().flat_map(of).collect()
    }

    #[test]
    fn hands_are_asked_about_within_their_kind() {
        let images = images();
        let plan = Plan::draw(&images, 3, 0);
        // 007 is 7: four left pictures without accessories, two right ones.
        assert_eq!((plan.subjects(), plan.bare.len(), plan.worn.len()), (2, 9, 3));
        assert_eq!(plan.probes(), 9 - 4);
        for draw in plan.runs.iter().flatten() {
            let kinds: BTreeSet<Kind> =
                draw.gallery.iter().chain(&draw.probes).map(|at| plan.kinds[*at]).collect();
            assert_eq!((kinds.len(), draw.gallery.len()), (1, 2));
        }
        let worn = plan.with_accessories();
        assert_eq!(worn.askers(), (2, 3));
        assert_eq!(worn.probes(), 3, "left hands only");
        let bare = plan.of_hands_in(&worn);
        assert_eq!(bare.probes(), 4, "three of the one, one of the other");
        assert!(plan.is_enough());
        assert!(!Plan::draw(&images[8..], 1, 0).is_enough(), "nobody else to be taken for");
    }

    #[test]
    fn what_is_refused_is_counted_on_either_side() {
        let images = images();
        let plan = Plan::draw(&images, 1, 0);
        // Everybody looks the same, so that only refusals make a difference.
        let unit = Embedding::from_raw(vec![1.0, 0.0]).unwrap();
        let all: Look = vec![Some(unit); images.len()];
        let refused = |look: &Look, enrolled: &Look| {
            let seen = plan.seen(enrolled, look).unwrap();
            let bootstrap = crate::evaluation::Bootstrap { replicates: 0, ..Default::default() };
            seen.tally(&plan, 0.5).unwrap().standing(&bootstrap).unwrap().refused
        };
        assert_eq!(refused(&all, &all), 0.0);
        let mut probe = all.clone();
        probe[plan.runs[0][0].probes[0]] = None;
        assert_eq!(refused(&probe, &all), 0.2);
        let mut gallery = all.clone();
        let lost = plan.runs[0][0].gallery[0];
        gallery[lost] = None;
        let own = |at: &&usize| plan.labels[**at] == plan.labels[lost];
        let probes = plan.runs[0][0].probes.iter().filter(own).count();
        assert_eq!(refused(&all, &gallery), probes as f64 / 5.0);
    }

    #[test]
    fn the_first_subjects_keep_all_their_images() {
        assert_eq!(limited(images(), Some(1)).len(), 8);
        assert_eq!(limited(images(), None).len(), 12);
        assert_eq!((band(17), band(18), band(99)), ("0-17".into(), "18-30".into(), "61+".into()));
    }
}
