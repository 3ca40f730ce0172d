//! Certificates: loaded from files, read again when they change, or made for local trials.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: (PathBuf, PathBuf),
    current: parking_lot::RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

impl Certificate {
    /// Loads the files; makes them below the state directory if none are named.
    pub(crate) fn load(named: Option<&(PathBuf, PathBuf)>, state: &Path) -> anyhow::Result<Arc<Self>> {
        let files = match named {
            Some(files) => files.clone(),
            None => make_for_trials(state).context("certificate for local trials")?,
        };
        let current = parking_lot::RwLock::new(read(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    /// The server side of TLS with these protocols.
    pub(crate) fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> anyhow::Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Reads the files again whenever they change, until shutdown. A pair that does not fit changes nothing.
    pub(crate) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut seen = modified(&self.files);
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
            let now = modified(&self.files);
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(key) => {
                    *self.current.write() = key;
                    seen = now;
                    info!("certificate loaded again");
                }
                Err(error) => warn!(error = format!("{error:#}"), "the certificate changed and cannot be used"),
            }
        }
    }
}

fn modified(files: &(PathBuf, PathBuf)) -> [Option<SystemTime>; 2] {
    [&files.0, &files.1].map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
}

fn read(files: &(PathBuf, PathBuf)) -> anyhow::Result<Arc<CertifiedKey>> {
    let shown = |path: &Path| path.display().to_string();
    let chain = CertificateDer::pem_file_iter(&files.0)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| shown(&files.0))?;
    let key = PrivateKeyDer::from_pem_file(&files.1).with_context(|| shown(&files.1))?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .with_context(|| format!("{} and {} do not fit", shown(&files.0), shown(&files.1)))?;
    Ok(Arc::new(certified))
}

/// A certificate for localhost, kept between starts.
fn make_for_trials(state: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let files = (state.join("trial-certificate.pem"), state.join("trial-key.pem"));
    if files.0.exists() && files.1.exists() {
        return Ok(files);
    }
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    write_private(&files.1, made.signing_key.serialize_pem().as_bytes())?;
    std::fs::write(&files.0, made.cert.pem())?;
    info!("made a certificate for local trials; browsers will warn about it");
    Ok(files)
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}
