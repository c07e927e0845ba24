//! A loopback of one's own: a network namespace for a thread and everything that it starts.
//!
//! Sidecars share ports such as 127.0.0.1:15001 and addresses of aliases, so two meshes need two loopbacks. Only root can have
//! another one; who can't stays on the machine's, and [`crate::scene`] has these wait for each other. Invariant: the thread that
//! asks stays where it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Brings the loopback up (SIOCSIFFLAGS with IFF_UP and IFF_RUNNING), which is all that there is in a new namespace, and keeps it
/// until its input ends.
const BRING_UP: &str = r#"
import fcntl, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH22x", b"lo", 0x41))
print("up", flush=True)
sys.stdin.read()
"#;

/// Whether this process may make namespaces.
static MAY_MAKE: LazyLock<bool> = LazyLock::new(|| {
    let tried = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
});

/// Runs `work` on a thread that has a loopback of its own, where that can be had; what it starts is there too.
pub fn with_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if !*MAY_MAKE {
        return work();
    }
    let inside = || {
        if let Err(error) = enter_a_new_one() {
            eprintln!("no loopback of its own: {error:#}");
        }
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(inside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `work` where the process began.
pub fn on_the_machines<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    if !is_own() {
        return work();
    }
    let outside = || Place::of("self").and_then(|place| place.enter()).and_then(|()| work());
    let ended = std::thread::scope(|scope| scope.spawn(outside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether this thread has another loopback than the process began with, which is the machine's.
pub fn is_own() -> bool {
    let name = |whose: &str| std::fs::read_link(format!("/proc/{whose}/ns/net")).ok();
    name("thread-self") != name("self")
}

/// The network namespace of a thread, for another one to follow it there.
#[derive(Debug)]
pub struct Place {
    name: PathBuf,
    file: File,
}

impl Place {
    /// That of this thread.
    pub fn here() -> io::Result<Self> {
        Self::of("thread-self")
    }

    fn of(whose: &str) -> io::Result<Self> {
        let path = &format!("/proc/{whose}/ns/net");
        Ok(Self { name: std::fs::read_link(path)?, file: File::open(path)? })
    }

    /// Moves this thread there. Nothing is asked of the kernel, and so nothing refused, if it is there.
    pub fn enter(&self) -> io::Result<()> {
        if Self::here()?.name == self.name {
            return Ok(());
        }
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

fn enter_a_new_one() -> anyhow::Result<()> {
    let mut maker = Command::new("unshare")
        .args(["--net", "python3", "-Sc", BRING_UP])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting unshare")?;
    let mut said = String::new();
    let output = maker.stdout.take().context("no output")?;
    let entered =
        BufReader::new(output).read_line(&mut said).context("listening to unshare").and_then(|_| {
            anyhow::ensure!(said == "up\n", "unshare made none");
            let file = File::open(format!("/proc/{}/ns/net", maker.id())).context("the new namespace")?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("entering it")
        });
    drop(maker.stdin.take());
    maker.wait().context("reaping unshare")?;
    entered
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn two_have_the_same_port_and_what_one_starts_is_with_it() {
        if !*MAY_MAKE {
            assert!(!with_own(is_own));
            return;
        }
        let inner = with_own(|| {
            assert!(is_own());
            let one = TcpListener::bind("127.0.0.1:15001").unwrap();
            let other = with_own(|| TcpListener::bind("127.0.0.1:15001").map(drop));
            assert!(other.is_ok(), "{other:?}");
            let same = std::thread::spawn(|| TcpListener::bind("127.0.0.1:15001").map(drop)).join().unwrap();
            assert!(same.is_err(), "a thread that this one starts is here too");
            assert!(!on_the_machines(|| Ok(is_own())).unwrap());
            assert!(is_own(), "who asked for that has stayed");
            drop(one);
            Place::here().unwrap()
        });
        assert!(!is_own(), "only that thread has moved");
        let follows = std::thread::spawn(move || inner.enter().map(|()| is_own())).join().unwrap();
        assert!(follows.unwrap());
    }
}
