//! Pictures for training: decoded on worker threads a few batches ahead, kept decoded while the limit
//! allows.

use std::borrow::Cow;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use rayon::prelude::*;

use crate::image::{DecodeLimits, Preprocessing, decode};
use crate::storage::file::open_plain;
use crate::training::augment::{Augment, Flip};
use crate::training::error::TrainingError;

/// Batches made ahead of the one that trains.
const AHEAD: usize = 2;

/// What becomes of an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The run stops, naming it.
    Fatal,
    /// It is left out, and listed at the end.
    Skip,
}

/// Gives the bytes of a picture, or says why not.
pub type ReadPicture<'a> = dyn Fn(usize) -> Result<Vec<u8>, String> + Send + Sync + 'a;

/// Pictures by number, framed to a model's input and kept so while `cache_bytes` allows.
pub struct PictureFiles<'a> {
    paths: Vec<PathBuf>,
    read: Box<ReadPicture<'a>>,
    preprocessing: Preprocessing,
    kept: Vec<OnceLock<Vec<u8>>>,
    room: AtomicUsize,
    unreadable: Unreadable,
    skipped: Mutex<Vec<PathBuf>>,
}

impl PictureFiles<'static> {
    /// Files in the order that indices will name them.
    #[must_use]
    pub fn new(
        paths: Vec<PathBuf>,
        preprocessing: Preprocessing,
        cache_bytes: usize,
        unreadable: Unreadable,
    ) -> Self {
        let files = paths.clone();
        let read = Box::new(move |index: usize| read_file(&files[index]));
        Self::reading(paths, read, preprocessing, cache_bytes, unreadable)
    }
}

impl<'a> PictureFiles<'a> {
    /// Pictures that `read` gives by their place among `names`, which errors will name.
    #[must_use]
    pub fn reading(
        names: Vec<PathBuf>,
        read: Box<ReadPicture<'a>>,
        preprocessing: Preprocessing,
        cache_bytes: usize,
        unreadable: Unreadable,
    ) -> Self {
        Self {
            kept: names.iter().map(|_| OnceLock::new()).collect(),
            paths: names,
            read,
            preprocessing,
            room: AtomicUsize::new(cache_bytes),
            unreadable,
            skipped: Mutex::default(),
        }
    }

    /// How the pictures are framed and normalised.
    #[must_use]
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The path of file `index`.
    #[must_use]
    pub fn path(&self, index: usize) -> &Path {
        &self.paths[index]
    }

    /// Files that were left out because they cannot be decoded, each once.
    #[must_use]
    pub fn skipped(&self) -> Vec<PathBuf> {
        let mut skipped = self.skipped.lock().clone();
        skipped.sort();
        skipped.dedup();
        skipped
    }

    /// The framed picture of file `index`, `[height, width, 3]`; `None` for one that is skipped.
    ///
    /// # Errors
    /// [`TrainingError::Picture`] naming the file, where such files are fatal.
    pub fn pixels(&self, index: usize) -> Result<Option<Cow<'_, [u8]>>, TrainingError> {
        if let Some(kept) = self.kept[index].get() {
            return Ok(Some(Cow::Borrowed(kept)));
        }
        let path = &self.paths[index];
        let framed = match self.decode(index) {
            Ok(framed) => framed,
            Err(_) if self.unreadable == Unreadable::Skip => {
                self.skipped.lock().push(path.clone());
                return Ok(None);
            }
            Err(problem) => return Err(TrainingError::Picture { path: path.clone(), problem }),
        };
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
            room.checked_sub(framed.len())
        });
        if fits.is_err() {
            return Ok(Some(Cow::Owned(framed)));
        }
        Ok(Some(Cow::Borrowed(self.kept[index].get_or_init(|| framed))))
    }

    fn decode(&self, index: usize) -> Result<Vec<u8>, String> {
        let bytes = (self.read)(index)?;
        let picture = decode(&bytes, &DecodeLimits::default()).map_err(|e| e.to_string())?;
        Ok(self.preprocessing.pixels(&picture))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let said = |error: std::io::Error| error.to_string();
    let most = DecodeLimits::default().max_file_bytes;
    let mut bytes = Vec::new();
    let file = open_plain(path).map_err(said)?;
    // Whatever size it says it has, and whatever becomes of it meanwhile.
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() > most { Err(format!("larger than {most} bytes")) } else { Ok(bytes) }
}

/// A picture of a batch that is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) file: usize,
    pub(super) flip: Flip,
}

/// Pictures of one batch, ready for the device.
#[derive(Debug, PartialEq)]
pub(super) struct Loaded {
    /// `[pictures, 3, side, side]`, normalised.
    pub(super) pixels: Vec<f32>,
    /// Of what; pictures that are skipped are not among them.
    pub(super) shots: Vec<Shot>,
}

impl Loaded {
    pub(super) fn files(&self) -> Vec<usize> {
        self.shots.iter().map(|shot| shot.file).collect()
    }
}

/// Decodes, varies and normalises the pictures of one batch. The same seed gives the same pictures.
pub(super) fn load(
    files: &PictureFiles<'_>,
    augment: &Augment,
    shots: &[Shot],
    seed: u64,
) -> Result<Loaded, TrainingError> {
    let pictures: Vec<Option<Vec<f32>>> = shots
        .par_iter()
        .enumerate()
        .map(|(place, shot)| {
            let Some(mut framed) = files.pixels(shot.file)? else { return Ok(None) };
            if shot.flip != Flip::default() {
                shot.flip.apply(framed.to_mut(), augment.size);
            }
            let seed = seed.wrapping_add(place as u64);
            let varied = augment.apply(&framed, augment.size, seed);
            Ok(Some(files.preprocessing.normalise(&varied)))
        })
        .collect::<Result<_, TrainingError>>()?;
    let mut loaded = Loaded { pixels: Vec::new(), shots: Vec::new() };
    for (shot, picture) in shots.iter().zip(pictures) {
        if let Some(picture) = picture {
            loaded.pixels.extend(picture);
            loaded.shots.push(*shot);
        }
    }
    Ok(loaded)
}

/// Runs `consume` with a queue that batches arrive in; `plan` says what the next batch is made of and
/// `None` at the end. Batches are made on threads of their own, at most [`AHEAD`] batches ahead: as many threads as the caller
/// computes on, and as willing to give way, which a thread inherits from the one that starts it.
pub(super) fn prefetched<R>(
    files: &PictureFiles<'_>,
    augment: &Augment,
    mut plan: impl FnMut() -> Option<(Vec<Shot>, u64)> + Send,
    consume: impl FnOnce(Receiver<Result<Loaded, TrainingError>>) -> R,
) -> R {
    std::thread::scope(|scope| {
        let (sender, receiver): (SyncSender<_>, _) = sync_channel(AHEAD);
        let threads = rayon::current_num_threads();
        scope.spawn(move || {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|number| format!("pictures-{number}"))
                .build();
            let mut make = || {
                while let Some((shots, seed)) = plan() {
                    // The consumer has left: nobody wants more.
                    if sender.send(load(files, augment, &shots, seed)).is_err() {
                        break;
                    }
                }
            };
            match pool {
                Ok(pool) => pool.install(make),
                // Threads that cannot be had now: those that there are.
                Err(_) => make(),
            }
        });
        consume(receiver)
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;
    use crate::image::{Framing, Picture, encode_jpeg};

    fn files(
        dir: &Path,
        cache_bytes: usize,
        unreadable: Unreadable,
    ) -> (PictureFiles<'static>, Vec<PathBuf>) {
        let mut paths = Vec::new();
        for n in 0..3_u8 {
            let rgb = (0..40 * 30 * 3).map(|i| (i % 200) as u8 + n).collect();
            let picture = Picture::from_rgb(40, 30, rgb).unwrap();
            let path = dir.join(format!("{n}.jpg"));
            std::fs::write(&path, encode_jpeg(&picture, 90).unwrap()).unwrap();
            paths.push(path);
        }
        let broken = dir.join("broken.jpg");
        std::fs::write(&broken, b"not a picture").unwrap();
        paths.push(broken);
        let preprocessing = Preprocessing::clip(16).with_framing(Framing::Squash);
        (PictureFiles::new(paths.clone(), preprocessing, cache_bytes, unreadable), paths)
    }

    fn shots(files: &[usize]) -> Vec<Shot> {
        files.iter().map(|file| Shot { file: *file, flip: Flip::default() }).collect()
    }

    #[test]
    fn a_flipped_picture_is_mirrored_and_the_kept_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = files(dir.path(), 1 << 20, Unreadable::Fatal);
        let plain = shots(&[0])[0];
        let turned = Shot { flip: Flip { horizontal: true, vertical: false }, ..plain };
        let augment = Augment::none(16);
        let loaded = load(&files, &augment, &[plain, turned, plain], 1).unwrap().pixels;
        let image = |at: usize| &loaded[at * 3 * 256..(at + 1) * 3 * 256];
        assert_ne!(image(0), image(1));
        assert_eq!(image(0), image(2));
        let back: Vec<f32> =
            image(1).chunks(16).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(image(0), back);
    }

    #[test]
    fn pictures_are_kept_only_while_the_limit_allows() {
        let dir = tempfile::tempdir().unwrap();
        let one = 16 * 16 * 3;
        let (files, _) = files(dir.path(), one + 10, Unreadable::Fatal);
        let first = files.pixels(0).unwrap().unwrap().into_owned();
        assert!(matches!(files.pixels(0).unwrap(), Some(Cow::Borrowed(_))));
        assert!(matches!(files.pixels(1).unwrap(), Some(Cow::Owned(_))));
        assert_eq!(files.pixels(0).unwrap().unwrap().into_owned(), first);
    }

    #[test]
    fn a_file_that_cannot_be_decoded_is_named_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let augment = Augment::none(16);
        let (strict, _) = files(dir.path(), 1 << 20, Unreadable::Fatal);
        let error = load(&strict, &augment, &shots(&[0, 3]), 1).unwrap_err().to_string();
        assert!(error.contains("broken.jpg"), "{error}");
        let (lenient, paths) = files(dir.path(), 1 << 20, Unreadable::Skip);
        let loaded = load(&lenient, &augment, &shots(&[0, 3, 2, 3]), 1).unwrap();
        assert_eq!((loaded.files(), loaded.pixels.len()), (vec![0, 2], 2 * 16 * 16 * 3));
        assert_eq!(lenient.skipped(), [paths[3].clone()]);
    }

    #[test]
    fn what_is_no_plain_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        for other in [Path::new("/dev/zero"), dir.path()] {
            assert_eq!(read_file(other).unwrap_err(), "no plain file");
        }
        let large = dir.path().join("large.jpg");
        let most = DecodeLimits::default().max_file_bytes as u64;
        // Sparse: no byte of it is written.
        std::fs::File::create(&large).unwrap().set_len(most + 1).unwrap();
        assert!(read_file(&large).unwrap_err().contains("larger"));
    }

    #[test]
    fn batches_come_in_order_and_end_with_the_plan() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = files(dir.path(), 0, Unreadable::Fatal);
        let augment = Augment::standard(16);
        let mut left = 5;
        let plan = move || {
            left -= 1;
            (left >= 0).then(|| (shots(&[left as usize % 3, 0]), left as u64))
        };
        let got: Vec<Loaded> = prefetched(&files, &augment, plan, |queue| {
            queue.into_iter().collect::<Result<_, _>>().unwrap()
        });
        let firsts: Vec<usize> = got.iter().map(|batch| batch.shots[0].file).collect();
        assert_eq!(firsts, [1, 0, 2, 1, 0]);
        assert_eq!(
            got[0],
            load(&files, &augment, &shots(&[1, 0]), 4).unwrap(),
            "by the seed alone"
        );
        // A consumer that leaves early must not hang the run.
        let endless = || Some((shots(&[0]), 0));
        prefetched(&files, &augment, endless, |queue| drop(queue.recv()));
    }
}
