//! The text of a path that may be anything: a pipe, a device, a folder, a disk image.
//!
//! It does not wait for a medium that does not answer: that is its caller's.
//!
//! Invariant: only a regular file is opened, and never more than a limit of it is read.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

/// The largest file: several times what twenty thousand services need.
const LARGEST: u64 = 16 << 20;

/// The whole text of the regular file at `path`, after following links. Blocks.
pub(super) fn text(path: &Path) -> io::Result<String> {
    // Looked at before it is opened, since opening a pipe waits for its writer.
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(&file.metadata()?)?; // it may have been replaced in between
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text)?;
    sized(text.len() as u64)?;
    Ok(text)
}

fn regular(found: &Metadata) -> io::Result<()> {
    if !found.is_file() {
        let what = if found.is_dir() { "it is a folder" } else { "it is a pipe, a socket or a device" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{what} and not a regular file")));
    }
    sized(found.len())
}

fn sized(bytes: u64) -> io::Result<()> {
    if bytes > LARGEST {
        let message = format!("it is larger than {} MiB", LARGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(())
}
