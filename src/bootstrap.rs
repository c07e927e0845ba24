//! The bootstrap of a stock Envoy: who it is, and where its control plane is. Envoy gets all the rest over xDS.
//!
//! It is not a template: a bootstrap either comes from checked inputs or not at all.
//!
//! Invariant: pure; equal inputs give equal text, which Envoy 1.36 to 1.40 takes without a warning.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde_json::{Value, json};

pub mod metadata;

/// Where the server has every sidecar listen for applications with `HTTP_PROXY`.
const PROXY_PORT: u16 = 15001;

/// No configuration takes a longer name of a namespace.
const LONGEST_NAMESPACE: usize = 127;

/// Connections that applications may hold open to the sidecar: each needs two of the 65,536 files that a task
/// usually may open.
const MAX_CONNECTIONS: u32 = 30_000;

/// The cluster that stands for the service's own tasks.
const LOCAL_CLUSTER: &str = "local";

/// What a bootstrap is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inputs {
    /// Who the sidecar is; the task ARN on ECS, so that the server knows its task.
    pub node_id: String,
    /// What it belongs to, for Envoy's own statistics and logs.
    pub cluster: String,
    /// The mesh namespace that it sees.
    pub namespace: String,
    /// The service that it belongs to.
    pub service: String,
    /// Its availability zone, by the name that the ECS API uses.
    pub zone: Option<String>,
    /// The control plane.
    pub server: Server,
    /// The CA of its certificate, as a file that Envoy finds; `None` where it speaks no TLS.
    pub ca_file: Option<String>,
    /// The port of Envoy's own admin pages, on loopback.
    pub admin_port: u16,
    /// Ports that containers of the same task listen on: the server sends no listener for them.
    pub container_ports: Vec<u16>,
}

/// Where the control plane listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// An address, or a name that DNS knows.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Server {
    /// Whether the host is an address and needs no DNS.
    fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A text that is not `host:port`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a host and a port, like `legation.prod.internal:18000` or `10.0.1.7:18000`")]
pub struct BadServer;

impl FromStr for Server {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Self, BadServer> {
        let (host, port) = text.rsplit_once(':').ok_or(BadServer)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(BadServer)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| BadServer)?.to_string(),
            None => host.to_owned(),
        };
        (bracketed.is_some() || is_host(&host)).then_some(Self { host, port }).ok_or(BadServer)
    }
}

/// Whether DNS may know `host`, or it is an IPv4 address: what ends in a number can only be an address.
fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(sound);
    let numeric = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    let known = if numeric { host.parse::<Ipv4Addr>().is_ok() } else { name.split('.').all(label) };
    known && name.len() <= 253
}

/// Inputs that make no working sidecar.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Envoy refuses an empty one, and the server needs all of them.
    #[error("the {0} must not be empty")]
    Empty(&'static str),
    /// Two can't listen on one port.
    #[error("a container of this task listens on {0}: give Envoy's admin pages another port (--admin-port)")]
    AdminPort(u16),
    /// No server serves it.
    #[error("`{0}` can't be a mesh namespace: those have 1 to 127 of a-z, 0-9, `_`, `-`, `.`")]
    Namespace(String),
    /// The port of a listener that every sidecar gets.
    #[error("the sidecar's own proxy listens on {0}: give Envoy's admin pages another port (--admin-port)")]
    ProxyPort(u16),
}

/// The bootstrap as JSON, which Envoy also takes for YAML; it ends with a newline.
pub fn render(inputs: &Inputs) -> Result<String, BootstrapError> {
    for (what, text) in [
        ("node id", &inputs.node_id),
        ("cluster", &inputs.cluster),
        ("namespace", &inputs.namespace),
        ("service", &inputs.service),
        ("CA file", inputs.ca_file.as_ref().unwrap_or(&inputs.service)),
    ] {
        if text.trim().is_empty() {
            return Err(BootstrapError::Empty(what));
        }
    }
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    if inputs.namespace.len() > LONGEST_NAMESPACE || !inputs.namespace.chars().all(sound) {
        return Err(BootstrapError::Namespace(inputs.namespace.chars().take(LONGEST_NAMESPACE).collect()));
    }
    if inputs.admin_port == PROXY_PORT {
        return Err(BootstrapError::ProxyPort(PROXY_PORT));
    }
    if inputs.container_ports.contains(&inputs.admin_port) {
        return Err(BootstrapError::AdminPort(inputs.admin_port));
    }
    Ok(format!("{:#}\n", bootstrap(inputs)))
}

fn bootstrap(inputs: &Inputs) -> Value {
    let mut bootstrap = json!({
        "node": node(inputs),
        "admin": { "address": socket_address("127.0.0.1", inputs.admin_port) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                // Envoy's own pauses grow to 30 s: too long to be without a control plane.
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": "legation",
                    "retry_policy": { "retry_back_off": { "base_interval": "0.2s", "max_interval": "2s" } },
                }}],
            },
            "cds_config": { "resource_api_version": "V3", "ads": {} },
            "lds_config": { "resource_api_version": "V3", "ads": {} },
        },
        "static_resources": { "clusters": [control_plane(&inputs.server, inputs.ca_file.as_deref())] },
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_CONNECTIONS,
            },
        }]},
    });
    // Without a zone of its own Envoy prefers none.
    if inputs.zone.as_deref().is_some_and(|zone| !zone.is_empty()) {
        bootstrap["cluster_manager"] = json!({ "local_cluster_name": LOCAL_CLUSTER });
        if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
            clusters.push(local_cluster(inputs));
        }
    }
    bootstrap
}

/// Where the service's own tasks are. It takes no requests: Envoy compares it with the endpoints of others.
fn local_cluster(inputs: &Inputs) -> Value {
    json!({
        "name": LOCAL_CLUSTER,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": format!("{}/@local/{}", inputs.namespace, inputs.service),
            "eds_config": { "resource_api_version": "V3", "ads": {} },
        },
    })
}

fn node(inputs: &Inputs) -> Value {
    let mut ports = inputs.container_ports.clone();
    ports.sort_unstable();
    ports.dedup();
    let mut node = json!({
        "id": inputs.node_id,
        "cluster": inputs.cluster,
        "metadata": {
            "namespace": inputs.namespace,
            "service": inputs.service,
            "container_ports": ports,
        },
    });
    if let Some(zone) = inputs.zone.as_deref().filter(|zone| !zone.is_empty()) {
        node["locality"] = json!({ "zone": zone });
    }
    node
}

/// HTTP/2 with keepalive: balancers forget silent connections.
fn control_plane(server: &Server, ca_file: Option<&str>) -> Value {
    let address = socket_address(&server.host, server.port);
    let mut cluster = json!({
        "name": "legation",
        "type": if server.is_address() { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "30s", "timeout": "5s" },
                }},
            },
        },
        "load_assignment": {
            "cluster_name": "legation",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    });
    if !server.is_address() {
        cluster["dns_lookup_family"] = json!("V4_PREFERRED");
    }
    if let Some(ca_file) = ca_file {
        cluster["transport_socket"] = tls(server, ca_file);
    }
    cluster
}

/// The certificate must be the server's own: any CA signs for many.
fn tls(server: &Server, ca_file: &str) -> Value {
    let host = server.host.trim_end_matches('.'); // which no certificate has
    let san_type = if server.is_address() { "IP_ADDRESS" } else { "DNS" };
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": { "filename": ca_file },
                "match_typed_subject_alt_names": [{ "san_type": san_type, "matcher": { "exact": host } }],
            },
        },
    });
    if !server.is_address() {
        context["sni"] = json!(host);
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;

    fn inputs() -> Inputs {
        Inputs {
            node_id: "arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123456789abcdef".to_owned(),
            cluster: "checkout".to_owned(),
            namespace: "prod".to_owned(),
            service: "checkout".to_owned(),
            zone: Some("eu-west-1a".to_owned()),
            server: "legation.prod.internal:18000".parse().unwrap(),
            ca_file: None,
            admin_port: 9901,
            container_ports: vec![8080, 443, 8080],
        }
    }

    #[test]
    fn a_server_by_name() {
        expect_file!["../tests/golden/bootstrap/name.json"].assert_eq(&render(&inputs()).unwrap());
    }

    #[test]
    fn a_server_by_address() {
        let inputs = Inputs {
            server: "[2001:db8::7]:18000".parse().unwrap(),
            zone: None,
            container_ports: Vec::new(),
            ..inputs()
        };
        expect_file!["../tests/golden/bootstrap/address.json"].assert_eq(&render(&inputs).unwrap());
    }

    #[test]
    fn a_server_with_a_certificate() {
        let inputs = Inputs { ca_file: Some("/etc/legation/ca.crt".to_owned()), ..inputs() };
        expect_file!["../tests/golden/bootstrap/tls.json"].assert_eq(&render(&inputs).unwrap());
        let address = Inputs { server: "10.0.1.7:18000".parse().unwrap(), ..inputs };
        let text = render(&address).unwrap();
        assert!(text.contains("IP_ADDRESS") && !text.contains("\"sni\""), "{text}");
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for text in [
            "10.0.1.7:18000",
            "[::1]:18000",
            "legation:1",
            "a_b.c-d:65535",
            "legation.prod.:1",
            "10-0-1-7.a1:1",
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        let wrong = [
            "",
            ":",
            "legation",
            "legation:",
            "legation:0",
            "legation:65536",
            ":18000",
            "http://legation:18000",
        ];
        for text in wrong.into_iter().chain([
            "[::1]",
            "::1:18000",
            "[legation]:1",
            "a b:1",
            "..:18000",
            "a..b:1",
            "999.1.1.1:18000",
            "1.2.3:1",
        ]) {
            assert_eq!(text.parse::<Server>(), Err(BadServer), "{text:?}");
        }
    }

    #[test]
    fn inputs_that_make_no_sidecar() {
        let nobody = Inputs { node_id: " ".to_owned(), ..inputs() };
        assert_eq!(render(&nobody), Err(BootstrapError::Empty("node id")));
        let crowded = Inputs { admin_port: 8080, ..inputs() };
        assert_eq!(render(&crowded), Err(BootstrapError::AdminPort(8080)));
        assert_eq!(PROXY_PORT, crate::translate::profile::PROXY_PORT);
        let local = crate::translate::endpoint::crew_name(&"prod".into(), "checkout");
        assert!(render(&inputs()).unwrap().contains(&format!("\"service_name\": \"{local}\"")));
        let taken = Inputs { admin_port: 15001, ..inputs() };
        assert_eq!(render(&taken), Err(BootstrapError::ProxyPort(15001)));
        for namespace in ["Prod", "prod/a", "a b", "é"] {
            let strange = Inputs { namespace: namespace.to_owned(), ..inputs() };
            assert_eq!(render(&strange), Err(BootstrapError::Namespace(namespace.to_owned())));
        }
        let long = Inputs { namespace: "x".repeat(128), ..inputs() };
        assert!(matches!(render(&long), Err(BootstrapError::Namespace(_))));
    }
}
