//! TLS on the xDS port: the certificate that clients check, read again when its files change.
//!
//! It is not about who the client is: none is asked for a certificate.
//!
//! Invariant: once the server is up it has a certificate. Files that can't be read are told, and the last good ones
//! stay in force.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

/// How often the files are looked at, when somebody connects.
const LOOK: Duration = Duration::from_secs(10);
/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where the certificate and its key are, both as PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
}

/// Files that make no certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct BadTls {
    path: PathBuf,
    why: String,
}

/// Agrees on keys with whoever connects.
pub struct Tls {
    files: TlsFiles,
    now: Mutex<Now>,
}

/// What is in force.
struct Now {
    config: Arc<ServerConfig>,
    /// When the files were written that it is from.
    written: Option<[SystemTime; 2]>,
    looked_at: Instant,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, BadTls> {
        let written = written(&files);
        let now = Now { config: Arc::new(config(&files)?), written, looked_at: Instant::now() };
        Ok(Self { files, now: Mutex::new(now) })
    }

    /// The connection under TLS; an error if the client does not agree in time.
    pub(super) async fn accept(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config());
        tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await?
    }

    fn config(&self) -> Arc<ServerConfig> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.looked_at.elapsed() >= LOOK {
            now.looked_at = Instant::now();
            self.renew(&mut now);
        }
        Arc::clone(&now.config)
    }

    fn renew(&self, now: &mut Now) {
        let written = written(&self.files);
        if written == now.written {
            return;
        }
        now.written = written; // what can't be read is told once
        match config(&self.files) {
            Ok(config) => {
                info!(certificate = %self.files.certificate.display(), "certificate read again");
                now.config = Arc::new(config);
            }
            Err(error) => warn!(%error, "the new certificate can't be used; the old one stays"),
        }
    }
}

/// When both files were written last.
fn written(files: &TlsFiles) -> Option<[SystemTime; 2]> {
    let of = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Some([of(&files.certificate)?, of(&files.private_key)?])
}

fn config(files: &TlsFiles) -> Result<ServerConfig, BadTls> {
    let bad = |path: &Path, why: String| BadTls { path: path.to_owned(), why };
    let chain =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| bad(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(bad(&files.certificate, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.private_key);
    let key = key.map_err(|error| bad(&files.private_key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let config = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| bad(&files.private_key, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, names: [&str; 2], pair: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsFiles {
        let [certificate, private_key] = names.map(|name| folder.join(name));
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&private_key, pair.signing_key.serialize_pem()).unwrap();
        TlsFiles { certificate, private_key }
    }

    fn pair() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    #[test]
    fn what_is_no_certificate_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), ["tls.crt", "tls.key"], &pair());
        Tls::load(files.clone()).unwrap();
        let other = written(folder.path(), ["other.crt", "other.key"], &pair());
        for (certificate, private_key, words) in [
            (folder.path().join("missing"), files.private_key.clone(), "missing: "),
            (files.private_key.clone(), files.private_key.clone(), "no certificate in it"),
            (files.certificate.clone(), files.certificate.clone(), "tls.crt: "),
            (files.certificate.clone(), other.private_key, "other.key: "),
        ] {
            let error = Tls::load(TlsFiles { certificate, private_key }).unwrap_err().to_string();
            assert!(error.contains(words), "{error} does not say {words}");
        }
    }

    #[test]
    fn new_files_are_taken_and_bad_ones_leave_the_last_good() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["tls.crt", "tls.key"];
        let tls = Tls::load(written(folder.path(), names, &pair())).unwrap();
        let look = || {
            let mut now = tls.now.lock().unwrap();
            now.written = None; // as if they were written at another time
            tls.renew(&mut now);
            Arc::clone(&now.config)
        };
        let first = look();
        std::fs::write(&tls.files.private_key, "nothing").unwrap();
        assert!(Arc::ptr_eq(&look(), &first));
        written(folder.path(), names, &pair());
        assert!(!Arc::ptr_eq(&look(), &first));
    }
}
