/// Why figures cannot be taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// Vectors without dimensions.
    #[error("embeddings need at least one dimension")]
    NoDimensions,
    /// Values that are no whole number of rows, or an embedding of another size.
    #[error("{got} values make no rows of {dim} dimensions")]
    Dimensions {
        /// Dimensions of a row.
        dim: usize,
        /// Values found.
        got: usize,
    },
    /// A NaN or an infinity.
    #[error("embedding {row} has a non-finite value at dimension {dim}")]
    NonFinite {
        /// Row.
        row: usize,
        /// First offending dimension.
        dim: usize,
    },
    /// A row that is not of unit length.
    #[error("embedding {row} has length {norm}, not 1")]
    NotUnit {
        /// Row.
        row: usize,
        /// Euclidean length found.
        norm: f64,
    },
    /// A session that names a row which does not exist.
    #[error("the session names embedding {row}, there are {rows}")]
    NoSuchRow {
        /// Row named.
        row: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// Captures that are not one for every row.
    #[error("{got} captures for {rows} embeddings")]
    Captures {
        /// Captures given.
        got: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// Scores that cannot be ordered.
    #[error("a similarity is not a number")]
    NotANumber,
    /// No genuine comparison: there is no FNMR.
    #[error("there is no genuine comparison")]
    NoGenuine,
    /// No impostor comparison: there is no FMR.
    #[error("there is no impostor comparison")]
    NoImpostor,
    /// No non-mated probe: there is no FPIR.
    #[error("there is no probe without a mate in the gallery")]
    NoNonMated,
    /// No mated probe: there is no FNIR.
    #[error("there is no probe with a mate in the gallery")]
    NoMated,
    /// Two systems that were not asked the same.
    #[error("the systems were not asked the same: run {run} differs")]
    NotPaired {
        /// First run that differs, from 0.
        run: usize,
    },
    /// Nothing to resample.
    #[error("there is no subject to resample")]
    NoSubjects,
    /// A share that is none.
    #[error("{0} is not a share between 0 and 1")]
    Share(f64),
}
