//! What a data set holds, and what is wrong with it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::image::{DecodeLimits, Picture, decode};

use super::read::LabelledImage;

/// Bits in which two pictures may differ and still be near-duplicates, of [`HASH_SIDE`]² bits.
const NEAR: u32 = 6;
/// Comparisons of neighbours a row and a column of a picture's hash.
const HASH_SIDE: usize = 16;

/// What is in a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Subjects, ids compared as numbers.
    pub subjects: usize,
    /// Images named by folders or labels.
    pub images: usize,
    /// Attribute, value, images; attributes that are unknown are left out.
    pub attributes: BTreeMap<String, BTreeMap<String, usize>>,
    /// Files that cannot be decoded, and why.
    pub unreadable: Vec<Unreadable>,
    /// Pairs of files that show the same picture.
    pub near_duplicates: Vec<NearDuplicate>,
}

/// A file that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}

/// Two files that show the same picture, or as good as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearDuplicate {
    /// The first file.
    pub a: PathBuf,
    /// The second file.
    pub b: PathBuf,
    /// Whether they are of two subjects: then one label is wrong.
    pub of_two_subjects: bool,
    /// Bits of 256 in which their hashes differ.
    pub distance: u32,
}

type Hash = [u64; HASH_SIDE * HASH_SIDE / 64];

/// Decodes every image and compares each with all others. `progress` gets images done and in all.
#[must_use]
pub fn inspect(images: &[LabelledImage], progress: &(dyn Fn(usize, usize) + Sync)) -> Inspection {
    let done = AtomicUsize::new(0);
    let hashes: Vec<Result<Hash, Unreadable>> = images
        .par_iter()
        .map(|image| {
            let hash = hash_file(&image.path);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, images.len());
            hash.map_err(|problem| Unreadable { path: image.path.clone(), problem })
        })
        .collect();
    let keys: Vec<String> = images.iter().map(LabelledImage::key).collect();
    let subjects: HashMap<&str, ()> = keys.iter().map(|key| (key.as_str(), ())).collect();
    let readable: Vec<(usize, &Hash)> =
        hashes.iter().enumerate().filter_map(|(i, hash)| Some((i, hash.as_ref().ok()?))).collect();
    let near_duplicates = readable
        .par_iter()
        .enumerate()
        .flat_map_iter(|(at, (a, of_a))| {
            let keys = &keys;
            readable[at + 1..].iter().filter_map(move |(b, of_b)| {
                let distance = of_a.iter().zip(*of_b).map(|(x, y)| (x ^ y).count_ones()).sum();
                (distance <= NEAR).then(|| NearDuplicate {
                    a: images[*a].path.clone(),
                    b: images[*b].path.clone(),
                    of_two_subjects: keys[*a] != keys[*b],
                    distance,
                })
            })
        })
        .collect();
    Inspection {
        subjects: subjects.len(),
        images: images.len(),
        attributes: attributes(images),
        unreadable: hashes.into_iter().filter_map(Result::err).collect(),
        near_duplicates,
    }
}

fn attributes(images: &[LabelledImage]) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for LabelledImage { attributes, .. } in images {
        let known = [
            ("aspect", attributes.aspect.map(|aspect| aspect.to_string())),
            ("side", attributes.side.map(|side| side.to_string())),
            ("accessories", attributes.accessories.map(|worn| worn.to_string())),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        for (name, value) in known.chain(attributes.extra.clone()) {
            *found.entry(name).or_default().entry(value).or_default() += 1;
        }
    }
    found
}

fn hash_file(path: &Path) -> Result<Hash, String> {
    let limits = DecodeLimits::default();
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let picture = decode(&bytes, &limits).map_err(|error| error.to_string())?;
    Ok(difference_hash(&picture))
}

/// One bit for each cell of a coarse grid: whether it is clearly darker than its neighbour to the right
/// (the difference hash). Scale, encoding and small changes of light leave it as it is.
fn difference_hash(picture: &Picture) -> Hash {
    /// Grey levels: plain backgrounds must not toss coins.
    const CLEARLY: f32 = 3.0;
    let columns = HASH_SIDE + 1;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut hash = Hash::default();
    let cell = |row: usize, column: usize| -> f32 {
        let rows = row * height / HASH_SIDE
            ..((row + 1) * height / HASH_SIDE).max(row * height / HASH_SIDE + 1);
        let from = column * width / columns;
        let to = ((column + 1) * width / columns).max(from + 1);
        let mut sum = 0_u64;
        let mut count = 0_u64;
        for y in rows {
            let row = &picture.rgb()[(y * width + from) * 3..(y * width + to) * 3];
            sum += row.iter().map(|value| u64::from(*value)).sum::<u64>();
            count += row.len() as u64;
        }
        sum as f32 / count.max(1) as f32
    };
    for row in 0..HASH_SIDE {
        let cells: Vec<f32> = (0..columns).map(|column| cell(row, column)).collect();
        for (column, pair) in cells.windows(2).enumerate() {
            let bit = row * HASH_SIDE + column;
            if pair[1] - pair[0] > CLEARLY {
                hash[bit / 64] |= 1 << (bit % 64);
            }
        }
    }
    hash
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;
    use crate::domain::{HandAttributes, Side, SubjectId};
    use crate::image::encode_jpeg;

    fn image(path: PathBuf, id: &str) -> LabelledImage {
        let attributes = HandAttributes { side: Some(Side::Left), ..HandAttributes::default() };
        LabelledImage { path, subject: SubjectId::new(id).unwrap(), attributes }
    }

    /// A smooth pattern that depends on `seed`.
    fn picture(seed: u32, width: u32, height: u32) -> Picture {
        let wave = |x: u32, y: u32| {
            let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
            let phase = seed as f32 * 1.7;
            (127.0 + 60.0 * (9.0 * x + phase).sin() + 60.0 * (7.0 * y * x + 2.0 * phase).cos())
                as u8
        };
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| [wave(x, y); 3])).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    #[test]
    fn copies_are_found_whatever_their_size_and_damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, picture: Picture| {
            let path = dir.path().join(name);
            std::fs::write(&path, encode_jpeg(&picture, 90).unwrap()).unwrap();
            path
        };
        let a = file("a.jpg", picture(1, 320, 240));
        let b = file("b.jpg", picture(2, 320, 240));
        let smaller = file("c.jpg", picture(1, 200, 150));
        let broken = dir.path().join("broken.jpg");
        std::fs::write(&broken, b"not a picture").unwrap();
        let images = [
            image(a.clone(), "007"),
            image(b, "8"),
            image(smaller.clone(), "9"),
            image(broken.clone(), "7"),
        ];
        let found = inspect(&images, &|_, _| {});
        assert_eq!((found.subjects, found.images), (3, 4));
        assert_eq!(found.attributes["side"]["left"], 4);
        assert_eq!(found.unreadable.len(), 1);
        assert_eq!(found.unreadable[0].path, broken);
        let pairs: Vec<_> = found.near_duplicates.iter().map(|p| (&p.a, &p.b)).collect();
        assert_eq!(pairs, [(&a, &smaller)]);
        assert!(found.near_duplicates[0].of_two_subjects);
    }
}
