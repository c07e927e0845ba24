//! Legation as it is shipped, with one source more: what it serves comes over a control connection.
//!
//! `set NAME ADDRESS:PORT,...` says what endpoints a service has from the next `commit` on, which is answered
//! by `ok` when the source has handed its view over; answers to orders that came together go together. It is no
//! shortcut. Invariant: from there on everything is the product's own: the joining, the translation, the store,
//! the streams.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use imbl::OrdMap;
use legation::app;
use legation::config::Config;
use legation::model::{
    Alias, Health, Member, Phase, Protocol, Readiness, Registration, ServiceKey, ServiceSpec, ServiceView,
    View,
};
use legation::source::CellWriter;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Services = OrdMap<ServiceKey, Arc<ServiceView>>;

/// The product's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "fed CONFIGURATION ADDRESS";
    let (file, control) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let config = Config::load(Path::new(&file), []).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    legation::telemetry::start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let orders = TcpListener::bind(&control).await.context("listening for orders")?;
        let feed: app::Feed = Box::new(move |cell| Box::pin(feed(orders, cell)));
        app::serve_with(config, vec![("fed".to_owned(), feed)]).await
    })
}

/// Keeps the cell at what the orders say.
async fn feed(orders: TcpListener, cell: CellWriter) -> anyhow::Result<()> {
    loop {
        let (connection, _) = orders.accept().await.context("accepting who gives orders")?;
        obey(connection, &cell).await?;
    }
}

async fn obey(connection: TcpStream, cell: &CellWriter) -> anyhow::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    let (mut order, mut services, mut answers) = (String::new(), served(cell), String::new());
    loop {
        if !connection.buffer().contains(&b'\n') && !answers.is_empty() {
            connection.get_mut().write_all(answers.as_bytes()).await.context("answering")?;
            answers.clear();
        }
        order.clear();
        if connection.read_line(&mut order).await.context("reading an order")? == 0 {
            return Ok(());
        }
        match order.trim_end().split(' ').collect::<Vec<_>>()[..] {
            ["set", name, endpoints] => set(&mut services, name, endpoints)?,
            ["commit"] => {
                cell.publish(View { services, ..View::default() }, Instant::now());
                services = served(cell);
                answers.push_str("ok\n");
            }
            _ => anyhow::bail!("unknown order: {order}"),
        }
    }
}

/// What the cell holds: to go on from there shares with it whatever stays as it is.
fn served(cell: &CellWriter) -> Services {
    cell.view().map(|view| view.services.clone()).unwrap_or_default()
}

fn set(services: &mut Services, name: &str, endpoints: &str) -> anyhow::Result<()> {
    let (namespace, service) = name.split_once('/').context("a name without a namespace")?;
    let key = ServiceKey::new(namespace, service);
    let spec = match services.get(&key) {
        Some(known) => Arc::clone(&known.spec),
        None => Arc::new(ServiceSpec {
            protocol: Protocol::Http,
            aliases: vec![Alias { name: service.into(), port: 8080 }],
            readiness: Readiness::Running,
            ..ServiceSpec::new(key.clone(), "fed")
        }),
    };
    let endpoints = endpoints.split(',').filter(|place| !place.is_empty());
    let mut registrations = endpoints.map(registration).collect::<anyhow::Result<Vec<_>>>()?;
    registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    services.insert(key, Arc::new(ServiceView { spec, active: true, registrations }));
    Ok(())
}

fn registration(place: &str) -> anyhow::Result<Registration> {
    let address: SocketAddrV4 = place.parse().with_context(|| format!("no address and port: {place}"))?;
    Ok(Registration {
        instance: place.into(),
        address: Some((*address.ip()).into()),
        port: Some(address.port()),
        zone: None,
        version: None,
        phase: Phase::Running(Health::NoCheck),
        started_at: None,
        member: Member::File,
        foreign_tls: false,
        held: false,
    })
}
