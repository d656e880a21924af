use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Overwrites words between quotes by others as long, in place and durably: of what is overwritten no copy stays in another file, and
/// who holds a lock on this one goes on holding it. Says whether there was anything to overwrite; a file that is not there has nothing.
///
/// with: the words to be overwritten and what with, by what is in the file.
pub(super) fn overwrite_words(
    path: &Path,
    with: impl FnOnce(&[u8]) -> BTreeMap<String, String>,
) -> std::io::Result<bool> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let with = with(&text);
    let (mut at, mut found) = (0, false);
    for word in text.split(|byte| *byte == b'"') {
        let new = std::str::from_utf8(word).ok().and_then(|word| with.get(word));
        if let Some(new) = new.filter(|new| new.len() == word.len()) {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(new.as_bytes())?;
            found = true;
        }
        at += word.len() as u64 + 1;
    }
    if found {
        file.sync_all()?;
    }
    Ok(found)
}
