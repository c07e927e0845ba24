//! A hosts file that is kept current with what the task may call, between two marker lines of our own.
//!
//! It is not about which names there are (`names.rs`). Invariant: what is outside of the markers stays as it is, byte for
//! byte, and nothing is taken out because somebody could not be asked. What a helper leaves that is killed while it writes is
//! put right by the next look, of whichever container.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
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
                    say("it takes user 0 and a file system that is not read-only (readonlyRootFilesystem)");
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
    let read = |file: &mut File| {
        let mut text = Vec::new();
        file.read_to_end(&mut text).map(|_| text)
    };
    // To look needs less than to write. Without the lock it may be half of what another writes, so this settles only
    // whether anything may be to do.
    let now = read(&mut File::open(path)?)?;
    if merged(&now, lines) == now {
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
    let mut there = old;
    for next in steps(&there, lines) {
        write(&file, &there, &next)?;
        there = next;
    }
    Ok(())
}

/// What the file says one after the other. Who is killed while writing leaves the end of the longer text behind the shorter;
/// where that holds no END of ours, half a line would be left with nothing around it, so room is made first.
fn steps(old: &[u8], lines: &[String]) -> Vec<Vec<u8>> {
    let new = merged(old, lines);
    let (short, long) = if old.len() < new.len() { (old, &*new) } else { (&*new, old) };
    let end = format!("\n{END}\n");
    let mut places = long[short.len()..].windows(end.len());
    if old.len() == new.len() || long.starts_with(short) || places.any(|it| it == end.as_bytes()) {
        return vec![new];
    }
    let room = "#".repeat(long.len() + BEGIN.len());
    vec![merged(old, &[lines, &[room]].concat()), new]
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
fn merged(text: &[u8], lines: &[String]) -> Vec<u8> {
    let block =
        if lines.is_empty() { String::new() } else { format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")) };
    let all: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let first = all.iter().position(|line| is(BEGIN, line)).unwrap_or(all.len());
    let mut before = without_end(&all[..first]).concat();
    let stretches = all[first..].chunk_by(|_, next| !is(BEGIN, next));
    let after = stretches.flat_map(after_ours).collect::<Vec<_>>().concat();
    if !block.is_empty() && before.last().is_some_and(|byte| *byte != b'\n') {
        before.push(b'\n');
    }
    [before, block.into_bytes(), after].concat()
}

fn is(marker: &str, line: &[u8]) -> bool {
    line.trim_ascii() == marker.as_bytes()
}

/// What is left of lines that no BEGIN precedes: without an END, and without the lines of ours before it.
fn without_end<'a>(lines: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut left: Vec<&[u8]> = Vec::new();
    for line in lines {
        if is(END, line) {
            while left.pop_if(|last| may_be_ours(last)).is_some() {}
        } else {
            left.push(line);
        }
    }
    left
}

/// What is left of lines that begin with a BEGIN: what comes after the last END. Who is killed while writing leaves two of them,
/// with half a line between. Without any END, only what is like ours is taken for ours.
fn after_ours<'a>(lines: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let end = lines.iter().rposition(|line| is(END, line));
    let others = |line: &&&[u8]| !is(BEGIN, line) && !may_be_ours(line) && !is_cut_off(line);
    end.map_or_else(|| lines.iter().filter(others).copied().collect(), |end| lines[end + 1..].to_vec())
}

/// Whether it begins with an address that aliases have (`vip.rs`), and nobody else.
fn may_be_ours(line: &[u8]) -> bool {
    let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let address = str::from_utf8(word).ok().and_then(|word| word.parse::<Ipv4Addr>().ok());
    address.is_some_and(|address| address.is_loopback() && (128..255).contains(&address.octets()[1]))
}

/// Whether it is the beginning of a line of ours that says nothing yet.
fn is_cut_off(line: &[u8]) -> bool {
    END.as_bytes().starts_with(line) || line.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn with(text: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        String::from_utf8(merged(text.as_bytes(), &lines)).unwrap()
    }

    fn block(lines: &[&str]) -> String {
        format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
    }

    #[test]
    fn lines_go_between_the_markers_and_nothing_else_is_touched() {
        let own = "127.0.0.1 localhost\n10.0.1.7 ip-10-0-1-7 # ours";
        let one = with(own, &["127.128.0.1 a a.prod"]);
        assert_eq!(one, format!("{own}\n{BEGIN}\n127.128.0.1 a a.prod\n{END}\n"));
        let more = format!("{one}::1 late\n");
        let two = with(&more, &["127.128.0.1 a a.prod", "127.128.0.2 b b.prod"]);
        let block = format!("{BEGIN}\n127.128.0.1 a a.prod\n127.128.0.2 b b.prod\n{END}\n");
        assert_eq!(two, format!("{own}\n{block}::1 late\n"));
        assert_eq!(with(&two, &["127.128.0.1 a a.prod"]), more, "in place");
        assert_eq!(with(&two, &[]), format!("{own}\n::1 late\n"));
        assert_eq!(with(own, &[]), own);
        assert_eq!(with("", &["127.128.0.1 a"]), format!("{BEGIN}\n127.128.0.1 a\n{END}\n"));
        let strange = [b"\xff\xfe 10.0.0.1 x\n".to_vec(), b"127.0.0.1 y".to_vec()].concat();
        assert_eq!(merged(&strange, &[]), strange);
    }

    #[test]
    fn whoever_is_killed_while_writing_leaves_what_is_put_right() {
        let all = ["127.128.0.1 a a.prod", "127.128.0.2 b b.prod", "127.130.0.31 ccccc ccccc.prod"];
        let own = "127.0.0.1 localhost\n";
        for late in
            ["", "::1 x\n", "10.0.0.1 ip-10-0-0-1.eu-west-1.compute.internal and-more.of-the-same\n::1 x"]
        {
            for (from, to) in
                [(0..1, 1..3), (1..3, 0..1), (1..2, 2..3), (2..3, 1..2), (0..3, 0..2), (0..1, 0..1)]
            {
                let (old, to) = (format!("{own}{}{late}", block(&all[from])), &all[to]);
                let lines: Vec<_> = to.iter().map(|line| (*line).to_owned()).collect();
                let mut there = old.into_bytes();
                for next in steps(&there, &lines) {
                    let (head, tail) = next.split_at(there.len().min(next.len()));
                    // What stands there when so much of the head was written.
                    for written in 0..=head.len() {
                        let left = [&head[..written], &there[written..], tail].concat();
                        let left = String::from_utf8(left).unwrap();
                        assert_eq!(with(&left, to), format!("{own}{}{late}", block(to)), "{left}");
                    }
                    there = next;
                }
            }
        }
    }

    #[test]
    fn a_first_block_that_was_cut_off_is_taken_for_ours_as_far_as_it_went() {
        let (own, lines) = ("127.0.0.1 localhost\n", ["127.128.0.1 a a.prod", "127.254.0.9 b b.prod"]);
        let whole = format!("{own}{}", block(&lines));
        for length in own.len() + BEGIN.len() + 1..whole.len() {
            assert_eq!(with(&whole[..length], &lines), whole, "{}", &whole[..length]);
        }
    }

    #[test]
    fn where_a_marker_lacks_nobody_elses_line_is_lost() {
        let (ours, theirs) = ("127.128.0.1 a", "127.255.0.1 mail\n10.0.0.1 x\n127.0.1.1 host");
        let fresh = block(&["127.128.0.2 b"]);
        for (text, expected) in [
            (format!("::1 y\n{BEGIN}\n{ours}\n{theirs}"), format!("::1 y\n{fresh}{theirs}")),
            (format!("::1 y\n{theirs}\n{ours}\n{END}\n"), format!("::1 y\n{theirs}\n{fresh}")),
            (format!("{END}\n{ours}\n{BEGIN}\n{theirs}"), format!("{ours}\n{fresh}{theirs}")),
            (format!("{0}{theirs}\n{0}::1 y\n", block(&[ours])), format!("{fresh}{theirs}\n::1 y\n")),
            (format!("{BEGIN}\n{BEGIN}\n{END}\n{theirs}\n"), format!("{fresh}{theirs}\n")),
        ] {
            assert_eq!(with(&text, &["127.128.0.2 b"]), expected, "{text}");
            assert_eq!(with(&expected, &["127.128.0.2 b"]), expected);
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
            assert_eq!(text, merged(b"127.0.0.1 localhost\n", &lines(count)), "{count}");
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
        let lines = ["127.128.0.1 a".to_owned()];
        // Also when what stands there is half of what the other writes.
        for text in
            ["127.0.0.1 localhost\n".to_owned(), format!("{}8.0.2 b\n{END}\n", block(&["127.128.0.1 a"]))]
        {
            std::fs::write(&path, &text).unwrap();
            let other = File::open(&path).unwrap();
            other.lock().unwrap();
            keep(&path, &lines).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            drop(other);
            keep(&path, &lines).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), with(&text, &["127.128.0.1 a"]));
            assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
