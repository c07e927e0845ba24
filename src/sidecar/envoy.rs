//! The admin pages of the task's own Envoy, as far as its helper needs them.
//!
//! It is not a client of the control plane. Invariant: no question outlives its patience, and one [`Envoy`] asks over one
//! connection.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::names::Listener;

/// More than the pages of a large mesh.
const LONGEST_ANSWER: u64 = 64 << 20;
/// What a listener's name has where the sidecar takes in the requests for its own service.
const INBOUND: &str = "/@inbound/";
/// Whether Envoy has accepted what it was sent, for clusters and for listeners.
const ACCEPTED: &str = "^(cluster_manager\\.cds|listener_manager\\.lds)\\.update_(success|rejected)$";
/// The open connections of each listener.
const OPEN: &str = "^listener\\..*downstream_cx_active$";

/// An Envoy, by its admin pages.
#[derive(Clone, Debug)]
pub struct Envoy {
    address: SocketAddr,
    patience: Duration,
    agent: ureq::Agent,
}

/// Envoy did not answer, or not as Envoy does.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// Nobody listens: it has not started, or it has ended.
    #[error("no Envoy listens at {0}")]
    Absent(SocketAddr),
    /// It did not answer, or not in time.
    #[error("Envoy does not answer at {0}: {1}")]
    Silent(SocketAddr, String),
    /// Something else answered.
    #[error("what answers at {0} is not Envoy's admin page: {1}")]
    Strange(SocketAddr, String),
    /// The question itself came to nothing.
    #[error("Envoy was not asked: {0}")]
    Lost(String),
}

/// Why a sidecar is not to be relied on.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nothing is known.
    #[error(transparent)]
    Unknown(#[from] EnvoyError),
    /// Envoy says so itself.
    #[error("Envoy is {0}")]
    State(String),
    /// It waited for the control plane in vain, and started without.
    #[error("Envoy has no {0} from the control plane yet")]
    Unconfigured(&'static str),
    /// It was sent something that it can't have.
    #[error("Envoy refused the {0} that it was sent: `legation proxies` tells why")]
    Refused(&'static str),
}

/// Open connections to listeners, the admin pages left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// From other tasks, to the service of this one.
    pub inbound: u64,
    /// From the applications of this task, and all else.
    pub outbound: u64,
}

#[derive(Deserialize)]
struct Stats {
    stats: Vec<Stat>,
}

#[derive(Deserialize)]
struct Stat {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: u64,
}

#[derive(Deserialize)]
struct Listeners {
    #[serde(default)]
    listener_statuses: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    name: String,
    local_address: Place,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    socket_address: Option<Socket>,
}

#[derive(Deserialize)]
struct Socket {
    address: String,
    #[serde(default)]
    port_value: u16,
}

#[derive(Deserialize)]
struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    name: String,
    #[serde(default)]
    host_statuses: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    address: Place,
    #[serde(default)]
    stats: Vec<Figure>,
}

/// Numbers are written as text there, and zero is left out.
#[derive(Deserialize)]
struct Figure {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Info {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
}

impl Envoy {
    /// The Envoy whose admin pages are at `address`; each question may take as long as `patience`.
    pub fn at(address: SocketAddr, patience: Duration) -> Self {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None) // the admin pages are on loopback
            .build()
            .into();
        Self { address, patience, agent }
    }

    /// Whether Envoy serves, by what was accepted from the control plane. Both questions together take `patience` at most.
    /// That it has lost the control plane meanwhile is no reason: it serves by what it has. That it drains is one: while ECS
    /// stops a task it does not look at health, and where somebody drains by hand the task is to be replaced.
    pub fn ready(&self) -> Result<(), NotReady> {
        let deadline = Instant::now() + self.patience;
        let (_, state) = self.ask("GET", "/ready", self.patience)?;
        let state = state.trim();
        if state.is_empty() || !state.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            let what = "/ready tells no state".to_owned();
            return Err(EnvoyError::Strange(self.address, what).into());
        }
        if state != "LIVE" {
            return Err(NotReady::State(state.to_owned()));
        }
        let stats = self.stats(ACCEPTED, deadline.saturating_duration_since(Instant::now()))?;
        accepted(&stats)
    }

    /// Has Envoy say that it is going: from now on every answer over HTTP closes its connection, on every listener, and `/ready`
    /// says `DRAINING`. Nothing is refused. The listeners stay open too (`skip_exit`): without it Envoy closes them when its
    /// own drain time is over, and without `graceful` at once.
    pub fn drain(&self) -> Result<(), EnvoyError> {
        for order in ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit&inboundonly"] {
            let (status, text) = self.ask("POST", order, self.patience)?;
            if status != 200 {
                return Err(EnvoyError::Strange(self.address, format!("{order}: {status}: {}", text.trim())));
            }
        }
        Ok(())
    }

    /// How many connections are open.
    pub fn connections(&self) -> Result<Connections, EnvoyError> {
        let listeners: Listeners = self.json("/listeners?format=json", self.patience)?;
        let inbound = listeners.listener_statuses.iter().filter(|it| it.name.contains(INBOUND));
        let inbound: Vec<_> = inbound.filter_map(|it| it.local_address.socket_address.as_ref()).collect();
        let open = self.stats(OPEN, self.patience)?;
        // This question has a connection itself.
        if !open.contains_key("listener.admin.downstream_cx_active") {
            let what = "it does not count connections (stats_matcher)".to_owned();
            return Err(EnvoyError::Strange(self.address, what));
        }
        Ok(count(&open, &inbound))
    }

    /// Whether the applications have ended that inbound connections are for: their ports are closed, and no request is on its way
    /// to them. Then whoever is still connected waits for nothing.
    pub fn has_nobody_behind(&self) -> Result<bool, EnvoyError> {
        let clusters: Clusters = self.json("/clusters?format=json", self.patience)?;
        let inbound = clusters.cluster_statuses.into_iter().filter(|it| it.name.contains(INBOUND));
        let applications: Vec<_> = inbound.flat_map(|it| it.host_statuses).collect();
        Ok(!applications.is_empty() && applications.iter().all(|it| it.has_ended(self.patience)))
    }

    /// The listeners at addresses of IPv4, by name; `None` until Envoy has accepted some from the control plane.
    pub fn listeners(&self) -> Result<Option<Vec<Listener>>, EnvoyError> {
        let stats = self.stats(ACCEPTED, self.patience)?;
        if stats.get("listener_manager.lds.update_success").is_none_or(|count| *count == 0) {
            return Ok(None);
        }
        let listeners: Listeners = self.json("/listeners?format=json", self.patience)?;
        let of = |status: Status| {
            let address = status.local_address.socket_address?.address.parse().ok()?;
            Some(Listener { name: status.name, address })
        };
        Ok(Some(listeners.listener_statuses.into_iter().filter_map(of).collect()))
    }

    /// The mesh namespace of the sidecar, as its bootstrap has it. The page is long: Envoy lists its extensions there.
    pub fn namespace(&self) -> Result<String, EnvoyError> {
        let info: Info = self.json("/server_info", self.patience)?;
        Ok(info.node.metadata.namespace)
    }

    fn stats(&self, filter: &str, patience: Duration) -> Result<BTreeMap<String, u64>, EnvoyError> {
        let filter: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let stats: Stats = self.json(&format!("/stats?format=json&filter={filter}"), patience)?;
        Ok(stats.stats.into_iter().map(|stat| (stat.name, stat.value)).collect())
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &str, patience: Duration) -> Result<T, EnvoyError> {
        let (_, text) = self.ask("GET", path, patience)?;
        serde_json::from_str(&text).map_err(|error| EnvoyError::Strange(self.address, error.to_string()))
    }

    fn ask(&self, method: &str, path: &str, patience: Duration) -> Result<(u16, String), EnvoyError> {
        let url = format!("http://{}{path}", self.address);
        // Zero would mean that there is no limit.
        let patience = Some(patience.max(Duration::from_millis(1)));
        let answer = match method {
            "POST" => self.agent.post(&url).config().timeout_global(patience).build().send_empty(),
            _ => self.agent.get(&url).config().timeout_global(patience).build().call(),
        };
        let failed = |error: ureq::Error| match error {
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                EnvoyError::Absent(self.address)
            }
            error => EnvoyError::Silent(self.address, error.to_string()),
        };
        let mut answer = answer.map_err(failed)?;
        let body = answer.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().map_err(failed)?;
        Ok((answer.status().as_u16(), body))
    }
}

impl Host {
    fn has_ended(&self, patience: Duration) -> bool {
        let is_used = self.stats.iter().any(|it| it.name == "cx_active" && !matches!(&*it.value, "" | "0"));
        let socket = self.address.socket_address.as_ref().and_then(Socket::place);
        !is_used
            && socket.is_some_and(|socket| {
                let error = TcpStream::connect_timeout(&socket, patience).err();
                error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            })
    }
}

impl Socket {
    fn place(&self) -> Option<SocketAddr> {
        self.address.parse().ok().map(|address| SocketAddr::new(address, self.port_value))
    }
}

/// Whether something was accepted of each kind; Envoy has no such counters before it has a control plane.
fn accepted(stats: &BTreeMap<String, u64>) -> Result<(), NotReady> {
    for (prefix, what) in [("cluster_manager.cds", "clusters"), ("listener_manager.lds", "listeners")] {
        let count = |name: &str| stats.get(&format!("{prefix}.{name}")).copied().unwrap_or_default();
        match (count("update_success"), count("update_rejected")) {
            (0, 0) => return Err(NotReady::Unconfigured(what)),
            (0, _) => return Err(NotReady::Refused(what)),
            _ => {}
        }
    }
    Ok(())
}

/// Each listener has a figure for all, and one for each thread, whose names go on after the address.
fn count(stats: &BTreeMap<String, u64>, inbound: &[&Socket]) -> Connections {
    let inbound = inbound.iter().filter_map(|socket| socket.place());
    let inbound: Vec<_> = inbound.map(|place| place.to_string().replace(':', "_")).collect();
    let mut open = Connections::default();
    for (name, count) in stats {
        let listener = name.strip_prefix("listener.").and_then(|it| it.strip_suffix(".downstream_cx_active"));
        match listener {
            None => {}
            Some(it) if it == "admin" || it.ends_with(".main_thread") || of_a_worker(it) => {}
            Some(it) if inbound.iter().any(|address| address == it) => open.inbound += count,
            Some(_) => open.outbound += count,
        }
    }
    open
}

fn of_a_worker(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.starts_with("worker_"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn stats(text: &str) -> BTreeMap<String, u64> {
        let pair =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        text.lines().filter_map(pair).collect()
    }

    #[test]
    fn what_was_accepted_counts_and_what_was_refused_is_told() {
        let (cds, lds) = ("cluster_manager.cds.update_", "listener_manager.lds.update_");
        let told =
            |text: String| accepted(&stats(&text)).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(told(String::new()), "Envoy has no clusters from the control plane yet");
        let clusters = format!("{cds}success: 1\n{cds}rejected: 0\n");
        assert_eq!(told(clusters.clone()), "Envoy has no listeners from the control plane yet");
        let refused = format!("{clusters}{lds}success: 0\n{lds}rejected: 2\n");
        assert_eq!(
            told(refused),
            "Envoy refused the listeners that it was sent: `legation proxies` tells why"
        );
        assert_eq!(told(format!("{clusters}{lds}success: 1\n{lds}rejected: 2\n")), "", "once is enough");
    }

    #[test]
    fn connections_are_counted_once_and_the_admin_page_is_none() {
        let stats = stats(
            "listener.0.0.0.0_15006.downstream_cx_active: 3\nlistener.0.0.0.0_15006.worker_0.downstream_cx_active: 3\n\
             listener.[__]_15007.downstream_cx_active: 4\n\
             listener.127.133.9.1_8080.downstream_cx_active: 2\nlistener.127.133.9.1_8080.worker_1.downstream_cx_active: 2\n\
             listener.admin.downstream_cx_active: 1\nlistener.admin.main_thread.downstream_cx_active: 1\n",
        );
        let [four, six] = [("0.0.0.0", 15006), ("::", 15007)]
            .map(|(address, port_value)| Socket { address: address.to_owned(), port_value });
        assert_eq!(count(&stats, &[&four, &six]), Connections { inbound: 7, outbound: 2 });
        assert_eq!(count(&stats, &[]), Connections { inbound: 0, outbound: 9 });
    }

    #[test]
    fn nobody_and_somebody_else_are_told_apart_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let envoy = Envoy::at(address, Duration::from_millis(200));
        let before = Instant::now();
        // The kernel takes the connection, and nobody ever answers.
        assert!(matches!(envoy.ready(), Err(NotReady::Unknown(EnvoyError::Silent(..)))));
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        drop(listener);
        let error = envoy.ready().unwrap_err().to_string();
        assert_eq!(error, format!("no Envoy listens at {address}"));
    }

    /// Answers so on the first connection, one after the other, and then stays silent, on that and on all others.
    fn playing(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
                    .unwrap();
            }
            // Until the other side has had enough.
            let _ = reader.read_line(&mut String::new());
        });
        address
    }

    #[test]
    fn a_health_check_takes_one_connection_and_its_time_in_all() {
        const STATS: &str = r#"{"stats":[{"name":"cluster_manager.cds.update_success","value":1},
            {"name":"listener_manager.lds.update_success","value":2}]}"#;
        let long = Duration::from_secs(60);
        assert!(Envoy::at(playing(&["LIVE\n", STATS]), long).ready().is_ok());
        let told = |answers| Envoy::at(playing(answers), long).ready().unwrap_err().to_string();
        assert_eq!(told(&["INITIALIZING\n"]), "Envoy is INITIALIZING");
        assert!(told(&["<html>"]).contains("is not Envoy's admin page"));
        assert!(told(&["LIVE\n", "no such page"]).contains("is not Envoy's admin page"));
        let (before, patience) = (Instant::now(), Duration::from_millis(300));
        assert!(Envoy::at(playing(&["LIVE\n"]), patience).ready().is_err());
        assert!(before.elapsed() < patience * 10, "{:?}", before.elapsed());
    }

    #[test]
    fn an_envoy_that_does_not_count_connections_is_not_taken_for_empty() {
        let envoy = Envoy::at(
            playing(&[r#"{"listener_statuses":[]}"#, r#"{"stats":[{}]}"#]),
            Duration::from_secs(60),
        );
        let error = envoy.connections().unwrap_err().to_string();
        assert!(error.contains("does not count connections"), "{error}");
    }

    #[test]
    fn inbound_listeners_are_named_as_the_server_names_them() {
        let served = include_str!("../../tests/golden/listeners/reach.out.json");
        let listeners: serde_json::Value = serde_json::from_str(served).unwrap();
        let named = listeners.to_string().matches(INBOUND).count();
        assert!(named > 0 && served.contains("\"INBOUND\""), "the server names them otherwise");
    }
}
