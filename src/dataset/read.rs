//! Finding the images of a data set and whose hands they show.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::domain::{Aspect, HandAttributes, Side, SubjectId};

use super::DatasetError;
use super::split::HANDS;

/// An image of whose hand is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImage {
    /// The file.
    pub path: PathBuf,
    /// Whose hand it shows.
    pub subject: SubjectId,
    /// What the label file says of it.
    pub attributes: HandAttributes,
}

impl LabelledImage {
    /// The subject's id, without leading zeros where it is a number: `0000007` and `7` are one person.
    #[must_use]
    pub fn key(&self) -> String {
        let id = self.subject.as_str();
        match id.trim_start_matches('0') {
            "" => "0".to_owned(),
            number if is_number(id) => number.to_owned(),
            _ => id.to_owned(),
        }
    }
}

/// Finds the images under `root`: a CSV manifest (`path,subject[,aspect,side,accessories]`, other columns
/// become free-form attributes), 11k Hands (`HandInfo.csv` beside `Hands/`, or that file itself), a tree of
/// its published splits, PolyU HD (`<id>_<n>.jpg`), or a folder for each subject. In a fixed order. Links are
/// followed, wherever they lead; one that leads nowhere, or back to a folder that it lies in, is an error.
///
/// # Errors
/// [`DatasetError`].
pub fn read(root: &Path) -> Result<Vec<LabelledImage>, DatasetError> {
    let mut images = if root.is_file() && looks_like_an_image(root) {
        return Err(DatasetError::SingleImage(root.to_path_buf()));
    } else if root.is_file() {
        let rows = Rows::read(root)?;
        let is_hand_info = rows.columns.contains_key("aspectOfHand");
        if is_hand_info { hands11k(&rows)? } else { manifest(&rows)? }
    } else if let Some(labels) = hand_info(root) {
        hands11k(&Rows::read(&labels)?)?
    } else {
        folders(root, root)?
    };
    // A row that is there twice is one image.
    let mut known = HashSet::new();
    images.retain(|image| known.insert((image.path.clone(), image.key())));
    if images.is_empty() { Err(DatasetError::Nothing(root.to_path_buf())) } else { Ok(images) }
}

/// The label file of 11k Hands in its folder, or in the folder above by one of the names it goes by.
pub(super) fn hand_info(root: &Path) -> Option<PathBuf> {
    let places = ["", "11k", "11khands", "11kHands"].map(|name| root.join(name));
    places.into_iter().map(|place| place.join("HandInfo.csv")).find(|labels| labels.is_file())
}

/// How the folder of a hand's published split begins.
pub(super) const SPLIT_PREFIX: &str = "train_val_test_split_";

struct Rows {
    path: PathBuf,
    columns: BTreeMap<String, usize>,
    records: Vec<csv::StringRecord>,
}

impl Rows {
    fn read(path: &Path) -> Result<Self, DatasetError> {
        let csv_error = |source| DatasetError::Csv { path: path.to_path_buf(), source };
        let file = std::fs::File::open(path)
            .map_err(|source| DatasetError::Read { path: path.to_path_buf(), source })?;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let header = reader.headers().map_err(csv_error)?;
        let columns = header.iter().enumerate().map(|(i, name)| (name.to_owned(), i)).collect();
        let records = reader.records().collect::<Result<_, _>>().map_err(csv_error)?;
        Ok(Self { path: path.to_path_buf(), columns, records })
    }

    fn fail(&self, row: usize, problem: impl Into<String>) -> DatasetError {
        DatasetError::Row { path: self.path.clone(), row: row + 2, problem: problem.into() }
    }

    fn get<'a>(&self, record: &'a csv::StringRecord, name: &str) -> Option<&'a str> {
        // Trimmed: one id of 11k Hands ends in a space inside its quotes.
        let text = record.get(*self.columns.get(name)?)?.trim();
        (!text.is_empty()).then_some(text)
    }

    fn need<'a>(
        &self,
        row: usize,
        record: &'a csv::StringRecord,
        name: &str,
    ) -> Result<&'a str, DatasetError> {
        self.get(record, name).ok_or_else(|| self.fail(row, format!("has no `{name}`")))
    }

    fn subject(&self, row: usize, text: &str) -> Result<SubjectId, DatasetError> {
        SubjectId::new(text).map_err(|error| self.fail(row, error.to_string()))
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

fn hands11k(rows: &Rows) -> Result<Vec<LabelledImage>, DatasetError> {
    let root = rows.path.parent().unwrap_or(Path::new("."));
    let plan = |(row, record): (usize, &csv::StringRecord)| {
        let (aspect, side) = aspect_of_hand(rows.need(row, record, "aspectOfHand")?)
            .ok_or_else(|| rows.fail(row, "`aspectOfHand` is not like `dorsal right`"))?;
        let mut extra = BTreeMap::new();
        for (column, name) in [("gender", "gender"), ("skinColor", "skin_color"), ("age", "age")] {
            if let Some(value) = rows.get(record, column) {
                extra.insert(name.to_owned(), value.to_owned());
            }
        }
        let name = rows.need(row, record, "imageName")?;
        // An absolute path would take the folder's place, and `..` lead out of it: whoever wrote the label file would name any
        // file of the machine.
        if !is_plain(Path::new(name)) {
            return Err(rows.fail(row, "`imageName` leads out of `Hands`"));
        }
        Ok(LabelledImage {
            path: root.join("Hands").join(name),
            subject: rows.subject(row, rows.need(row, record, "id")?)?,
            attributes: HandAttributes {
                aspect: Some(aspect),
                side: Some(side),
                accessories: rows.get(record, "accessories").and_then(flag),
                extra,
            },
        })
    };
    rows.records.iter().enumerate().map(plan).collect()
}

/// Whether a path stays below whatever it is joined to.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// `dorsal right` and its like.
fn aspect_of_hand(text: &str) -> Option<(Aspect, Side)> {
    let (aspect, side) = text.split_once(' ')?;
    Some((aspect.parse().ok()?, side.trim().parse().ok()?))
}

fn manifest(rows: &Rows) -> Result<Vec<LabelledImage>, DatasetError> {
    let base = rows.path.parent().unwrap_or(Path::new("."));
    let known = ["path", "subject", "aspect", "side", "accessories"];
    let plan = |(row, record): (usize, &csv::StringRecord)| {
        let bad = |error: &dyn std::fmt::Display| rows.fail(row, error.to_string());
        let aspect = rows.get(record, "aspect").map(str::parse::<Aspect>).transpose();
        let side = rows.get(record, "side").map(str::parse::<Side>).transpose();
        let accessories = match rows.get(record, "accessories") {
            None => None,
            Some(text) => {
                Some(flag(text).ok_or_else(|| rows.fail(row, "`accessories` is not 0 or 1"))?)
            }
        };
        let extra = rows
            .columns
            .keys()
            .filter(|name| !known.contains(&name.as_str()))
            .filter_map(|name| Some((name.clone(), rows.get(record, name)?.to_owned())))
            .collect();
        let attributes = HandAttributes {
            aspect: aspect.map_err(|e| bad(&e))?,
            side: side.map_err(|e| bad(&e))?,
            accessories,
            extra,
        };
        attributes.validate().map_err(|e| bad(&e))?;
        Ok(LabelledImage {
            path: base.join(rows.need(row, record, "path")?),
            subject: rows.subject(row, rows.need(row, record, "subject")?)?,
            attributes,
        })
    };
    rows.records.iter().enumerate().map(plan).collect()
}

pub(super) fn unreadable(root: &Path, error: walkdir::Error) -> DatasetError {
    DatasetError::Read { path: error.path().unwrap_or(root).to_path_buf(), source: error.into() }
}

/// Images of the data set `root` that lie under `part`.
pub(super) fn folders(root: &Path, part: &Path) -> Result<Vec<LabelledImage>, DatasetError> {
    let mut images = Vec::new();
    for entry in walkdir::WalkDir::new(part).sort_by_file_name().follow_links(true) {
        let entry = entry.map_err(|error| unreadable(part, error))?;
        if !entry.file_type().is_file() || !looks_like_an_image(entry.path()) {
            continue;
        }
        // Leaving an image out in silence would be worse than stopping at it.
        let path = entry.into_path();
        let subject = match subject_of(root, &path) {
            Ok(subject) => subject,
            Err(problem) => return Err(DatasetError::NoSubject { path, problem }),
        };
        let attributes = attributes_of(root, &path);
        images.push(LabelledImage { path, subject, attributes });
    }
    Ok(images)
}

fn looks_like_an_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png" | "webp"))
}

/// The folder's name; in a folder of many people, as HD has them, the number before the `_`.
fn subject_of(root: &Path, path: &Path) -> Result<SubjectId, String> {
    let folder = path.parent().filter(|folder| *folder != root).and_then(Path::file_name);
    let folder = folder.map(|name| name.to_string_lossy());
    let name = match folder {
        Some(folder) if names_a_hand(&folder) => {
            return Err(format!(
                "`{folder}` names a hand and no subject: give each subject one folder, or list the images in a \
                 CSV manifest (path,subject,aspect,side)"
            ));
        }
        Some(folder) if !is_of_many(&folder) => folder.into_owned(),
        Some(_) | None => number_before(path).ok_or_else(|| {
            "name it <id>_<n>, or put it into a folder of the subject's name".to_owned()
        })?,
    };
    SubjectId::new(name).map_err(|error| error.to_string())
}

/// What the folders of the published splits say: `train_val_test_split_dorsal_r` and its like, whose
/// images are those without accessories.
fn attributes_of(root: &Path, path: &Path) -> HandAttributes {
    let folders = path.parent().into_iter().flat_map(Path::ancestors);
    let within = folders.take_while(|folder| folder.starts_with(root));
    let hand = within
        .filter_map(|folder| folder.file_name()?.to_str()?.strip_prefix(SPLIT_PREFIX))
        .find_map(|name| HANDS.iter().find(|hand| hand.name == name));
    match hand {
        Some(hand) => HandAttributes {
            aspect: Some(hand.aspect),
            side: Some(hand.side),
            accessories: Some(false),
            ..HandAttributes::default()
        },
        None => HandAttributes::default(),
    }
}

/// `1-501`, `502-712`, `Original Images`: folders of HD. The name of a file in any other folder says
/// nothing of whose it is: cameras name theirs `20240131_120000.jpg`.
fn is_of_many(folder: &str) -> bool {
    let range = folder.split_once('-').is_some_and(|(a, b)| is_number(a) && is_number(b));
    range || matches!(folder, "Original Images" | "Original_Images")
}

/// `left`, `Dorsal_right`, `palmar_l`: below folders of subjects these would make one person of all of them.
fn names_a_hand(folder: &str) -> bool {
    let folder = folder.to_ascii_lowercase();
    let mut words = folder.split([' ', '_', '-']);
    let known = |word: &str| matches!(word, "left" | "right" | "dorsal" | "palmar");
    let beside = |word: &str| matches!(word, "l" | "r" | "hand" | "hands");
    words.clone().any(known) && words.all(|word| known(word) || beside(word))
}

fn number_before(path: &Path) -> Option<String> {
    let (id, n) = path.file_stem()?.to_str()?.split_once('_')?;
    (is_number(id) && is_number(n)).then(|| id.to_owned())
}

pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;

    pub(in crate::dataset) fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).unwrap();
        }
        dir
    }

    fn text(dir: &Path, name: &str, content: &str) -> PathBuf {
        let path = dir.join(name);
        File::create(&path).unwrap().write_all(content.as_bytes()).unwrap();
        path
    }

    pub(in crate::dataset) fn subjects(images: &[LabelledImage]) -> Vec<&str> {
        images.iter().map(|p| p.subject.as_str()).collect()
    }

    #[test]
    fn a_folder_for_each_subject_and_files_of_hd_are_understood() {
        let dir = tree(&[
            "ann/1.jpg",
            "ann/2.PNG",
            "ann/20240131_120000.jpg",
            "bob/x.webp",
            "bob/notes.txt",
            "train/0012/0012_1.jpg",
            "1-501/0007_3.jpg",
            "Original Images/0008_1.jpg",
            "0009_2.jpg",
        ]);
        let images = read(dir.path()).unwrap();
        assert_eq!(
            subjects(&images),
            ["0009", "0007", "0008", "ann", "ann", "ann", "bob", "0012"],
            "in the order of their paths"
        );
    }

    #[test]
    fn no_image_is_left_out_in_silence() {
        for (file, problem) in [
            ("loose.jpg", "<id>_<n>"),
            ("Ann Smith/1.jpg", "not a subject id"),
            ("1-501/x.jpg", "_<n>"),
            ("ann/left/1.jpg", "`left` names a hand"),
            ("ann/Dorsal right/1.jpg", "manifest"),
            ("palmar_l/1.jpg", "one folder"),
        ] {
            let dir = tree(&["bob/1.jpg", file]);
            let message = read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(file) && message.contains(problem), "{message}");
        }
        let dir = tree(&["one.JPG"]);
        let message = read(&dir.path().join("one.JPG")).unwrap_err().to_string();
        assert!(message.contains("--subject"), "{message}");
    }

    #[test]
    fn folders_whose_names_only_resemble_those_of_hands_are_subjects() {
        let dir = tree(&["wright/1.jpg", "left-2/1.jpg", "l/1.jpg", "a/ann/1.jpg", "b/ann/1.jpg"]);
        assert_eq!(subjects(&read(dir.path()).unwrap()), ["ann", "ann", "l", "left-2", "wright"]);
    }

    #[test]
    fn links_are_followed_and_named_where_they_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let store = tree(&["x.jpg", "bob/1.jpg"]);
        let dir = tree(&["ann/1.jpg"]);
        symlink(store.path().join("x.jpg"), dir.path().join("ann/2.jpg")).unwrap();
        symlink(store.path().join("bob"), dir.path().join("bob")).unwrap();
        let images = read(dir.path()).unwrap();
        assert_eq!(subjects(&images), ["ann", "ann", "bob"]);
        assert_eq!(images[1].path, dir.path().join("ann/2.jpg"), "by the name that it has here");
        for leads_to in [Path::new("none"), dir.path()] {
            let link = dir.path().join("ann/cyd");
            symlink(leads_to, &link).unwrap();
            let message = read(dir.path()).unwrap_err().to_string();
            assert!(message.contains("ann/cyd"), "{message}");
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn hand_info_is_read_with_its_trailing_space() {
        let dir = tempfile::tempdir().unwrap();
        let header =
            "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities";
        let row = "\"0000003 \",27,\"male\",\"fair\",1,0,\"dorsal right\",\"Hand_1.jpg\",0";
        text(dir.path(), "HandInfo.csv", &format!("{header}\n{row}\n"));
        let images = read(dir.path()).unwrap();
        assert_eq!(subjects(&images), ["0000003"]);
        assert_eq!(images[0].path, dir.path().join("Hands/Hand_1.jpg"));
        assert_eq!(read(&dir.path().join("HandInfo.csv")).unwrap(), images, "by the file itself");
        let attributes = &images[0].attributes;
        assert_eq!((attributes.aspect, attributes.side), (Some(Aspect::Dorsal), Some(Side::Right)));
        assert_eq!(attributes.accessories, Some(true));
        assert_eq!(attributes.extra["skin_color"], "fair");
    }

    #[test]
    fn hand_info_names_no_file_outside_its_folder() {
        for name in ["/dev/zero", "../x.jpg", "a/../../x.jpg", "./../x.jpg"] {
            let dir = tempfile::tempdir().unwrap();
            let rows = format!("id,aspectOfHand,imageName\n7,palmar left,{name}\n");
            text(dir.path(), "HandInfo.csv", &rows);
            let message = read(dir.path()).unwrap_err().to_string();
            assert!(message.contains("row 2") && message.contains("leads out"), "{message}");
        }
    }

    #[test]
    fn a_manifest_names_paths_subjects_and_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let file = text(
            dir.path(),
            "m.csv",
            "subject,path,side,site\nann,a/1.jpg,left,north\nbob,2.jpg,,\nann,./a/1.jpg,,\n",
        );
        let images = read(&file).unwrap();
        assert_eq!(subjects(&images), ["ann", "bob"], "a file is one image");
        assert_eq!(images[0].path, dir.path().join("a/1.jpg"));
        assert_eq!(images[0].attributes.side, Some(Side::Left));
        assert_eq!(images[0].attributes.extra["site"], "north");
        assert_eq!(images[1].attributes, HandAttributes::default());
    }

    #[test]
    fn a_bad_row_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file =
            text(dir.path(), "m.csv", "path,subject,side\n1.jpg,ann,left\n2.jpg,bob,middle\n");
        let message = read(&file).unwrap_err().to_string();
        assert!(message.contains("row 3") && message.contains("middle"), "{message}");
    }

    #[test]
    fn an_empty_folder_is_an_error_that_says_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(DatasetError::Nothing(_))));
        assert!(matches!(read(&dir.path().join("absent")), Err(DatasetError::Read { .. })));
    }

    #[test]
    fn a_tree_of_published_splits_says_which_hand_it_holds() {
        let dir = tree(&[
            "11khands/train_val_test_split_dorsal_r/query0/0000002/Hand_0000012.jpg",
            "11khands/train_val_test_split_palmar_l/train/1000/Hand_1.jpg",
        ]);
        let images = read(dir.path()).unwrap();
        assert_eq!(subjects(&images), ["0000002", "1000"]);
        let hands: Vec<_> =
            images.iter().map(|i| (i.attributes.aspect, i.attributes.side)).collect();
        let expected =
            [(Some(Aspect::Dorsal), Some(Side::Right)), (Some(Aspect::Palmar), Some(Side::Left))];
        assert_eq!(hands, expected);
    }

    #[test]
    fn hands_11k_is_found_by_the_names_its_folder_goes_by() {
        for root in ["11k", "11khands"] {
            let dir = tree(&[&format!("{root}/Hands/Hand_1.jpg")]);
            let header = "id,aspectOfHand,imageName";
            let row = "7,palmar left,Hand_1.jpg";
            text(&dir.path().join(root), "HandInfo.csv", &format!("{header}\n{row}\n"));
            let images = read(dir.path()).unwrap();
            assert_eq!(images[0].path, dir.path().join(root).join("Hands/Hand_1.jpg"));
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let key = |id: &str| {
            let subject = SubjectId::new(id).unwrap();
            LabelledImage { path: "x".into(), subject, attributes: HandAttributes::default() }.key()
        };
        assert_eq!([key("0000007"), key("7"), key("000"), key("0a")], ["7", "7", "0", "0a"]);
    }
}
