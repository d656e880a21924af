use std::path::PathBuf;

/// Why a data set could not be read, divided or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A label file that is no CSV.
    #[error("{path} is not a CSV file", path = path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: csv::Error,
    },
    /// A row that cannot be used.
    #[error("{path}, row {row}: {problem}", path = path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 2 after the header.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An image where a folder or a manifest was expected.
    #[error("{path} is one image: say whose hand it shows (--subject)", path = .0.display())]
    SingleImage(PathBuf),
    /// An image that cannot be told whose it is.
    #[error("cannot tell whose hand {path} shows: {problem}", path = path.display())]
    NoSubject {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// Nothing that looks like images of subjects.
    #[error("found no images under {path}: expected HandInfo.csv with Hands/, files named <id>_<n>.jpg, or a folder for each subject", path = .0.display())]
    Nothing(PathBuf),
    /// An id that is no number, where subjects are divided by number.
    #[error(
        "subject `{0}` is not a number: the published protocols divide subjects by number; use `subjects`"
    )]
    NotANumber(String),
    /// A side without a subject.
    #[error("`{0}` has too few subjects to train on some and test on others")]
    TooFew(String),
    /// A share that leaves a side empty.
    #[error("{0} is no share of the subjects: use a number between 0 and 1")]
    Share(f64),
    /// Subjects that are trained on and tested on.
    #[error(
        "{count} subjects are trained on in one split and tested on in another, e.g. {subject} ({trained}, {tested}): {advice}",
        advice = "use the joint protocol, or say that each model will see one split only (--allow-leaks)"
    )]
    Leaks {
        /// How many.
        count: usize,
        /// One of them.
        subject: String,
        /// The split that trains on it.
        trained: String,
        /// The split that tests on it.
        tested: String,
    },
    /// Trees of splits of which one trains on whom another tests on.
    #[error(
        "subject {subject} is trained on ({trained}) and tested on ({tested}): train on one split alone, or divide the data set with the joint protocol", trained = trained.display(), tested = tested.display()
    )]
    TrainedAndTested {
        /// The subject.
        subject: String,
        /// An image that is trained on.
        trained: PathBuf,
        /// The split that tests on the subject.
        tested: PathBuf,
    },
    /// Two files that a split would put into one place.
    #[error(
        "{a} and {b} show one subject and have one name, so that a split has room for one of them only: give one another name, or remove it if it is a copy", a = a.display(), b = b.display()
    )]
    SameName {
        /// The first file.
        a: PathBuf,
        /// The second file.
        b: PathBuf,
    },
    /// Splits where a data set was expected.
    #[error(
        "{path} holds splits already, each image several times: name the data set that they were made of, or one part of them, as {train}", path = .0.display(), train = .0.join("train_all").display()
    )]
    Divided(PathBuf),
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
    /// The record of a split could not be written.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
}
