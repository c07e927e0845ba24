//! A service `pay` with two servers that do as they are told, one more behind it, a sidecar, and a policy that a test
//! changes.
//!
//! What a policy means is up to the rows. Invariant: once a policy was applied, Envoy has it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::extract::Request as Asked;
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::http::{Answer, send};
use integration::shop::{ServicesFile, serve, sidecar};
use integration::stage::PROXY;
use integration::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);
/// Two for `pay`, one for `other`, one that comes later; and with two more, three in each zone for `near`.
const SERVERS: u8 = 6;
/// Where a task of the sidecar's own service listens on its loopback alone, and the address that clients know.
const APPLICATION: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8095);
const TILL: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 120));
/// A server of bytes, which takes an upgrade to WebSocket and sends back what it gets.
const SOCKET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 110)), 8080);
/// A server that takes no more connections.
const DEAF: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 111)), 8080);
const HEAD: &str = "apiVersion: legation/v1alpha1\nkind: Policy\n";

/// What a server was asked.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// A server. A request may say how it is answered: `?status=503`, `?ms=500` later, `/stall` never to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) fails: Arc<AtomicBool>,
    pub(crate) is_slow: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(self, number: u8, asked: Asked) -> Response {
        let path = asked.uri().path().to_owned();
        let query = asked.uri().query().unwrap_or_default().to_owned();
        if path != "/mark" {
            let seen = Seen { path: format!("{path}?{query}"), headers: asked.headers().clone() };
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        }
        let said = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse::<u64>().ok())
        };
        let usual = if self.is_slow.load(Ordering::Relaxed) && path != "/mark" { 1_000 } else { 0 };
        tokio::time::sleep(Duration::from_millis(said("ms").unwrap_or(usual))).await;
        let failed = if self.fails.load(Ordering::Relaxed) && path != "/mark" { 503 } else { 200 };
        let status = said("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(failed);
        let first = stream::once(async { Ok::<_, std::io::Error>(b"first".as_slice()) });
        let body = if path == "/stall" {
            Body::from_stream(first.chain(stream::pending()))
        } else {
            Body::from_stream(first)
        };
        let response =
            Response::builder().status(status).header("x-server", u16::from(number)).header("x-old", "yes");
        response.body(body).unwrap_or_default()
    }
}

/// Listens, and has more connections waiting than it takes: the next one gets no answer.
async fn deaf() -> anyhow::Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(DEAF)?;
    let (listener, mut waiting) = (socket.listen(1)?, Vec::new());
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(DEAF)).await {
        waiting.push(stream?);
        ensure!(waiting.len() < 50, "it takes any number");
    }
    Ok((listener, waiting))
}

/// Takes every upgrade, and sends back what comes then.
async fn echo(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let answer =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

pub(crate) struct Shop {
    pub(crate) control: ControlPlane,
    pub(crate) envoy: Envoy,
    pub(crate) servers: Vec<Server>,
    pub(crate) places: Vec<SocketAddr>,
    /// `pay` at its own address.
    pub(crate) alias: SocketAddr,
    services: ServicesFile,
    policies: PathBuf,
    mark: u32,
    _deaf: (TcpListener, Vec<TcpStream>),
    looks: u32,
}

/// The services: `pay` with these of its servers, `other` with the third, and `bytes`, which speaks no HTTP; `near` in two
/// zones, and in these two `till`, the sidecar's own.
fn services(places: &[SocketAddr], pay: &[(usize, &str)]) -> String {
    let place = |(number, health): &(usize, &str)| {
        let at = places[*number];
        format!("      - {{ address: {}, port: {}, health: {health} }}\n", at.ip(), at.port())
    };
    let pay: String = pay.iter().map(place).collect();
    let other = place(&(2, "healthy"));
    let zoned = |(number, at): (usize, &SocketAddr)| {
        let zone = if number < 3 { "eu-west-1a" } else { "eu-west-1b" };
        format!("      - {{ address: {}, port: {}, zone: {zone} }}\n", at.ip(), at.port())
    };
    let near: String = places.iter().enumerate().map(zoned).collect();
    let own = format!(
        "  near:\n    aliases: [{{ name: near, port: 80 }}]\n    appProtocol: http\n    endpoints:\n{near}\
         \x20 till:\n    aliases: [{{ name: till, port: 80 }}]\n    appProtocol: http\n    endpoints:\n\
         \x20     - {{ address: {TILL}, port: {port}, zone: eu-west-1a }}\n\
         \x20     - {{ address: 127.9.9.121, port: {port}, zone: eu-west-1b }}\n",
        port = APPLICATION.port()
    );
    let usual = format!(
        "services:\n  pay:\n    aliases: [{{ name: pay, port: 8090 }}]\n    appProtocol: http\n    endpoints:\n{pay}\
         \x20 other:\n    aliases: [{{ name: other, port: 80 }}]\n    appProtocol: http\n    endpoints:\n{other}\
         \x20 deaf:\n    aliases: [{{ name: deaf, port: 80 }}]\n    appProtocol: http\n    endpoints: [{{ address: {}, port: {} }}]\n\
         \x20 socket:\n    aliases: [{{ name: socket, port: 8092 }}]\n    appProtocol: http\n    endpoints: [{{ address: {}, port: {} }}]\n\
         \x20 bytes:\n    aliases: [{{ name: bytes, port: 8091 }}]\n    endpoints:\n{other}",
        DEAF.ip(),
        DEAF.port(),
        SOCKET.ip(),
        SOCKET.port()
    );
    usual + &own
}

impl Shop {
    pub(crate) async fn open(folder: &Path) -> anyhow::Result<Self> {
        let (mut servers, mut places) = (Vec::new(), Vec::new());
        for number in 0..SERVERS {
            let server = Server::default();
            let answers = server.clone();
            let router = axum::Router::new().fallback(move |asked| answers.clone().answer(number, asked));
            places.push(serve(100 + number, router).await?);
            servers.push(server);
        }
        let application = Server::default();
        let answers = application.clone();
        let router = axum::Router::new().fallback(move |asked| answers.clone().answer(99, asked));
        let listener = TcpListener::bind(APPLICATION).await.context("the application")?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        tokio::spawn(echo(TcpListener::bind(SOCKET).await.context("the server of upgrades")?));
        let policies = folder.join("policies");
        std::fs::create_dir_all(&policies).context("a folder for policies")?;
        let services = ServicesFile::new(folder, &services(&places, &[(0, "healthy"), (1, "healthy")]))?;
        let sources = Sources { files: vec![services.path().to_owned()], ..Sources::default() };
        let setup = Setup { policies: vec![policies.clone()], ..Setup::files() };
        let control = ControlPlane::start(folder, &setup.namespace("shop", sources)).await?;
        let mut envoy = Envoy::start(folder, "till", &control.bootstrap(&sidecar("shop"))?).await?;
        envoy.live().await?;
        let hosts = control.items("namespaces/shop/hosts").await?;
        let host = hosts.iter().find(|host| host["name"] == "pay").context("no host pay")?;
        let address: Ipv4Addr = host["address"].as_str().context("no address")?.parse()?;
        let alias = (address, 8090).into();
        Ok(Self {
            control,
            envoy,
            servers,
            places,
            alias,
            services,
            policies,
            mark: 0,
            _deaf: deaf().await?,
            looks: 0,
        })
    }

    /// A WebSocket to `socket`, through the sidecar.
    pub(crate) async fn upgraded(&self) -> anyhow::Result<TcpStream> {
        let hosts = self.control.items("namespaces/shop/hosts").await?;
        let host = hosts.iter().find(|host| host["name"] == "socket").context("no host socket")?;
        let address: Ipv4Addr = host["address"].as_str().context("no address")?.parse()?;
        let mut stream = TcpStream::connect((address, 8092)).await?;
        let request =
            b"GET /ws HTTP/1.1\r\nhost: socket\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(request).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.context("the answer to an upgrade")?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Ok(stream)
    }

    /// Everything as it was, and then this policy.
    pub(crate) async fn reset(&mut self, policy: &str) -> anyhow::Result<()> {
        let mut has_failed = false;
        self.servers.iter().for_each(|server| {
            has_failed |= server.fails.swap(false, Ordering::Relaxed);
            server.is_slow.store(false, Ordering::Relaxed);
            has_failed |= server.seen().iter().any(|seen| seen.path.contains("status="));
            server.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        if has_failed {
            // Another cluster of the name forgets who was ejected.
            self.apply("services: { pay: { timeouts: { connect: 3s } } }\n").await?;
        }
        self.endpoints(&[(0, "healthy"), (1, "healthy")]).await?;
        self.apply(policy).await
    }

    /// Applies a policy; Envoy has it when this returns.
    pub(crate) async fn apply(&mut self, policy: &str) -> anyhow::Result<()> {
        self.mark += 1;
        let mark = self.mark;
        let route = format!(
            "routes:\n  - name: mark\n    parentRefs: [pay]\n    rules:\n      - matches: [{{ path: {{ type: Exact, value: /mark }} }}]\n        filters:\n          - type: ResponseHeaderModifier\n            responseHeaderModifier: {{ set: [{{ name: x-mark, value: \"{mark}\" }}] }}\n"
        );
        self.write("a-policy.yaml", policy)?;
        self.write("z-mark.yaml", &route)?; // after it
        let (mut last, mark) = (None, mark.to_string());
        let marked = wait::until(LIMIT, format!("mark {mark}"), async || {
            let answer = self.ask(Method::GET, "/mark").await?;
            last = Some(answer.text());
            Ok((answer.header("x-mark") == Some(mark.as_str())).then_some(()))
        });
        marked.await.with_context(|| format!("the last answer was {last:?}; the policy:\n{policy}"))?;
        let policy = self.control.api("policy").await?;
        ensure!(policy["item"]["rejected"].as_array().is_some_and(Vec::is_empty), "{policy}");
        Ok(())
    }

    /// Whether a row is looked at without its knob.
    pub(crate) fn is_first_look(&mut self) -> bool {
        self.looks += 1;
        self.looks == 1
    }

    /// Writes a policy that can't be.
    pub(crate) fn break_policy(&self) -> anyhow::Result<()> {
        self.write("a-policy.yaml", "services: { pay: { retry: { attempts: many } } }\n")
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.policies.join(format!(".{name}"));
        std::fs::write(&draft, format!("{HEAD}{text}")).context("writing a policy")?;
        std::fs::rename(&draft, self.policies.join(name)).context("naming a policy")
    }

    /// Has `pay` these endpoints; Envoy knows when only the first of its servers answers. Returns how many it knows of.
    pub(crate) async fn leave_the_first(&self, pay: &[(usize, &str)]) -> anyhow::Result<usize> {
        self.services.write(&services(&self.places, pay))?;
        wait::until(LIMIT, "only the first server to answer", async || {
            Ok((self.answered(10, "/first").await?[0] == 10).then_some(()))
        })
        .await?;
        Ok(self.envoy.endpoints("shop/pay").await?.len())
    }

    /// Has `pay` these endpoints.
    pub(crate) async fn endpoints(&self, pay: &[(usize, &str)]) -> anyhow::Result<()> {
        self.services.write(&services(&self.places, pay))?;
        let mut wanted: Vec<_> = pay.iter().map(|(number, _)| self.places[*number].to_string()).collect();
        wanted.sort();
        wait::until(LIMIT, "the endpoints of pay", async || {
            Ok((self.envoy.endpoints("shop/pay").await? == wanted).then_some(()))
        })
        .await
    }

    /// Whether the first server is in rotation once `pay` has these words for it. Envoy has them when this returns.
    pub(crate) async fn is_in_rotation(&self, words: &str) -> anyhow::Result<bool> {
        self.services.write(&services(&self.places, &[(0, words), (3, "healthy")]))?;
        let [first, later] = [0, 3].map(|number: usize| self.places.get(number).map(ToString::to_string));
        let (first, later) = (first.context("no server")?, later.context("no later server")?);
        wait::until(LIMIT, "the endpoints of pay", async || {
            let endpoints = self.envoy.endpoints("shop/pay").await?;
            Ok(endpoints.contains(&later).then(|| endpoints.contains(&first)))
        })
        .await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        self.ask_with(method, path, &[]).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let host = headers.iter().find(|(name, _)| *name == "host").map_or("pay:8090", |(_, host)| host);
        let mut request = Request::builder().method(method).uri(format!("http://{host}{path}"));
        request = request.header("host", host);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
            request = request.header(*name, *value);
        }
        send(PROXY, request.body(Body::empty())?).await
    }

    /// As many at once.
    pub(crate) async fn burst(&self, count: usize, path: &str) -> anyhow::Result<Vec<Answer>> {
        join_all((0..count).map(|_| self.ask(Method::GET, path))).await.into_iter().collect()
    }

    /// Which servers answered, one question after the other.
    pub(crate) async fn answered(&self, count: usize, path: &str) -> anyhow::Result<Vec<usize>> {
        let mut by = vec![0; self.servers.len()];
        for _ in 0..count {
            let answer = self.ask(Method::GET, path).await?;
            let number = answer.header("x-server").and_then(|number| number.parse::<usize>().ok());
            if let Some(count) = number.and_then(|number| by.get_mut(number)) {
                *count += 1;
            }
        }
        Ok(by)
    }

    /// How often the servers were asked for something that begins so.
    pub(crate) fn attempts(&self, path: &str) -> usize {
        self.servers.iter().flat_map(Server::seen).filter(|seen| seen.path.starts_with(path)).count()
    }

    /// How long an answer takes.
    pub(crate) async fn timed(&self, method: Method, path: &str) -> anyhow::Result<(Answer, Duration)> {
        let began = Instant::now();
        Ok((self.ask(method, path).await?, began.elapsed()))
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        let oracle = self.envoy.oracle().await?;
        ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        let log = self.envoy.log()?;
        let warned: Vec<_> = log.lines().filter(|line| line.contains("eprecated")).collect();
        ensure!(warned.is_empty(), "Envoy warns: {warned:?}");
        self.envoy.stop().await?;
        self.control.stop().await
    }
}
