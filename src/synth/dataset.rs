use std::fs;
use std::io::{BufWriter, Write as _};
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
    #[error(
        "cannot draw {subjects} subjects from number {first} on with {images} images of each hand at {size} px: \
         use subject numbers below {max_subjects}, 1 to {max_images} images, {max_total} pictures at most, and {min_size} to {max_size} px",
        max_subjects = SynthSpec::MAX_SUBJECTS,
        max_images = SynthSpec::MAX_IMAGES,
        max_total = SynthSpec::MAX_TOTAL,
        min_size = SynthSpec::MIN_SIZE,
        max_size = SynthSpec::MAX_SIZE
    )]
    Spec {
        /// First person asked for.
        first: u64,
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
    /// Subject numbers lie below: ids have seven digits.
    pub const MAX_SUBJECTS: u64 = 10_000_000;
    /// Most pictures of one hand.
    pub const MAX_IMAGES: u64 = 1_000;
    /// Most pictures of a set: their names have seven digits.
    pub const MAX_TOTAL: u64 = 10_000_000;
    /// Smallest picture.
    pub const MIN_SIZE: u32 = 32;
    /// Largest picture.
    pub const MAX_SIZE: u32 = 2048;

    fn check(&self) -> Result<(), SynthError> {
        let Self { first, subjects, images, size, .. } = *self;
        let ok = (1..=Self::MAX_SUBJECTS).contains(&subjects)
            && first <= Self::MAX_SUBJECTS - subjects
            && (1..=Self::MAX_IMAGES).contains(&images)
            && subjects * images * HANDS.len() as u64 <= Self::MAX_TOTAL
            && (Self::MIN_SIZE..=Self::MAX_SIZE).contains(&size);
        if ok { Ok(()) } else { Err(SynthError::Spec { first, subjects, images, size }) }
    }

    /// How many pictures the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subjects.saturating_mul(self.images).saturating_mul(HANDS.len() as u64) as usize
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
        let subject = self.first.wrapping_add((index / (images * HANDS.len())) as u64);
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
    (0..total).into_par_iter().try_for_each(|index| {
        let path = hands.join(name(index));
        let picture = spec.sample(index).render(spec.size);
        let mut bytes = Vec::new();
        ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode(&picture.rgb, picture.width, picture.height, ::image::ExtendedColorType::Rgb8)
            .map_err(|source| SynthError::Encode { path: path.clone(), source })?;
        fs::File::create(&path)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(write_error(&path))?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        Ok::<(), SynthError>(())
    })?;
    let csv = out.join("HandInfo.csv");
    write_csv(spec, &out.join("HandInfo.csv.partial"), &csv).map_err(write_error(&csv))?;
    Ok(SynthSummary { subjects: spec.subjects, images: total, out: out.to_path_buf() })
}

fn name(index: usize) -> String {
    format!("Hand_{index:07}.jpg")
}

/// Rows are made again one by one, which costs next to nothing, so that a set of any size fits.
fn write_csv(spec: &SynthSpec, partial: &Path, csv: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(partial)?);
    writeln!(file, "{HEADER}")?;
    for (index, sample) in spec.samples().enumerate() {
        writeln!(file, "{}", sample.row(&name(index)))?;
    }
    file.into_inner()?.sync_all()?;
    fs::rename(partial, csv)
}

/// Pictures side by side, `columns` a row, for people to look at.
#[must_use]
pub fn contact_sheet(pictures: &[RgbImage], columns: u32) -> RgbImage {
    let columns = columns.max(1);
    let cell = pictures.first().map_or(0, |p| p.width);
    let rows = (pictures.len() as u32).div_ceil(columns);
    let (width, height) = (columns * cell, rows * cell);
    let mut rgb = vec![255; width as usize * height as usize * 3];
    for (i, picture) in
        pictures.iter().enumerate().filter(|(_, p)| p.width == cell && p.height == cell)
    {
        let (left, top) = ((i as u32 % columns) * cell, (i as u32 / columns) * cell);
        for y in 0..cell {
            let row = cell as usize * 3;
            let from = y as usize * row;
            let to = ((top + y) as usize * width as usize + left as usize) * 3;
            rgb[to..to + row].copy_from_slice(&picture.rgb[from..from + row]);
        }
    }
    RgbImage { width, height, rgb }
}
