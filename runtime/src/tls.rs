//! TLS of a guest, which is `https` and `wasi:tls`: whom it trusts.
//!
//! A guest that was given certificate authorities ([`Authorities`]) trusts these and nobody else; one that
//! was not trusts Mozilla's, which are built in. They are read when the first connection is made, as most
//! guests make none. If nothing can be read nobody is trusted.

use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_tls::{Error, TlsProvider, TlsStream, TlsTransport};

use crate::Authorities;

/// The largest file of authorities, in bytes. Mozilla's are 200 KB.
const MAX_FILE: u64 = 16 << 20;

/// Whom a guest trusts. Clones share what was read.
#[derive(Clone)]
pub(crate) struct Trust(Arc<Trusted>);

struct Trusted {
    authorities: Authorities,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Trust {
    /// Reads nothing yet.
    pub(crate) fn new(authorities: Authorities) -> Self {
        Self(Arc::new(Trusted {
            authorities,
            config: OnceLock::new(),
        }))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let Trusted {
            authorities,
            config,
        } = &*self.0;
        config.get_or_init(|| make(authorities)).clone()
    }
}

fn make(authorities: &Authorities) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::File(file) => {
            let certificates = read(file)
                .map_err(|error| format!("cannot read the certificate authorities: {error}"))?;
            // What is no certificate, or one that is not understood, is nobody to trust.
            let certificates = CertificateDer::pem_slice_iter(&certificates).flatten();
            roots.add_parsable_certificates(certificates);
        }
        Authorities::Nobody => {}
        Authorities::BuiltIn => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    if roots.is_empty() {
        return Err("there are no certificate authorities to trust".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = config.with_root_certificates(roots);
    Ok(Arc::new(config.with_no_client_auth()))
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

impl TlsProvider for Trust {
    fn connect(
        &self,
        server: String,
        transport: Box<dyn TlsTransport>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<dyn TlsStream>, Error>> + Send>> {
        let config = self.config();
        Box::pin(async move {
            let config = config.map_err(Error::msg)?;
            let server =
                ServerName::try_from(server).map_err(|_| Error::msg("that is no server's name"))?;
            let connecting = TlsConnector::from(config).connect(server, transport);
            let stream = connecting.await?;
            Ok(Box::new(Encrypted(stream)) as Box<dyn TlsStream>)
        })
    }
}

/// A connection that is encrypted.
struct Encrypted(tokio_rustls::client::TlsStream<Box<dyn TlsTransport>>);

impl TlsStream for Encrypted {}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
