//! Which folders of this machine a request may name: those that the administrator listed, and what lies in them.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ServiceError;
use super::workshop::Workshop;

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

impl Workshop {
    /// Refuses a folder that was named and from which a link leads out of the data roots. Looks at all that lies in it.
    pub(super) fn confined(&self, source: &ImageSource, dir: &Path) -> Result<(), ServiceError> {
        match source {
            ImageSource::Directory(_) => no_way_out(&self.data_roots, "directory", dir),
            // Nothing but plain files is unpacked, and in a gallery there are none.
            ImageSource::Dataset(_) | ImageSource::Gallery(_) => Ok(()),
        }
    }
}

/// Refuses a folder of a data root in which a link leads out of the roots: whoever reads the folder would follow it.
///
/// # Errors
/// [`ServiceError::Invalid`], which names the link by where it lies in the folder, and not where it leads.
fn no_way_out(roots: &[DataRoot], field: &'static str, folder: &Path) -> Result<(), ServiceError> {
    let links = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let mut links = links.filter(|entry| entry.path_is_symlink() && entry.depth() > 0);
    // A link that leads nowhere is read by nobody.
    let leads_out = |link: &walkdir::DirEntry| {
        link.path().canonicalize().is_ok_and(|found| !is_inside(roots, &found))
    };
    match links.find(leads_out) {
        None => Ok(()),
        Some(link) => {
            let name = link.path().strip_prefix(folder).unwrap_or(link.path()).display();
            let problem = format!("has a link that leads out of the data root: {name}");
            Err(ServiceError::Invalid { field, problem })
        }
    }
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
    fn a_folder_with_a_link_that_leads_out_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("ann")).unwrap();
        std::fs::write(root.join("ann/1.jpg"), b"").unwrap();
        std::fs::write(dir.path().join("secret"), b"").unwrap();
        let roots = [format!("lab={}", root.display()).parse().unwrap()];
        let checked = || no_way_out(&roots, "data", &resolve(&roots, "data", "lab").unwrap());
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link(&root.join("ann"), "within");
        link(&root.join("none"), "nowhere");
        checked().unwrap();
        for (to, name) in [("secret", "ann/2.jpg"), ("", "Hands")] {
            link(&dir.path().join(to), name);
            let said = checked().unwrap_err().to_string();
            assert!(said.contains(name) && !said.contains("secret"), "{said}");
            std::fs::remove_file(root.join(name)).unwrap();
        }
        checked().unwrap();
    }

    #[test]
    fn a_root_has_a_plain_name() {
        for bad in ["", "x", "=x", "x=", "a/b=x", "a b=x"] {
            assert!(bad.parse::<DataRoot>().is_err(), "{bad}");
        }
        assert_eq!("a-1=/x=y".parse::<DataRoot>().unwrap().to_string(), "a-1=/x=y");
    }
}
