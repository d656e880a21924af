use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::domain::{Aspect, HandAttributes, Side};

use super::person::Person;
use super::render::{RgbImage, render};
use super::shot::Shot;

/// The surfaces and hands of a person, in the order that pictures are numbered.
pub const HANDS: [(Aspect, Side); 4] = [
    (Aspect::Dorsal, Side::Right),
    (Aspect::Dorsal, Side::Left),
    (Aspect::Palmar, Side::Right),
    (Aspect::Palmar, Side::Left),
];

const HEADER: &str =
    "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities";
const JPEG_QUALITY: u8 = 92;

/// What to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SynthSpec {
    /// Number of the first person, so that sets drawn from one seed can be kept apart.
    pub first: u64,
    /// People.
    pub subjects: u64,
    /// Pictures of each of a person's four hands (aspect and side).
    pub images: u64,
    /// Names the population.
    pub seed: u64,
    /// Side of a picture in pixels.
    pub size: u32,
}

/// One picture that is yet to be drawn.
#[derive(Debug, Clone)]
pub struct SynthSample {
    /// Number of the person.
    pub subject: u64,
    /// Who is shown.
    pub person: Person,
    /// How they are shown.
    pub shot: Shot,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynthSummary {
    /// People drawn.
    pub subjects: u64,
    /// Pictures written.
    pub images: usize,
    /// Where.
    pub out: PathBuf,
}

/// Why a set could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// A number that makes no set.
    #[error("cannot draw {subjects} subjects with {images} images each at {size} px: use 1 to {max_subjects} subjects, 1 to {max_images} images and 32 to 2048 px", max_subjects = SynthSpec::MAX_SUBJECTS, max_images = SynthSpec::MAX_IMAGES)]
    Spec {
        /// People asked for.
        subjects: u64,
        /// Pictures asked for.
        images: u64,
        /// Side asked for.
        size: u32,
    },
    /// The folder holds something already.
    #[error("{path} is not empty: name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture could not be encoded.
    #[error("cannot encode {path}", path = path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        source: ::image::ImageError,
    },
}

impl SynthSpec {
    /// Most people in a set.
    pub const MAX_SUBJECTS: u64 = 1_000_000;
    /// Most pictures of one hand.
    pub const MAX_IMAGES: u64 = 1_000;

    fn check(&self) -> Result<(), SynthError> {
        let ok = (1..=Self::MAX_SUBJECTS).contains(&self.subjects)
            && (1..=Self::MAX_IMAGES).contains(&self.images)
            && (32..=2048).contains(&self.size);
        let Self { subjects, images, size, .. } = *self;
        if ok { Ok(()) } else { Err(SynthError::Spec { subjects, images, size }) }
    }

    /// How many pictures the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.subjects * self.images) as usize * HANDS.len()
    }

    /// Whether the set has no pictures.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Picture number `index` of the set: by person, then hand, then picture.
    #[must_use]
    pub fn sample(&self, index: usize) -> SynthSample {
        let images = self.images.max(1) as usize;
        let (aspect, side) = HANDS[(index / images) % HANDS.len()];
        let subject = self.first + (index / (images * HANDS.len())) as u64;
        let person = Person::new(self.seed, subject);
        let shot = Shot::draw(&person, aspect, side, (index % images) as u64);
        SynthSample { subject, person, shot }
    }

    /// All pictures of the set, in order.
    pub fn samples(self) -> impl ExactSizeIterator<Item = SynthSample> {
        (0..self.len()).map(move |index| self.sample(index))
    }
}

impl SynthSample {
    /// Draws the picture, `size` x `size` pixels.
    #[must_use]
    pub fn render(&self, size: u32) -> RgbImage {
        render(&self.person, &self.shot, size)
    }

    /// What a label file would say of it.
    #[must_use]
    pub fn attributes(&self) -> HandAttributes {
        self.shot.attributes()
    }

    fn row(&self, name: &str) -> String {
        format!(
            "\"{:07}\",{},\"{}\",\"{}\",{},{},\"{} {}\",\"{name}\",0",
            self.subject,
            self.person.age,
            self.person.gender,
            self.person.skin_color,
            u8::from(self.shot.accessories()),
            u8::from(self.shot.nail_polish()),
            self.shot.aspect,
            self.shot.side,
        )
    }
}

/// Writes a set in the layout of 11k Hands: `out/Hands/Hand_XXXXXXX.jpg` and `out/HandInfo.csv`, the
/// CSV last, so that a folder with one is whole. `progress` gets pictures done and pictures in all.
///
/// # Errors
/// [`SynthError`] for a senseless spec, a folder that holds something, or a file that cannot be written.
pub fn write_dataset(
    spec: &SynthSpec,
    out: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<SynthSummary, SynthError> {
    spec.check()?;
    let write_error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SynthError::Write { path, source }
    };
    let hands = out.join("Hands");
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(SynthError::NotEmpty(out.to_path_buf()));
    }
    fs::create_dir_all(&hands).map_err(write_error(&hands))?;
    let (total, done) = (spec.len(), AtomicUsize::new(0));
    let rows: Vec<String> = (0..total)
        .into_par_iter()
        .map(|index| {
            let sample = spec.sample(index);
            let name = format!("Hand_{index:07}.jpg");
            let path = hands.join(&name);
            let picture = sample.render(spec.size);
            let mut bytes = Vec::new();
            ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
                .encode(
                    &picture.rgb,
                    picture.width,
                    picture.height,
                    ::image::ExtendedColorType::Rgb8,
                )
                .map_err(|source| SynthError::Encode { path: path.clone(), source })?;
            fs::File::create(&path)
                .and_then(|mut file| file.write_all(&bytes))
                .map_err(write_error(&path))?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(sample.row(&name))
        })
        .collect::<Result<_, SynthError>>()?;
    let csv = out.join("HandInfo.csv");
    let partial = out.join("HandInfo.csv.partial");
    let text = format!("{HEADER}\n{}\n", rows.join("\n"));
    fs::File::create(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, &csv))
        .map_err(write_error(&csv))?;
    Ok(SynthSummary { subjects: spec.subjects, images: total, out: out.to_path_buf() })
}

/// Pictures side by side, `columns` a row, for people to look at.
#[must_use]
pub fn contact_sheet(pictures: &[RgbImage], columns: u32) -> RgbImage {
    let columns = columns.max(1);
    let cell = pictures.first().map_or(0, |p| p.width);
    let rows = (pictures.len() as u32).div_ceil(columns);
    let (width, height) = (columns * cell, rows * cell);
    let mut rgb = vec![255; (width * height * 3) as usize];
    for (i, picture) in
        pictures.iter().enumerate().filter(|(_, p)| p.width == cell && p.height == cell)
    {
        let (left, top) = ((i as u32 % columns) * cell, (i as u32 / columns) * cell);
        for y in 0..cell {
            let from = (y * cell * 3) as usize;
            let to = (((top + y) * width + left) * 3) as usize;
            let row = (cell * 3) as usize;
            rgb[to..to + row].copy_from_slice(&picture.rgb[from..from + row]);
        }
    }
    RgbImage { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: SynthSpec = SynthSpec { first: 0, subjects: 3, images: 2, seed: 11, size: 64 };

    #[test]
    fn the_layout_is_that_of_11k_hands() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("set");
        let summary = write_dataset(&SPEC, &out, &|_, _| {}).unwrap();
        assert_eq!(summary.images, 24);
        let csv = fs::read_to_string(out.join("HandInfo.csv")).unwrap();
        let rows: Vec<&str> = csv.lines().collect();
        assert_eq!(rows[0], HEADER);
        assert_eq!(rows.len(), 25);
        assert!(rows[1].starts_with("\"0000000\","), "{}", rows[1]);
        assert!(rows[1].contains(",\"dorsal right\",\"Hand_0000000.jpg\",0"), "{}", rows[1]);
        assert!(rows[24].contains(",\"palmar left\",\"Hand_0000023.jpg\",0"), "{}", rows[24]);
        assert_eq!(fs::read_dir(out.join("Hands")).unwrap().count(), 24);
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("precious")).unwrap();
        assert!(matches!(
            write_dataset(&SPEC, dir.path(), &|_, _| {}),
            Err(SynthError::NotEmpty(_))
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        let none = SynthSpec { subjects: 0, ..SPEC };
        let huge = SynthSpec { size: 100_000, ..SPEC };
        for spec in [none, huge] {
            let out = std::env::temp_dir().join("handclip-never-written");
            assert!(matches!(write_dataset(&spec, &out, &|_, _| {}), Err(SynthError::Spec { .. })));
            assert!(!out.exists());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_in_any_order() {
        let forwards: Vec<RgbImage> = SPEC.samples().map(|s| s.render(64)).collect();
        let parallel: Vec<RgbImage> =
            (0..SPEC.len()).into_par_iter().rev().map(|i| SPEC.sample(i).render(64)).collect();
        assert!(forwards.iter().eq(parallel.iter().rev()));
        let other = SynthSpec { seed: 12, ..SPEC };
        assert_ne!(forwards[0], other.sample(0).render(64));
    }

    /// Columns of skin left of the middle less those right of it, over the rows of the thumb.
    fn thumb_lean(sample: &SynthSample) -> i64 {
        let n = 96;
        let picture = sample.render(n);
        let skin = |x: u32, y: u32| {
            let at = ((y * n + x) * 3) as usize;
            i64::from(picture.rgb[at]) - i64::from(picture.rgb[at + 2]) > 30
        };
        let rows = n * 45 / 100..n * 65 / 100;
        rows.map(|y| {
            let left = (0..n).find(|x| skin(*x, y)).unwrap_or(n / 2);
            let right = (0..n).rev().find(|x| skin(*x, y)).unwrap_or(n / 2);
            i64::from(n) - i64::from(left + right)
        })
        .sum()
    }

    #[test]
    fn the_thumb_lies_where_anatomy_puts_it() {
        let spec = SynthSpec { subjects: 25, images: 1, ..SPEC };
        let right_way = |sample: &SynthSample| {
            let left_of_picture =
                (sample.shot.side == Side::Right) == (sample.shot.aspect == Aspect::Dorsal);
            (thumb_lean(sample) > 0) == left_of_picture
        };
        let right = spec.samples().filter(right_way).count();
        // Coloured tables, sleeves and dark skin fool so simple a measure now and then.
        assert!(right >= 80, "{right} of 100");
    }

    #[test]
    fn jewellery_changes_only_the_pixels_it_covers() {
        let spec = SynthSpec { subjects: 20, images: 2, ..SPEC };
        let (mut worn, mut changed) = (0, 0);
        for sample in spec.samples() {
            let bare = SynthSample { shot: sample.shot.clone().bare(), ..sample.clone() };
            let (a, b) = (sample.render(112), bare.render(112));
            let differ =
                a.rgb.chunks_exact(3).zip(b.rgb.chunks_exact(3)).filter(|(a, b)| a != b).count();
            if sample.shot.accessories() {
                worn += 1;
                changed += usize::from(differ > 20);
                assert!(differ < 112 * 112 / 6, "{differ} pixels changed");
            } else {
                assert_eq!(differ, 0);
            }
        }
        assert!(worn > 30 && changed * 100 >= worn * 90, "{changed} of {worn} visible");
    }
}
