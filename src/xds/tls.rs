//! TLS on the xDS port: the certificate that clients check, read again when its files change.
//!
//! It is not about who the client is: none is asked for a certificate.
//!
//! Invariant: once the server is up it has a certificate. Files that can't be read are told, and the last good ones
//! stay in force.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

/// How often the files are looked at.
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
    config: Mutex<Arc<ServerConfig>>,
}

/// What the files hold, and when they were written.
type Found = (Arc<ServerConfig>, Written);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, BadTls> {
        let config = Arc::new(config(&files)?);
        Ok(Self { files, config: Mutex::new(config) })
    }

    /// The connection under TLS; an error if the client does not agree in time.
    pub(super) async fn accept(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current());
        tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await?
    }

    fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the files for ever.
    pub(super) async fn follow(&self) {
        let (mut known, mut told) = (written(&self.files), None);
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.files.clone();
            // A folder that hangs holds nobody up.
            let found = tokio::task::spawn_blocking(move || look(&files, known)).await;
            let Ok(Some(found)) = found else { continue };
            self.renew(found, &mut known, &mut told);
        }
    }

    fn renew(&self, found: Result<Found, BadTls>, known: &mut Written, told: &mut Option<BadTls>) {
        match found {
            Ok((config, written)) => {
                info!(certificate = %self.files.certificate.display(), "certificate read again");
                *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
                (*known, *told) = (written, None);
            }
            // It is tried again each time, and told once.
            Err(error) if told.as_ref() != Some(&error) => {
                warn!(%error, "the new certificate can't be used; the old one stays");
                *told = Some(error);
            }
            Err(_) => {}
        }
    }
}

/// What the files hold, unless it is what is known.
fn look(files: &TlsFiles, known: Written) -> Option<Result<Found, BadTls>> {
    let written = written(files);
    (written != known).then(|| config(files).map(|config| (Arc::new(config), written)))
}

/// When both files were written last; `None` where that can't be told.
type Written = Option<[SystemTime; 2]>;

/// When both files were written last.
fn written(files: &TlsFiles) -> Written {
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
        let first = tls.current();
        let (mut known, mut told) = (super::written(&tls.files), None);
        assert!(look(&tls.files, known).is_none(), "nothing is new");
        known = None; // as if they were written at another time
        std::fs::write(&tls.files.private_key, "nothing").unwrap();
        for _ in 0..2 {
            let found = look(&tls.files, known).expect("it is tried again");
            tls.renew(found, &mut known, &mut told);
            assert!(Arc::ptr_eq(&tls.current(), &first) && told.is_some());
        }
        written(folder.path(), names, &pair());
        tls.renew(look(&tls.files, known).unwrap(), &mut known, &mut told);
        assert!(!Arc::ptr_eq(&tls.current(), &first) && told.is_none() && known.is_some());
    }
}
