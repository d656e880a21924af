//! Splits as folders, and the record of how they came about.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::storage::file::{self, write_atomic};

use crate::domain::hex;

use super::DatasetError;
use super::read::{LabelledImage, SPLIT_PREFIX};
use super::split::{Hand, Protocol, Split};

/// Images and subjects of a part of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Subjects.
    pub subjects: usize,
    /// Images.
    pub images: usize,
}

/// How large the parts of a split are. Draws are all of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// `dorsal_r` and its like, or `all`.
    pub name: String,
    /// `D-r` and its like, as the published tables have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aspect: Option<&'static str>,
    /// Trained on.
    pub train: Count,
    /// One image of every subject trained on.
    pub val: Count,
    /// Tested on.
    pub test: Count,
    /// Asked about, of a draw.
    pub query: usize,
    /// Enrolled, of a draw.
    pub gallery: usize,
    /// Enrolled with the distractors, of a draw.
    pub gallery_all: usize,
}

/// `split.json`: everything that is needed to make the same split again, or to find that it was changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// Of this file.
    pub format: u32,
    /// How subjects were divided.
    pub protocol: Protocol,
    /// Names the draws.
    pub seed: u64,
    /// Sizes, one entry a split.
    pub splits: Vec<SplitCounts>,
    /// How many subjects one split trains on and another tests on.
    pub leaked_subjects: usize,
    /// Every image used.
    pub files: Vec<ManifestFile>,
}

/// An image of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestFile {
    /// Under the data set's folder.
    pub path: PathBuf,
    /// Whose hand it shows.
    pub subject: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// The split it belongs to.
    pub split: String,
    /// `train`, `val` or `test`.
    pub part: &'static str,
    /// Draws that enrol it; the others ask about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gallery_of: Vec<usize>,
}

/// How large each split is.
#[must_use]
pub fn counts(images: &[LabelledImage], splits: &[Split]) -> Vec<SplitCounts> {
    let count = |indices: &[usize]| {
        let subjects: BTreeSet<String> = indices.iter().map(|i| images[*i].key()).collect();
        Count { subjects: subjects.len(), images: indices.len() }
    };
    let of_split = |split: &Split| {
        let first = split.runs.first();
        let gallery = first.map_or(0, |run| run.gallery.len());
        SplitCounts {
            name: split.name.clone(),
            aspect: Hand::named(&split.name).map(|hand| hand.code),
            train: count(&split.train),
            val: count(&split.val),
            test: count(&split.test),
            query: first.map_or(0, |run| run.query.len()),
            gallery,
            gallery_all: gallery + first.map_or(0, |run| run.distractors.len()),
        }
    };
    splits.iter().map(of_split).collect()
}

/// A file to be linked to from `to`.
struct Link {
    from: usize,
    to: PathBuf,
}

/// Writes the splits under `out`, which must be new or empty, as the published scripts lay them out, with
/// `split.json` beside them. Files are hard links where the file system allows, copies elsewhere; nothing that is
/// there is ever written to, as what is linked to is the original.
/// `root` is what paths in the manifest are relative to; `progress` gets files done and in all.
///
/// # Errors
/// [`DatasetError::NotEmpty`], [`DatasetError::SameName`], [`DatasetError::Read`], [`DatasetError::Write`].
pub fn write_tree(
    images: &[LabelledImage],
    splits: &[Split],
    (protocol, seed): (Protocol, u64),
    root: &Path,
    out: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Manifest, DatasetError> {
    let write = |path: &Path, source| DatasetError::Write { path: path.to_path_buf(), source };
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(DatasetError::NotEmpty(out.to_path_buf()));
    }
    let links = splits.iter().flat_map(|split| links_of(images, split, out));
    let links = each_once(images, links)?;
    fs::create_dir_all(out).map_err(|source| write(out, source))?;
    let used: BTreeSet<usize> = links.iter().map(|link| link.from).collect();
    let total = used.len() + links.len();
    let done = AtomicUsize::new(0);
    let step = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let hashes: BTreeMap<usize, String> = used
        .into_par_iter()
        .map(|index| {
            let hash = sha256(&images[index].path)?;
            step();
            Ok((index, hash))
        })
        .collect::<Result<_, DatasetError>>()?;
    let folders: BTreeSet<&Path> = links.iter().filter_map(|link| link.to.parent()).collect();
    for folder in folders {
        fs::create_dir_all(folder).map_err(|source| write(folder, source))?;
    }
    for link in &links {
        place(&images[link.from].path, &link.to).map_err(|source| write(&link.to, source))?;
        step();
    }
    let manifest = Manifest {
        format: 1,
        protocol,
        seed,
        splits: counts(images, splits),
        leaked_subjects: super::leaks(images, splits).len(),
        files: splits.iter().flat_map(|split| files_of(images, split, &hashes, root)).collect(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| write(out, error.into()))?;
    write_atomic(&out.join("split.json"), &text)?;
    Ok(manifest)
}

/// What is to be linked to twice from one place is linked to once.
fn each_once(
    images: &[LabelledImage],
    links: impl Iterator<Item = Link>,
) -> Result<Vec<Link>, DatasetError> {
    let mut places: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for link in links {
        match places.entry(link.to) {
            Entry::Vacant(place) => {
                place.insert(link.from);
            }
            Entry::Occupied(place) => {
                let (a, b) = (&images[*place.get()].path, &images[link.from].path);
                if a != b {
                    return Err(DatasetError::SameName { a: a.clone(), b: b.clone() });
                }
            }
        }
    }
    Ok(places.into_iter().map(|(to, from)| Link { from, to }).collect())
}

/// Puts a file into a place where there is none.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    // A hard link to a symbolic one would lead nowhere from another folder.
    let from = from.canonicalize()?;
    match fs::hard_link(&from, to) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => copy(&from, to),
        placed => placed,
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mode = from.metadata()?.permissions().mode();
    let mut to = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut from, &mut to).map(|_| ())
}

fn links_of(images: &[LabelledImage], split: &Split, out: &Path) -> Vec<Link> {
    let base = match split.name.as_str() {
        "all" => out.to_path_buf(),
        name => out.join(format!("{SPLIT_PREFIX}{name}")),
    };
    let mut links = Vec::new();
    let mut part = |folder: &str, indices: &[usize]| {
        let link = |index: &usize| {
            let image = &images[*index];
            let name = image.path.file_name()?;
            let to = base.join(folder).join(image.subject.as_str()).join(name);
            Some(Link { from: *index, to })
        };
        links.extend(indices.iter().filter_map(link));
    };
    part("train", &split.train);
    part("val", &split.val);
    part("train_all", &split.train);
    part("train_all", &split.val);
    part("test", &split.test);
    for (number, run) in split.runs.iter().enumerate() {
        part(&format!("query{number}"), &run.query);
        part(&format!("gallery{number}"), &run.gallery);
        if !run.distractors.is_empty() {
            part(&format!("gallery{number}_all"), &run.gallery);
        }
    }
    for (number, run) in split.runs.iter().enumerate() {
        let folder = base.join(format!("gallery{number}_all"));
        links.extend(run.distractors.iter().filter_map(|(index, id)| {
            let name = images[*index].path.file_name()?;
            Some(Link { from: *index, to: folder.join(id.to_string()).join(name) })
        }));
    }
    links
}

fn files_of(
    images: &[LabelledImage],
    split: &Split,
    hashes: &BTreeMap<usize, String>,
    root: &Path,
) -> Vec<ManifestFile> {
    let parts = [("train", &split.train), ("val", &split.val), ("test", &split.test)];
    let mut gallery_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, run) in split.runs.iter().enumerate() {
        run.gallery.iter().for_each(|index| gallery_of.entry(*index).or_default().push(number));
    }
    let file = |part: &'static str, index: &usize| {
        let image = &images[*index];
        ManifestFile {
            path: image.path.strip_prefix(root).unwrap_or(&image.path).to_path_buf(),
            subject: image.subject.to_string(),
            sha256: hashes.get(index).cloned().unwrap_or_default(),
            split: split.name.clone(),
            part,
            gallery_of: gallery_of.get(index).cloned().unwrap_or_default(),
        }
    };
    parts
        .into_iter()
        .flat_map(|(part, indices)| indices.iter().map(move |index| (part, index)))
        .map(|(part, index)| file(part, index))
        .collect()
}

/// SHA-256 of a plain file, hexadecimal, a part of it in memory at a time. A device or a pipe, which may never end, is refused.
///
/// # Errors
/// [`DatasetError::Read`].
pub fn sha256(path: &Path) -> Result<String, DatasetError> {
    let hashed = file::open_plain(path).and_then(file::sha256);
    let hashed = hashed.map(|(_, hash)| hex(&hash));
    hashed.map_err(|source| DatasetError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::dataset::{read, split};
    use crate::storage::file::PIECE;

    /// Six subjects in folders with four files each.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for subject in 1..=6 {
            let folder = dir.path().join(format!("{subject:04}"));
            fs::create_dir(&folder).unwrap();
            for n in 0..4 {
                fs::write(folder.join(format!("{n}.jpg")), format!("{subject} {n}")).unwrap();
            }
        }
        dir
    }

    /// Divides images of `dir` into a new folder in it, and says what became of that.
    fn divide(dir: &Path, images: &[LabelledImage]) -> Result<Manifest, DatasetError> {
        let protocol = Protocol::Subjects { train: 0.5 };
        let splits = split(images, protocol, 9)?;
        write_tree(images, &splits, (protocol, 9), dir, &dir.join("out"), &|_, _| {})
    }

    #[test]
    fn originals_stay_as_they_are_whatever_is_divided() {
        let content = |path: &Path| fs::read_to_string(path).unwrap();
        // One subject in two folders, with equal names.
        let dir = folder();
        let twin = dir.path().join("again/0001");
        fs::create_dir_all(&twin).unwrap();
        fs::write(twin.join("0.jpg"), "another").unwrap();
        let original = dir.path().join("0001/0.jpg");
        let refused = divide(dir.path(), &read(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(refused.contains("0001/0.jpg and ") && refused.contains("again/0001/0.jpg"));
        assert!(!dir.path().join("out").exists(), "something was written");
        assert_eq!([content(&original), content(&twin.join("0.jpg"))], ["1 0", "another"]);
        // Two names of one file.
        fs::remove_file(twin.join("0.jpg")).unwrap();
        fs::hard_link(&original, twin.join("0.jpg")).unwrap();
        let refused = divide(dir.path(), &read(dir.path()).unwrap());
        assert!(matches!(refused, Err(DatasetError::SameName { .. })));
        assert_eq!(content(&original), "1 0");
        // One file twice.
        fs::remove_dir_all(dir.path().join("again")).unwrap();
        let mut images = read(dir.path()).unwrap();
        images.push(images[0].clone());
        divide(dir.path(), &images).unwrap();
        assert_eq!(content(&original), "1 0");
        // What this very function wrote.
        let out = dir.path().join("out");
        let refused = divide(&out, &read(&out).unwrap());
        assert!(matches!(refused, Err(DatasetError::SameName { .. })));
        let kept = read(&out.join("test")).unwrap();
        assert!(!kept.is_empty() && kept.iter().all(|image| content(&image.path).len() == 3));
        for subject in 1..=6 {
            let file = dir.path().join(format!("{subject:04}/3.jpg"));
            assert_eq!(content(&file), format!("{subject} 3"));
        }
    }

    #[test]
    fn nothing_takes_the_place_of_a_file_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "a").unwrap();
        fs::write(at("b"), "b").unwrap();
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o600)).unwrap();
        for put in [place, copy] {
            let refused = put(&at("a"), &at("b")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(at("b")).unwrap(), "b");
        }
        copy(&at("a"), &at("copy")).unwrap();
        assert_eq!(fs::read_to_string(at("copy")).unwrap(), "a");
        assert_eq!(at("copy").metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        place(&at("link"), &at("folder/a")).unwrap();
        assert_eq!(fs::read_to_string(at("folder/a")).unwrap(), "a");
    }

    #[test]
    fn a_tree_holds_what_the_split_says_and_can_be_read_again() {
        let dir = folder();
        let out = tempfile::tempdir().unwrap();
        let images = read(dir.path()).unwrap();
        let protocol = Protocol::Subjects { train: 0.5 };
        let splits = split(&images, protocol, 9).unwrap();
        let write =
            || write_tree(&images, &splits, (protocol, 9), dir.path(), out.path(), &|_, _| {});
        let manifest = write().unwrap();
        assert!(matches!(write(), Err(DatasetError::NotEmpty(_))));
        let held = |part: &str| read(&out.path().join(part)).unwrap().len();
        assert_eq!([held("train"), held("val"), held("train_all")], [9, 3, 12]);
        assert_eq!([held("test"), held("query0"), held("gallery9")], [12, 9, 3]);
        assert_eq!((manifest.files.len(), manifest.leaked_subjects), (24, 0));
        let file = manifest.files.iter().find(|file| file.part == "test").unwrap();
        assert_eq!(file.sha256, sha256(&dir.path().join(&file.path)).unwrap());
        for run in 0..10 {
            let enrolled = manifest.files.iter().filter(|file| file.gallery_of.contains(&run));
            assert_eq!(enrolled.count(), 3);
        }
        let text = fs::read_to_string(out.path().join("split.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["seed"], 9);
        assert_eq!(json["splits"][0]["query"], 9);
        assert!(!text.contains(&dir.path().display().to_string()), "no path of this machine");
    }

    #[test]
    fn a_file_of_any_size_is_hashed_and_what_never_ends_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 1, PIECE, PIECE + 1] {
            let bytes = vec![7; size];
            fs::write(&path, &bytes).unwrap();
            assert_eq!(sha256(&path).unwrap(), hex(&Sha256::digest(&bytes)));
        }
        for other in [dir.path(), Path::new("/dev/zero")] {
            assert!(matches!(sha256(other), Err(DatasetError::Read { .. })), "{other:?}");
        }
    }
}
