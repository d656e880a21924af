//! Embeddings that another program made: how a PyTorch run joins a comparison.
//!
//! They are matched to images by file name. `.npy` holds `[n, dim]` and has a text file of the same name beside it
//! (`.txt`: a file name a line; `.csv`: a column `path`); `.csv` has a column `path` and one column a dimension, a nameless
//! first column aside;
//! `.parquet` has a column `path` and a list column `embedding`.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

use crate::domain::Embedding;

use super::EvaluateError;
use super::embed::{Embedded, embedded};
use super::plan::EvaluatedFile;

/// Values that a file of embeddings may hold: 4 GiB of them.
const MOST_VALUES: usize = 1 << 30;

/// Whether a name is that of a file of embeddings.
pub(super) fn is_external(path: &Path) -> bool {
    matches!(extension(path).as_deref(), Some("npy" | "csv" | "parquet"))
}

fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase)
}

/// Reads the embeddings of every file of a plan.
pub(super) fn read_external(
    path: &Path,
    files: &[EvaluatedFile],
) -> Result<Embedded, EvaluateError> {
    let started = Instant::now();
    let rows = match extension(path).as_deref() {
        Some("npy") => npy(path)?,
        Some("parquet") => parquet(path)?,
        Some(_) | None => csv(path)?,
    };
    let mut by_name: HashMap<String, Vec<f32>> = HashMap::with_capacity(rows.len());
    for (row, (name, values)) in rows.into_iter().enumerate() {
        let name = base_name(&name);
        if by_name.insert(name.clone(), values).is_some() {
            return Err(fail(path, format!("names {name} twice, the second time in row {row}")));
        }
    }
    // One row for two images would be the same embedding for both.
    let mut asked: BTreeSet<String> = BTreeSet::new();
    if let Some(name) = files.iter().map(EvaluatedFile::name).find(|n| !asked.insert(n.clone())) {
        let problem =
            format!("is matched by file names, and two images of the data set are called {name}");
        return Err(fail(path, problem));
    }
    let missing: Vec<String> =
        files.iter().map(EvaluatedFile::name).filter(|name| !by_name.contains_key(name)).collect();
    if let Some(first) = missing.first() {
        let problem = format!("has no embedding of {} images, e.g. {first}", missing.len());
        return Err(fail(path, problem));
    }
    let found = files.iter().map(|file| {
        let name = file.name();
        let values = by_name.get(&name).cloned().unwrap_or_default();
        Embedding::from_raw(values)
            .map(Some)
            .map_err(|error| fail(path, format!("{name}: {error}")))
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    embedded(found, Vec::new(), 0, started)
}

fn base_name(path: &str) -> String {
    // Written on any system.
    path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned()
}

fn fail(path: &Path, problem: impl Into<String>) -> EvaluateError {
    EvaluateError::External { path: path.to_path_buf(), problem: problem.into() }
}

type Rows = Vec<(String, Vec<f32>)>;

fn open(path: &Path) -> Result<File, EvaluateError> {
    File::open(path).map_err(|source| EvaluateError::Read { path: path.to_path_buf(), source })
}

fn npy(path: &Path) -> Result<Rows, EvaluateError> {
    let names = names_beside(path)?;
    let file = npyz::NpyFile::new(std::io::BufReader::new(open(path)?))
        .map_err(|error| fail(path, format!("is no .npy file: {error}")))?;
    let &[rows, dim] = file.shape() else {
        return Err(fail(path, format!("has the shape {:?}, [n, dim] is taken", file.shape())));
    };
    let (rows, dim) = (rows as usize, dim as usize);
    if file.order() != npyz::Order::C {
        return Err(fail(path, "is in Fortran order: save numpy.ascontiguousarray of it"));
    }
    if rows != names.len() {
        return Err(fail(
            path,
            format!("has {rows} rows, and {} names lie beside it", names.len()),
        ));
    }
    if dim == 0 || rows.saturating_mul(dim) > MOST_VALUES {
        return Err(fail(path, format!("cannot be used with {rows} rows of {dim} values")));
    }
    let broken = |error: std::io::Error| fail(path, format!("cannot be read: {error}"));
    let values: Vec<f32> = match file.try_data::<f32>() {
        Ok(values) => values.collect::<Result<_, _>>().map_err(broken)?,
        Err(file) => {
            let values = file
                .try_data::<f64>()
                .map_err(|_| fail(path, "holds neither 32 nor 64 bit floats"))?;
            values.map(|value| value.map(|v| v as f32)).collect::<Result<_, _>>().map_err(broken)?
        }
    };
    Ok(names.into_iter().zip(values.chunks(dim).map(<[f32]>::to_vec)).collect())
}

/// File names from the `.txt` or `.csv` beside an `.npy`.
fn names_beside(path: &Path) -> Result<Vec<String>, EvaluateError> {
    let text = path.with_extension("txt");
    if text.is_file() {
        let content = std::fs::read_to_string(&text)
            .map_err(|source| EvaluateError::Read { path: text.clone(), source })?;
        return Ok(content
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect());
    }
    let table = path.with_extension("csv");
    if !table.is_file() {
        let problem = format!(
            "needs {} or {} with a file name for each row",
            text.display(),
            table.display()
        );
        return Err(fail(path, problem));
    }
    let mut names = Vec::new();
    records(&table, |name, _| {
        names.push(name);
        Ok(())
    })?;
    Ok(names)
}

/// Calls `each` with the path and the other fields of every row.
fn records(
    path: &Path,
    mut each: impl FnMut(String, Vec<&str>) -> Result<(), EvaluateError>,
) -> Result<(), EvaluateError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path)?);
    let bad = |error: csv::Error| fail(path, format!("is no CSV file: {error}"));
    let header = reader.headers().map_err(bad)?.clone();
    let column = header.iter().position(|name| matches!(name, "path" | "imageName" | "file"));
    let column = column.ok_or_else(|| fail(path, "has no column `path`"))?;
    // Row numbers, as pandas writes them before everything else and without a name.
    let numbers = header.get(0) == Some("");
    for record in reader.records() {
        let record = record.map_err(bad)?;
        let name = record.get(column).unwrap_or_default().to_owned();
        let values = |at: usize| at != column && !(numbers && at == 0);
        let others = record.iter().enumerate().filter(|(at, _)| values(*at));
        each(name, others.map(|(_, field)| field).collect())?;
    }
    Ok(())
}

fn csv(path: &Path) -> Result<Rows, EvaluateError> {
    let mut rows: Rows = Vec::new();
    let mut held = 0;
    records(path, |name, fields| {
        let values: Result<Vec<f32>, String> = fields
            .iter()
            .map(|field| field.parse().map_err(|_| format!("{name}: `{field}` is no number")))
            .collect();
        let values = values.map_err(|problem| fail(path, problem))?;
        held += values.len();
        if held > MOST_VALUES {
            return Err(fail(path, "holds too many values"));
        }
        rows.push((name, values));
        Ok(())
    })?;
    Ok(rows)
}

fn parquet(path: &Path) -> Result<Rows, EvaluateError> {
    let bad = |error: parquet::errors::ParquetError| fail(path, format!("cannot be read: {error}"));
    let reader = SerializedFileReader::new(open(path)?).map_err(bad)?;
    let mut rows: Rows = Vec::new();
    let mut held = 0;
    for row in reader.get_row_iter(None).map_err(bad)? {
        let row = row.map_err(bad)?;
        let (mut name, mut values) = (None, None);
        for (column, field) in row.get_column_iter() {
            match (column.as_str(), field) {
                ("path" | "imageName" | "file", Field::Str(text)) => name = Some(text.clone()),
                ("embedding", Field::ListInternal(list)) => {
                    values = list.elements().iter().map(float).collect::<Option<Vec<f32>>>();
                }
                _ => {}
            }
        }
        let (Some(name), Some(values)) = (name, values) else {
            return Err(fail(
                path,
                "needs a column `path` of text and a column `embedding` of lists of floats",
            ));
        };
        held += values.len();
        if held > MOST_VALUES {
            return Err(fail(path, "holds too many values"));
        }
        rows.push((name, values));
    }
    Ok(rows)
}

fn float(field: &Field) -> Option<f32> {
    if let Field::Float(value) = field {
        Some(*value)
    } else if let Field::Double(value) = field {
        Some(*value as f32)
    } else {
        None
    }
}

/// A system's argument: a path, or `NAME=PATH` to call it by a name in reports.
pub(super) fn named_path(text: &str) -> (Option<String>, PathBuf) {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => {
            (Some(name.to_owned()), PathBuf::from(path))
        }
        Some(_) | None => (None, PathBuf::from(text)),
    }
}
