//! Looking into a container's network from outside.
//!
//! Envoy's admin pages and the server's inspection answer on the loopback of their own network namespace only, and no image has
//! a shell. So a thread enters the namespace, connects, and leaves with the connection. It needs root, as Docker itself does.
//! Invariant: no thread that runs anything else is ever in another namespace.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use hyper::{Method, Request};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::http::{self, Answer};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The network namespace of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    pid: i64,
}

impl Inside {
    /// That of the process `pid`.
    pub fn of(pid: i64) -> Self {
        Self { pid }
    }

    /// A connection that begins there.
    pub async fn connect(self, to: SocketAddr) -> anyhow::Result<TcpStream> {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let connect = move || -> anyhow::Result<std::net::TcpStream> {
            let namespace =
                File::open(format!("/proc/{}/ns/net", self.pid)).context("its network namespace")?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering its network namespace")?;
            let stream = std::net::TcpStream::connect_timeout(&to, CONNECT)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // The thread ends in the other namespace, with nothing of ours.
        std::thread::Builder::new().name("inside".to_owned()).spawn(move || answer.send(connect()))?;
        let stream = outcome.await.context("the thread has ended")?;
        Ok(TcpStream::from_std(stream.with_context(|| format!("connecting to {to} inside {}", self.pid))?)?)
    }

    /// Asks one question of whoever listens on the loopback there.
    pub async fn ask(self, method: Method, port: u16, path: &str) -> anyhow::Result<Answer> {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let request: Request<Body> = http::request(method, &to.to_string(), path)?;
        http::exchange(self.connect(to).await?, request)
            .await
            .with_context(|| format!("{path} inside {}", self.pid))
    }

    /// GET that must succeed with JSON.
    pub async fn json(self, port: u16, path: &str) -> anyhow::Result<Value> {
        let answer = self.ask(Method::GET, port, path).await?;
        anyhow::ensure!(answer.status.is_success(), "{path}: {}: {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).with_context(|| format!("reading {path}"))
    }

    /// Drops every packet to and from an address, without a word to either side.
    pub async fn cut_off(self, from: IpAddr) -> anyhow::Result<()> {
        for rule in [["-I", "OUTPUT", "-d"], ["-I", "INPUT", "-s"]] {
            self.filter(&rule, from).await?;
        }
        Ok(())
    }

    /// Undoes [`Inside::cut_off`].
    pub async fn heal(self, from: IpAddr) -> anyhow::Result<()> {
        for rule in [["-D", "OUTPUT", "-d"], ["-D", "INPUT", "-s"]] {
            self.filter(&rule, from).await?;
        }
        Ok(())
    }

    async fn filter(self, rule: &[&str], address: IpAddr) -> anyhow::Result<()> {
        let mut command = self.command("iptables");
        command.arg("--wait").args(rule).args([&address.to_string(), "-j", "DROP"]);
        let output = command.output().await.context("running iptables")?;
        anyhow::ensure!(output.status.success(), "iptables: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A program of this machine that runs in that network.
    fn command(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--", program]).kill_on_drop(true);
        command
    }

    /// Where its files are, as this machine sees them.
    pub fn files(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// The user that it runs as.
    pub fn user(self) -> anyhow::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).context("its status")?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("Uid:")).context("a status without Uid")?;
        line.split_whitespace().next().unwrap_or_default().parse().context("a number")
    }

    /// A program of the container that runs in its network and among its files, as root: nearly what `docker exec` runs, without a
    /// runtime of its own for each.
    pub fn exec(self, arguments: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid.to_string(), "--net", "--mount", "--"])
            .args(arguments)
            .kill_on_drop(true);
        command
    }
}
