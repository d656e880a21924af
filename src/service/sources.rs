//! Which folders of this machine a request may name: those that the administrator listed, and what lies in them.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ServiceError;

/// Where labelled images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// `NAME` or `NAME/FOLDER` of a data root.
    Directory(String),
    /// An upload, by its name.
    Dataset(String),
    /// The images that a gallery retained, if those who are enrolled have agreed.
    Gallery(String),
}

/// A folder that requests may read labelled images from, by a name that is not its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRoot {
    name: String,
    path: PathBuf,
}

/// Why a text names no data root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is not NAME=DIR, or NAME holds something else than letters, digits, `-` and `_`"
)]
pub struct DataRootError {
    /// The refused text.
    pub given: String,
}

impl FromStr for DataRoot {
    type Err = DataRootError;

    /// From `NAME=DIR`.
    fn from_str(text: &str) -> Result<Self, DataRootError> {
        let refuse = || DataRootError { given: text.to_owned() };
        let (name, path) = text.split_once('=').ok_or_else(refuse)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || path.is_empty() || !name.chars().all(plain) {
            return Err(refuse());
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

impl fmt::Display for DataRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.path.display())
    }
}

/// The folder that `NAME/some/folder` means: of the root of that name, and not outside it, wherever links lead.
///
/// # Errors
/// [`ServiceError::Invalid`] for a root that is not listed, and, in the same words, for a folder that is not in it.
pub(super) fn resolve(
    roots: &[DataRoot],
    field: &'static str,
    given: &str,
) -> Result<PathBuf, ServiceError> {
    let refuse = || {
        ServiceError::Invalid {
        field,
        problem: "names no folder of a data root: write NAME or NAME/FOLDER, NAME being one that the server was \
                  started with as --data-root NAME=DIR"
            .to_owned(),
    }
    };
    let (name, inside) = given.split_once('/').unwrap_or((given, ""));
    let inside = Path::new(inside);
    let root = roots.iter().find(|root| root.name == name).ok_or_else(refuse)?;
    if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(refuse());
    }
    let root = root.path.canonicalize().map_err(|_| refuse())?;
    let found = root.join(inside).canonicalize().map_err(|_| refuse())?;
    if found.is_dir() && found.starts_with(&root) { Ok(found) } else { Err(refuse()) }
}

/// The same, of labelled images: links in it are followed, so none may lead out of the roots.
///
/// # Errors
/// As [`resolve`], and for a folder with a link that leads out of the roots or nowhere.
pub(super) fn resolve_images(
    roots: &[DataRoot],
    field: &'static str,
    given: &str,
) -> Result<PathBuf, ServiceError> {
    let folder = resolve(roots, field, given)?;
    let refuse = |link: &Path| {
        // Where the folder lies is nobody's business.
        let link = link.strip_prefix(&folder).unwrap_or(Path::new("")).display();
        let problem = format!("holds a link that leads nowhere or out of the data roots: {link}");
        Err(ServiceError::Invalid { field, problem })
    };
    for entry in walkdir::WalkDir::new(&folder).follow_links(true) {
        match entry {
            Ok(entry) if entry.path_is_symlink() => {
                let leads_to = entry.path().canonicalize();
                if !leads_to.is_ok_and(|path| is_inside(roots, &path)) {
                    return refuse(entry.path());
                }
            }
            Ok(_) => {}
            // What else cannot be looked into cannot be read either, which the reader says.
            Err(error) => {
                if let Some(link) = error.path().filter(|path| path.is_symlink()) {
                    return refuse(link);
                }
            }
        }
    }
    Ok(folder)
}

/// Whether a path, every link of it followed, lies in one of the roots.
pub(super) fn is_inside(roots: &[DataRoot], path: &Path) -> bool {
    let mut found = roots.iter().filter_map(|root| root.path.canonicalize().ok());
    found.any(|root| path.starts_with(root))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not survive a crash")]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_a_listed_root_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        std::fs::write(root.join("file"), b"").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), root.join("link")).unwrap();
        let roots = [format!("hands={}", root.display()).parse().unwrap()];
        let resolved = |given: &str| resolve(&roots, "data", given);
        let canonical = root.canonicalize().unwrap();
        assert_eq!(resolved("hands").unwrap(), canonical);
        assert_eq!(resolved("hands/a/b").unwrap(), canonical.join("a/b"));
        assert!(is_inside(&roots, &canonical.join("file")) && !is_inside(&[], &canonical));
        assert!(!is_inside(&roots, &dir.path().canonicalize().unwrap().join("rooted")));
        for bad in [
            "",
            "other",
            "hands/../outside",
            "hands/link",
            "hands/file",
            "hands//etc",
            "hands/none",
            "/etc",
        ] {
            let refused = resolved(bad);
            assert!(matches!(refused, Err(ServiceError::Invalid { field: "data", .. })), "{bad}");
        }
    }

    #[test]
    fn images_are_read_through_links_that_stay_in_the_roots() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["root/set/ann", "root/store/bob", "outside"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("outside/1.jpg"), b"").unwrap();
        std::fs::write(root.join("store/bob/1.jpg"), b"").unwrap();
        symlink("../store/bob", root.join("set/bob")).unwrap();
        symlink("../../store/bob/1.jpg", root.join("set/ann/2.jpg")).unwrap();
        let roots = [format!("hands={}", root.display()).parse().unwrap()];
        let resolved = || resolve_images(&roots, "directory", "hands/set");
        assert_eq!(resolved().unwrap(), root.join("set").canonicalize().unwrap());
        let outside = dir.path().join("outside");
        for (link, leads_to) in [
            ("set/ann/x.jpg", outside.join("1.jpg")),
            ("set/cyd", outside.clone()),
            ("set/cyd", PathBuf::from("none")),
            ("set/cyd", PathBuf::from("..")),
            // Found by following the link to its folder.
            ("store/bob/x.jpg", outside.join("1.jpg")),
        ] {
            symlink(leads_to, root.join(link)).unwrap();
            let refused = resolved().unwrap_err().to_string();
            let name = link.rsplit('/').next().unwrap();
            assert!(refused.contains(name) && refused.contains("out of the data roots"));
            assert!(!refused.contains(&root.display().to_string()), "{refused}");
            std::fs::remove_file(root.join(link)).unwrap();
            resolved().unwrap();
        }
    }

    #[test]
    fn a_root_has_a_plain_name() {
        for bad in ["", "x", "=x", "x=", "a/b=x", "a b=x"] {
            assert!(bad.parse::<DataRoot>().is_err(), "{bad}");
        }
        assert_eq!("a-1=/x=y".parse::<DataRoot>().unwrap().to_string(), "a-1=/x=y");
    }
}
