//! A stream of sealed frames: what backups are made of.
//!
//! ```text
//! file   `handclip-backup1` | header's length u32 LE | header, JSON | frames
//! frame  length u32 LE | nonce 24 | ciphertext | tag 16
//! ```
//! Associated data of a frame: `handclip backup frame` | SHA-256 of the header | number u64 LE | 1 for the last frame, else 0. A frame that was
//! taken out, added, moved, or brought from another backup does not open, and neither does a backup that ends early.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::codec::{decrypt, encrypt};
use super::slots::SLOT;
use super::{MAX_VALUE, StorageError};

const MAGIC: &[u8; 16] = b"handclip-backup1";
/// Bytes after which a frame is sealed.
const FRAME: usize = 1024 * 1024;
/// No frame is longer: the last entry may stand over.
const MAX_FRAME: usize = FRAME + 2 * MAX_VALUE + 1024;
const MAX_HEADER: usize = 16 * 1024;
const MAX_KEY: usize = 1024;

/// The only part of a backup that is not sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Header {
    /// Names the backup.
    pub(super) backup: String,
    pub(super) made_at_ms: u64,
    /// `store.json` as it was: the root key, wrapped by the master key of that time.
    pub(super) store: String,
}

/// A piece of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A record as it lies in the log; a later one of the same key counts.
    Put(Vec<u8>, Vec<u8>),
    /// A record that is gone since it was put.
    Remove(Vec<u8>),
    /// A key slot as it lies in its file.
    Slot(u32, Vec<u8>),
    /// The last entry: the manifest.
    End([u8; 48]),
}

fn context(header: &[u8; 32], number: u64, last: bool) -> Vec<u8> {
    let mut context = b"handclip backup frame".to_vec();
    context.extend_from_slice(header);
    context.extend_from_slice(&number.to_le_bytes());
    context.push(u8::from(last));
    context
}

pub(super) struct FrameWriter<W> {
    out: W,
    key: Zeroizing<[u8; 32]>,
    header: [u8; 32],
    number: u64,
    pending: Zeroizing<Vec<u8>>,
    pub(super) written: u64,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn new(
        mut out: W,
        key: Zeroizing<[u8; 32]>,
        header: &Header,
    ) -> Result<Self, StorageError> {
        let text = serde_json::to_vec(header).map_err(|e| StorageError::backup(e.to_string()))?;
        let length = (text.len() as u32).to_le_bytes();
        let begin = [&MAGIC[..], &length, &text].concat();
        out.write_all(&begin).map_err(cannot_write)?;
        let header = Sha256::digest(&text).into();
        let pending = Zeroizing::new(Vec::with_capacity(MAX_FRAME));
        Ok(Self { out, key, header, number: 0, pending, written: begin.len() as u64 })
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), StorageError> {
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text);
        };
        match entry {
            Entry::Put(key, value) => {
                self.pending.push(1);
                text(&mut self.pending, key);
                text(&mut self.pending, value);
            }
            Entry::Remove(key) => {
                self.pending.push(2);
                text(&mut self.pending, key);
            }
            Entry::Slot(at, slot) => {
                self.pending.push(3);
                self.pending.extend_from_slice(&at.to_le_bytes());
                text(&mut self.pending, slot);
            }
            Entry::End(manifest) => {
                self.pending.push(4);
                self.pending.extend_from_slice(manifest);
            }
        }
        let last = matches!(entry, Entry::End(_));
        if last || self.pending.len() >= FRAME { self.seal(last) } else { Ok(()) }
    }

    fn seal(&mut self, last: bool) -> Result<(), StorageError> {
        let context = context(&self.header, self.number, last);
        let sealed = encrypt(&self.key, &context, &self.pending)?;
        let length = (sealed.len() as u32).to_le_bytes();
        self.out.write_all(&length).map_err(cannot_write)?;
        self.out.write_all(&sealed).map_err(cannot_write)?;
        self.written += (length.len() + sealed.len()) as u64;
        self.number += 1;
        self.pending.clear();
        if last { self.out.flush().map_err(cannot_write) } else { Ok(()) }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn cannot_write(error: std::io::Error) -> StorageError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return StorageError::backup("the disk that it is written to is full");
    }
    StorageError::backup(format!("it cannot be written ({error})"))
}

pub(super) struct FrameReader<R> {
    input: R,
    key: Zeroizing<[u8; 32]>,
    header: [u8; 32],
    number: u64,
    frame: Zeroizing<Vec<u8>>,
    at: usize,
    ended: bool,
}

/// Reads the header, and gives it with its hash.
pub(super) fn read_header(input: &mut impl Read) -> Result<(Header, [u8; 32]), StorageError> {
    let mut begin = [0_u8; 20];
    input.read_exact(&mut begin).map_err(|_| StorageError::backup("it is no backup"))?;
    let (magic, length) = begin.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(StorageError::backup("it is no backup"));
    }
    let length = length.iter().rev().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    if length > MAX_HEADER {
        return Err(StorageError::backup("its header is damaged"));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(|_| StorageError::backup("it ends in its header"))?;
    let header =
        serde_json::from_slice(&text).map_err(|_| StorageError::backup("its header is damaged"))?;
    Ok((header, Sha256::digest(&text).into()))
}

impl<R: Read> FrameReader<R> {
    /// Of what comes after the header.
    pub(super) fn new(input: R, key: Zeroizing<[u8; 32]>, header: [u8; 32]) -> Self {
        let frame = Zeroizing::new(Vec::new());
        Self { input, key, header, number: 0, frame, at: 0, ended: false }
    }

    /// The next entry; `None` after the last, where the file ends too.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, StorageError> {
        if self.at == self.frame.len() {
            if self.ended {
                let mut more = [0];
                return match self.input.read(&mut more) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(StorageError::backup("something follows its end")),
                    Err(error) => Err(StorageError::backup(format!("it cannot be read ({error})"))),
                };
            }
            self.open()?;
        }
        let entry = self.parse();
        entry.map(Some).ok_or_else(|| StorageError::backup("a frame makes no sense"))
    }

    fn open(&mut self) -> Result<(), StorageError> {
        let number = self.number;
        let cut = |_| StorageError::backup(format!("it ends in frame {number}, before its end"));
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(cut)?;
        let length = u32::from_le_bytes(length) as usize;
        let damaged = || StorageError::backup(format!("frame {number} does not open"));
        if length > MAX_FRAME {
            return Err(damaged());
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed).map_err(cut)?;
        let open = |last| decrypt(&self.key, &context(&self.header, number, last), &sealed);
        let (frame, last) = match (open(false), open(true)) {
            (Some(frame), _) => (frame, false),
            (None, Some(frame)) => (frame, true),
            (None, None) => return Err(damaged()),
        };
        (self.frame, self.at, self.ended) = (Zeroizing::new(frame), 0, last);
        self.number += 1;
        Ok(())
    }

    fn parse(&mut self) -> Option<Entry> {
        let mut rest = &self.frame[self.at..];
        let before = rest.len();
        let [kind] = take::<1>(&mut rest)?;
        let entry = match kind {
            1 => Entry::Put(text(&mut rest, MAX_KEY)?, text(&mut rest, MAX_VALUE)?),
            2 => Entry::Remove(text(&mut rest, MAX_KEY)?),
            3 => {
                let at = u32::from_le_bytes(take(&mut rest)?);
                let slot = text(&mut rest, SLOT)?;
                (slot.len() == SLOT).then_some(Entry::Slot(at, slot))?
            }
            4 => Entry::End(take(&mut rest)?),
            _ => return None,
        };
        let after = rest.len();
        self.at += before - after;
        // The end is the end: of its frame, which is the last one.
        let ends = matches!(entry, Entry::End(_));
        let last = self.ended && self.at == self.frame.len();
        (ends == last).then_some(entry)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn text(rest: &mut &[u8], max: usize) -> Option<Vec<u8>> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    if length > max {
        return None;
    }
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(entries: &[Entry]) -> Vec<u8> {
        let header =
            Header { backup: "b".to_owned(), made_at_ms: 7, store: "{\"store\":1}".to_owned() };
        let mut out = Vec::new();
        let mut writer = FrameWriter::new(&mut out, [5; 32].into(), &header).unwrap();
        entries.iter().for_each(|entry| writer.entry(entry).unwrap());
        let written = writer.written;
        assert_eq!(written, out.len() as u64);
        out
    }

    fn read(mut bytes: &[u8]) -> Result<Vec<Entry>, StorageError> {
        let (_, hash) = read_header(&mut bytes)?;
        let mut reader = FrameReader::new(bytes, [5; 32].into(), hash);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let mut entries = vec![
            Entry::Put(vec![1, 2], vec![3; 20_000]),
            Entry::Remove(vec![9]),
            Entry::Slot(3, vec![7; SLOT]),
        ];
        // Several frames.
        entries.extend((0..120_u8).map(|n| Entry::Put(vec![4, n], vec![n; 20_000])));
        entries.push(Entry::End([8; 48]));
        let bytes = made(&entries);
        assert_eq!(read(&bytes).unwrap(), entries);
        for at in [0, 17, 30, 60, 200, bytes.len() / 2, bytes.len() - 1] {
            let mut altered = bytes.clone();
            altered[at] ^= 4;
            assert!(matches!(read(&altered), Err(StorageError::Backup { .. })), "byte {at}");
        }
        let frames = {
            let mut at = 20 + u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
            let mut frames = vec![];
            while at < bytes.len() {
                frames.push(at);
                at += 4 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            }
            frames.push(at);
            frames
        };
        assert!(frames.len() > 3);
        for end in frames.iter().copied().chain([10, bytes.len() - 1]).filter(|e| *e < bytes.len())
        {
            assert!(read(&bytes[..end]).is_err(), "cut to {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(read(&longer).is_err());
        let (first, second) = (&bytes[frames[0]..frames[1]], &bytes[frames[1]..frames[2]]);
        let swapped = [&bytes[..frames[0]], second, first, &bytes[frames[2]..]].concat();
        assert!(read(&swapped).is_err());
        let without = [&bytes[..frames[1]], &bytes[frames[2]..]].concat();
        assert!(read(&without).is_err());
    }
}
