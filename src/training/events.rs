//! TensorBoard's event files: records of protocol buffers (`tensorflow/core/util/event.proto`), each with masked
//! CRC-32C of its length and of its bytes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::TrainingError;

/// Writes scalars that TensorBoard shows as curves.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// A new event file in `folder`, which must exist. A run that goes on has one more: TensorBoard shows them
    /// as one curve.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn create(folder: &Path) -> Result<Self, TrainingError> {
        let now = now();
        let name =
            format!("events.out.tfevents.{:010}.{}.handclip", now as u64, std::process::id());
        let path = folder.join(name);
        let created = File::create(&path);
        let file = created.map_err(|source| TrainingError::Write { path: path.clone(), source })?;
        let mut log = Self { path, file };
        // Event.file_version, field 3.
        let mut event = wall_time(now);
        put_bytes(&mut event, 3, b"brain.Event:2");
        log.put(&event)?;
        Ok(log)
    }

    /// Appends values of one step, by name.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn write(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<(), TrainingError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            // Summary.value, field 1: Value.tag, field 1, and Value.simple_value, field 2.
            let mut one = Vec::new();
            put_bytes(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | FIXED_32);
            one.extend((*value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &one);
        }
        // Event.step, field 2, and Event.summary, field 5.
        let mut event = wall_time(now());
        event.push(2 << 3 | VARINT);
        put_varint(&mut event, step as u64);
        put_bytes(&mut event, 5, &summary);
        self.put(&event)
    }

    fn put(&mut self, event: &[u8]) -> Result<(), TrainingError> {
        let written = self.file.write_all(&record(event));
        written.map_err(|source| TrainingError::Write { path: self.path.clone(), source })
    }
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// An event that begins with its wall time, field 1.
fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED_64];
    event.extend(seconds.to_le_bytes());
    event
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(bytes);
    out.extend(masked_crc(bytes).to_le_bytes());
    out
}

/// A checksum of data that itself holds checksums would be weak: they are rotated and moved.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length, its checksum, the bytes, their checksum (`tensorflow/core/lib/io/record_writer.h`).
    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        let bytes = record(b"hand");
        assert_eq!(bytes[..8], 4_u64.to_le_bytes());
        assert_eq!(bytes[12..16], *b"hand");
        // CRC-32C of "123456789" is the standard's check value.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let masked = 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(b"123456789"), masked);
    }

    #[test]
    fn an_event_holds_step_tag_and_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::create(dir.path()).unwrap();
        log.write(300, &[("loss".to_owned(), 1.5)]).unwrap();
        let bytes = std::fs::read(&log.path).unwrap();
        let first = 8 + 4 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 4;
        let event = &bytes[first + 12..bytes.len() - 4];
        // After the wall time: step 300 as a varint, then the summary.
        let want =
            [16, 0xac, 0x02, 42, 13, 10, 11, 10, 4, b'l', b'o', b's', b's', 21, 0, 0, 0xc0, 0x3f];
        assert_eq!(event[9..], want);
        assert!(std::str::from_utf8(&bytes[12 + 9 + 2..first - 4]).unwrap() == "brain.Event:2");
    }
}
