//! Where the clients of a server knock: its address, and its certificate if it has one.
//!
//! It speaks no HTTP. Invariant: under TLS every connection checks the certificate that was made for this run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What a certificate is made of, as the servers want it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// How clients connect.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    tls: Option<TlsConnector>,
}

/// A connection, whatever it is made of.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<W: AsyncRead + AsyncWrite + Unpin> Wire for W {}

impl Door {
    /// Without TLS.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// With a new certificate, which goes to this folder.
    pub(crate) fn with_certificate(
        address: SocketAddr,
        folder: &Path,
    ) -> anyhow::Result<(Self, Certificate)> {
        let pair = rcgen::generate_simple_self_signed([address.ip().to_string()])?;
        let files = Certificate { chain: folder.join("tls.crt"), key: folder.join("tls.key") };
        std::fs::write(&files.chain, pair.cert.pem()).context("writing a certificate")?;
        std::fs::write(&files.key, pair.signing_key.serialize_pem()).context("writing a key")?;
        let mut roots = RootCertStore::empty();
        roots.add(pair.cert.der().clone()).context("trusting the certificate")?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().context("speaking TLS")?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok((Self { address, tls: Some(TlsConnector::from(Arc::new(config))) }, files))
    }

    /// A new connection.
    pub(crate) async fn enter(&self) -> anyhow::Result<Box<dyn Wire>> {
        let tcp = TcpStream::connect(self.address).await.context("connecting")?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                Box::new(tls.connect(name, tcp).await.context("speaking TLS")?)
            }
        })
    }
}
