//! A hosts file that is kept current with what the task may call, between two marker lines of our own.
//!
//! It is not about which names there are (`names.rs`). Invariant: what is outside of the markers stays as it is, byte for
//! byte, and nothing is taken out because somebody could not be asked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::envoy::{Envoy, EnvoyError};
use super::{names, say};

const BEGIN: &str = "# legation: begin; kept current by `legation sidecar run`";
const END: &str = "# legation: end";

/// A hosts file, and the Envoy whose listeners it is to have.
#[derive(Debug)]
pub struct Hosts {
    file: PathBuf,
    envoy: Envoy,
    /// The sidecar's own namespace, which does not change while the task runs.
    own: Option<String>,
    /// The trouble that was told last: one message is enough for each.
    told: Option<String>,
}

/// What one look came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// The file has all that there is.
    Current,
    /// Envoy has nothing to tell yet.
    Waiting,
    /// The file can't be kept.
    Failed,
}

/// Somebody has changed the lines that are ours.
#[derive(Debug, thiserror::Error)]
#[error("its lines `{BEGIN}` and `{END}` are not there once each, in this order")]
pub struct Broken;

impl Hosts {
    /// Of this file, by this Envoy.
    pub fn new(file: PathBuf, envoy: Envoy) -> Self {
        Self { file, envoy, own: None, told: None }
    }

    /// Brings the file up to date.
    pub fn look(&mut self) -> Look {
        // An Envoy that does not answer has not taken anything back.
        let Ok(Some(lines)) = self.lines() else { return Look::Waiting };
        match keep(&self.file, &lines) {
            Ok(()) => {
                self.told = None;
                Look::Current
            }
            Err(error) => {
                let text = format!("can't keep {}: {error}", self.file.display());
                if self.told.as_ref() != Some(&text) {
                    say(&text);
                    if error.kind() != io::ErrorKind::InvalidData {
                        say(
                            "it takes user 0 and a file system that is not read-only (readonlyRootFilesystem)",
                        );
                    }
                    self.told = Some(text);
                }
                Look::Failed
            }
        }
    }

    fn lines(&mut self) -> Result<Option<Vec<String>>, EnvoyError> {
        let Some(listeners) = self.envoy.listeners()? else { return Ok(None) };
        let namespaces = names::namespaces(&listeners);
        // Of one namespace's names none gives way to another's.
        if namespaces.len() > 1 && self.own.is_none() {
            self.own = Some(self.envoy.namespace()?);
        }
        Ok(Some(names::lines(self.own.as_deref().unwrap_or_default(), &listeners)))
    }
}

/// Has the file say these lines. It is written in place, because a file that is mounted by itself can't be replaced.
fn keep(path: &std::path::Path, lines: &[String]) -> io::Result<()> {
    let broken = |broken: Broken| io::Error::new(io::ErrorKind::InvalidData, broken);
    let read = |file: &mut File| {
        let mut text = Vec::new();
        file.read_to_end(&mut text).map(|_| text)
    };
    // To look needs less than to write.
    let now = read(&mut File::open(path)?)?;
    if merged(&now, lines).map_err(broken)? == now {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        // Another container of the task writes the same.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let old = read(&mut file)?;
    write(&file, &old, &merged(&old, lines).map_err(broken)?)
}

/// First the end that is new, which is all that can lack room, then the rest over what is there.
fn write(file: &File, old: &[u8], new: &[u8]) -> io::Result<()> {
    let (head, tail) = new.split_at(old.len().min(new.len()));
    let length = |text: &[u8]| u64::try_from(text.len()).map_err(io::Error::other);
    if let Err(error) = file.write_all_at(tail, length(head)?) {
        file.set_len(length(old)?)?;
        return Err(error);
    }
    file.write_all_at(head, 0)?;
    file.set_len(length(new)?)
}

/// `text` with these lines between the markers, in their place or at the end; without lines, without markers too.
fn merged(text: &[u8], lines: &[String]) -> Result<Vec<u8>, Broken> {
    let ours =
        if lines.is_empty() { String::new() } else { format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")) };
    let (mut before, mut after, mut markers) = (Vec::new(), Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.trim_ascii();
        match markers {
            0 if bare == BEGIN.as_bytes() => markers = 1,
            1 if bare == END.as_bytes() => markers = 2,
            _ if bare == BEGIN.as_bytes() || bare == END.as_bytes() => return Err(Broken),
            0 => before.extend_from_slice(line),
            1 => {}
            _ => after.extend_from_slice(line),
        }
    }
    if markers == 1 {
        return Err(Broken);
    }
    if !ours.is_empty() && before.last().is_some_and(|byte| *byte != b'\n') {
        before.push(b'\n');
    }
    Ok([before, ours.into_bytes(), after].concat())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn with(text: &str, lines: &[&str]) -> Result<String, String> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        let merged = merged(text.as_bytes(), &lines).map_err(|broken| broken.to_string())?;
        Ok(String::from_utf8(merged).unwrap())
    }

    #[test]
    fn lines_go_between_the_markers_and_nothing_else_is_touched() {
        let own = "127.0.0.1 localhost\n10.0.1.7 ip-10-0-1-7 # ours";
        let one = with(own, &["127.128.0.1 a a.prod"]).unwrap();
        assert_eq!(one, format!("{own}\n{BEGIN}\n127.128.0.1 a a.prod\n{END}\n"));
        let more = format!("{one}::1 late\n");
        let two = with(&more, &["127.128.0.1 a a.prod", "127.128.0.2 b b.prod"]).unwrap();
        let block = format!("{BEGIN}\n127.128.0.1 a a.prod\n127.128.0.2 b b.prod\n{END}\n");
        assert_eq!(two, format!("{own}\n{block}::1 late\n"));
        assert_eq!(with(&two, &["127.128.0.1 a a.prod"]).unwrap(), more, "in place");
        assert_eq!(with(&two, &[]).unwrap(), format!("{own}\n::1 late\n"));
        assert_eq!(with(own, &[]).unwrap(), own);
        assert_eq!(with("", &["127.128.0.1 a"]).unwrap(), format!("{BEGIN}\n127.128.0.1 a\n{END}\n"));
        let strange = [b"\xff\xfe 10.0.0.1 x\n".to_vec(), b"127.0.0.1 y".to_vec()].concat();
        assert_eq!(merged(&strange, &[]).unwrap(), strange);
    }

    #[test]
    fn markers_that_somebody_changed_are_left_alone() {
        for text in [
            format!("{BEGIN}\n127.128.0.1 a\n"),
            format!("{END}\n127.128.0.1 a\n{BEGIN}\n"),
            format!("{BEGIN}\n{END}\n{BEGIN}\n{END}\n"),
            format!("{BEGIN}\n{BEGIN}\n{END}\n"),
        ] {
            assert!(with(&text, &["127.128.0.2 b"]).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_stays_the_same_file_and_is_written_only_when_something_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, "127.0.0.1 localhost\n").unwrap();
        let number = std::fs::metadata(&path).unwrap().ino();
        let lines = |count: usize| (0..count).map(|n| format!("127.128.0.{n} s{n}")).collect::<Vec<_>>();
        for count in [3, 200, 1, 0, 2] {
            keep(&path, &lines(count)).unwrap();
            let text = std::fs::read(&path).unwrap();
            assert_eq!(text, merged(b"127.0.0.1 localhost\n", &lines(count)).unwrap(), "{count}");
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(meta.ino(), number, "it was replaced");
        }
        // Whoever may not write is told so only when there is something to write.
        std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        keep(&path, &lines(2)).unwrap();
        assert_eq!(
            keep(&folder.path().join("nowhere"), &lines(2)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn while_another_writes_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, "127.0.0.1 localhost\n").unwrap();
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        keep(&path, &["127.128.0.1 a".to_owned()]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 localhost\n");
        drop(other);
        keep(&path, &["127.128.0.1 a".to_owned()]).unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), b"127.0.0.1 localhost\n");
    }
}
