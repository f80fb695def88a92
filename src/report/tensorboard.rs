//! The log of a training as an event file of TensorBoard, for those who overlay many trainings there.
//!
//! An event file is a sequence of records: the length of the data (8 bytes), a checksum of it, the data, and a checksum of that. The
//! data is an `Event` in the wire format of protocol buffers, with a wall time, a step and a summary of named numbers.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::training::{METRICS, json_lines, seconds};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::training::read_timings;

/// The name of the file. TensorBoard takes whatever has `tfevents` in its name.
const FILE: &str = "events.out.tfevents.draftsmith";

/// Writes the numbers of `folder/metrics.jsonl` as an event file beside it: `train/loss`, `dev/loss` and so on. The wall time of
/// a step is the number of seconds from the beginning of the training, as far as `timings.jsonl` tells.
///
/// # Errors
/// Fails if a file cannot be read or written.
pub fn write_events(folder: &Path) -> Result<()> {
    let path = folder.join(METRICS);
    let text = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let timings = read_timings(folder);
    let mut file = Vec::new();
    // Field 3 of the first event is the version of the format.
    record(&mut file, &event(0.0, 0, 3, b"brain.Event:2"));
    for line in json_lines::<Value>(&text).0 {
        let (Some(step), Some(split)) = (line["step"].as_u64(), line["split"].as_str()) else { continue };
        let mut numbers = Vec::new();
        collect(&line, split, &mut numbers);
        numbers.retain(|(tag, _)| !tag.ends_with("/step"));
        let summary: Vec<u8> = numbers.iter().flat_map(|(tag, value)| scalar(tag, *value)).collect();
        record(&mut file, &event(seconds(&timings, step).unwrap_or_default(), step, 5, &summary));
    }
    write_atomic(&folder.join(FILE), &file)
}

/// Collects every number of a value under a name of its own.
fn collect(value: &Value, name: &str, found: &mut Vec<(String, f32)>) {
    match value {
        Value::Number(number) => found.extend(number.as_f64().map(|number| (name.to_owned(), number as f32))),
        Value::Object(fields) => fields.iter().for_each(|(key, inner)| collect(inner, &format!("{name}/{key}"), found)),
        // Lists are by head, from head 2 on.
        Value::Array(items) => {
            (2..).zip(items).for_each(|(head, inner)| collect(inner, &format!("{name}/head {head}"), found));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// An `Event` with something in a field of bytes.
fn event(seconds: f64, step: u64, field: u8, content: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds.to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    bytes(&mut event, field, content);
    event
}

/// A value of a `Summary`: a tag and a number.
fn scalar(tag: &str, number: f32) -> Vec<u8> {
    let mut value = Vec::new();
    bytes(&mut value, 1, tag.as_bytes());
    value.push(2 << 3 | 5);
    value.extend(number.to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, 1, &value);
    summary
}

fn bytes(to: &mut Vec<u8>, field: u8, content: &[u8]) {
    to.push(field << 3 | 2);
    varint(to, content.len() as u64);
    to.extend(content);
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    for part in [&length[..], data] {
        file.extend(part);
        file.extend(checksum(part).to_le_bytes());
    }
}

/// The masked CRC-32C of TensorFlow's records.
fn checksum(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CRC-32C of "123456789" is a published check value.
    #[test]
    fn checksums_are_masked_crc_32c() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    /// Written out by hand from the formats; the program `tensorboard` reads such files.
    #[test]
    fn a_line_becomes_an_event() {
        let folder = tempfile::tempdir().unwrap();
        let line = "{\"split\": \"train\", \"step\": 300, \"loss\": 1.5, \"by_head\": [0.25, null]}\nhalf a li";
        fs::write(folder.path().join("metrics.jsonl"), line).unwrap();
        fs::write(
            folder.path().join("timings.jsonl"),
            "{\"step\": 200, \"seconds\": 4}\n{\"step\": 400, \"seconds\": 8}\n",
        )
        .unwrap();
        write_events(folder.path()).unwrap();
        let file = fs::read(folder.path().join(FILE)).unwrap();
        let first = 8 + 4 + (9 + 2 + 15) + 4;
        let mut summary = scalar("train/by_head/head 2", 0.25);
        summary.extend(scalar("train/loss", 1.5));
        let mut expected = Vec::new();
        record(&mut expected, &event(6.0, 300, 5, &summary));
        assert_eq!(file[first..], expected);
        assert_eq!(expected[12..25], [9, 0, 0, 0, 0, 0, 0, 24, 64, 16, 0xac, 2, 42]);
    }
}
