use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::mac::hmac_sha256;
use super::{StorageError, file};

/// The key that everything in a store hangs on. Zeroed when dropped, never printed.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Reads the key file at `path`, or makes a key and writes it there (mode 0600, in a directory
    /// made with 0700). The flag says whether it was made.
    ///
    /// # Errors
    /// [`StorageError::MasterKeyMode`] when others may read the file,
    /// [`StorageError::MasterKeyFormat`] when it holds no key.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), StorageError> {
        if let Some(key) = Self::load(path)? {
            return Ok((key, false));
        }
        let key = Self::random()?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            file::create_private_dir(dir)?;
        }
        let mut text = Zeroizing::new(String::with_capacity(65));
        for byte in key.0.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text.push('\n');
        if file::create_private(path, text.as_bytes())? {
            return Ok((key, true));
        }
        // Another process made one meanwhile: a store may hang on it already.
        match Self::load(path)? {
            Some(key) => Ok((key, false)),
            None => Err(StorageError::io("read", path)(std::io::ErrorKind::NotFound.into())),
        }
    }

    /// The key in a file; `None` when there is no file.
    fn load(path: &Path) -> Result<Option<Self>, StorageError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", path)(error)),
        };
        refuse_shared(path)?;
        Self::parse(&text, format!("in `{}`", path.display())).map(Some)
    }

    /// Takes a key of 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`StorageError::MasterKeyFormat`]; the message never holds the text.
    pub fn from_hex(text: &str) -> Result<Self, StorageError> {
        Self::parse(text, "given".to_owned())
    }

    fn parse(text: &str, origin: String) -> Result<Self, StorageError> {
        let digits = text.trim().as_bytes();
        let mut key = Zeroizing::new([0_u8; 32]);
        let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let good = digits.len() == 64
            && digits.chunks_exact(2).zip(key.iter_mut()).all(|(pair, byte)| {
                match (nibble(pair[0]), nibble(pair[1])) {
                    (Some(high), Some(low)) => {
                        *byte = high << 4 | low;
                        true
                    }
                    (None, _) | (_, None) => false,
                }
            });
        if good { Ok(Self(key)) } else { Err(StorageError::MasterKeyFormat { origin }) }
    }

    pub(super) fn random() -> Result<Self, StorageError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut()).map_err(|_| StorageError::Random)?;
        Ok(Self(bytes))
    }

    /// `None` for anything but 32 bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Asks a program for the key: what it prints, 64 hexadecimal digits. For a key that a key management service or a hardware
    /// module keeps. The command is run by `sh`.
    ///
    /// # Errors
    /// [`StorageError::MasterKeyCommand`] when it fails or takes longer than a minute, [`StorageError::MasterKeyFormat`].
    pub fn from_command(command: &str) -> Result<Self, StorageError> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let failed = |detail: String| StorageError::MasterKeyCommand { detail };
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut text = Zeroizing::new(Vec::new());
        let printed = child.stdout.take();
        let reader = std::thread::spawn(move || {
            // More than a key is none.
            let read = printed.map(|printed| printed.take(4096).read_to_end(&mut text));
            (read, text)
        });
        let begun = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|error| failed(error.to_string()))? {
                Some(status) => break status,
                None if begun.elapsed() > PATIENCE => {
                    // Its end is not waited for: it may not heed even this.
                    let _ = child.kill();
                    return Err(failed(format!("it gave none within {} s", PATIENCE.as_secs())));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if !status.success() {
            return Err(failed(format!("it ended with {status}")));
        }
        let (_, text) = reader.join().map_err(|_| failed("its output was lost".to_owned()))?;
        let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
        Self::parse(&text, "that the command printed".to_owned())
    }

    /// A key for one purpose; purposes never share one.
    pub(super) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac_sha256(&self.0, &[b"handclip/", purpose.as_bytes()]))
    }
}

#[cfg(unix)]
fn refuse_shared(path: &Path) -> Result<(), StorageError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).map_err(StorageError::io("read", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(StorageError::MasterKeyMode { path: path.to_owned(), mode })
    }
}

#[cfg(not(unix))]
fn refuse_shared(_path: &Path) -> Result<(), StorageError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private/master.key");
        let (first, created) = MasterKey::load_or_create(&path).unwrap();
        assert!(created);
        let (second, created) = MasterKey::load_or_create(&path).unwrap();
        assert!(!created);
        assert_eq!(first.derive("x"), second.derive("x"));
        assert_ne!(first.derive("x"), first.derive("y"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            assert_eq!(mode(path.parent().unwrap()), 0o700);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(
                MasterKey::load_or_create(&path),
                Err(StorageError::MasterKeyMode { mode: 0o644, .. })
            ));
        }
    }

    #[test]
    fn who_starts_at_the_same_time_has_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let path = dir.path().join(format!("{round}/master.key"));
            let ready = std::sync::Barrier::new(8);
            let keys: Vec<(MasterKey, bool)> = std::thread::scope(|scope| {
                let start = || {
                    ready.wait();
                    MasterKey::load_or_create(&path).unwrap()
                };
                let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let (kept, _) = MasterKey::load_or_create(&path).unwrap();
            assert!(keys.iter().all(|(key, _)| key.bytes() == kept.bytes()), "round {round}");
            assert_eq!(keys.iter().filter(|(_, made)| *made).count(), 1, "round {round}");
        }
    }

    #[test]
    fn a_program_may_give_the_key() {
        let digits = "5a".repeat(32);
        let key = MasterKey::from_command(&format!("echo {digits}")).unwrap();
        assert_eq!(key.bytes(), &[0x5a; 32]);
        let error = |command: &str| MasterKey::from_command(command).unwrap_err().to_string();
        assert!(error("exit 3").contains('3'));
        assert!(error("no-such-program-of-a-kms").contains("127"));
        let shown = error("echo not-the-secret");
        assert!(shown.contains("64 hexadecimal") && !shown.contains("not-the-secret"), "{shown}");
    }

    #[test]
    fn a_key_that_is_not_one_is_refused_without_being_shown() {
        for bad in ["", "secret", &"g".repeat(64), &"a".repeat(63), &"+f".repeat(32)] {
            let error = MasterKey::from_hex(bad).unwrap_err();
            assert!(matches!(error, StorageError::MasterKeyFormat { .. }), "{bad}");
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
        let key = MasterKey::from_hex(&"Ab".repeat(32)).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
    }
}
