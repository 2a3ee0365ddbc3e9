//! Whom a container's TLS trusts: the authorities of its image.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

cases![the_containers_authorities_are_trusted];

/// An authority, and a server's certificate of it and key (runtime/tests/all/tls.rs).
const AUTHORITY: &[u8] = include_bytes!("../../../runtime/tests/tls/authority.pem");
const SERVER: &[u8] = include_bytes!("../../../runtime/tests/tls/server.pem");
const KEY: &[u8] = include_bytes!("../../../runtime/tests/tls/server.key");

/// Answers one request of `https`, if there is a handshake.
fn encrypted_server() -> Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let certificate = CertificateDer::from_pem_slice(SERVER)?;
    let key = PrivateKeyDer::from_pem_slice(KEY)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let connection = ServerConnection::new(Arc::new(config))?;
    let answering = std::thread::spawn(move || {
        let (tcp, _) = listener.accept()?;
        let mut stream = StreamOwned::new(connection, tcp);
        let count = stream.read(&mut [0; 4096])?;
        let length = if count > 0 { 5 } else { 0 };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello"
        )?;
        stream.flush()
    });
    Ok((address, answering))
}

fn the_containers_authorities_are_trusted(containerd: &Containerd) -> Result<()> {
    let image = |name: &str, path: &str, authority: &[u8]| -> Result<Image> {
        let image = Image::new(&format!("worlds-tls-{name}:1"))
            .platform("wasi", "wasm")
            .file("/app.wasm", guests::named("fetch")?)
            .file(path, authority)
            .entrypoint(["/app.wasm"]);
        containerd.import(&image)?;
        Ok(image)
    };
    let usual = image("usual", "/etc/ssl/certs/ca-certificates.crt", AUTHORITY)?;
    let own = image("own", "/own.pem", AUTHORITY)?;
    let ask = |image: &Image, id: &str, variable: Option<&str>| {
        let (address, answering) = encrypted_server()?;
        let authority = address.to_string();
        let mut run = containerd.run(image, id).flag("--net-host").args([
            "/app.wasm",
            "https",
            &authority,
            "/",
        ]);
        if let Some(path) = variable {
            run = run.env("SSL_CERT_FILE", path);
        }
        let output = run.output()?;
        let answered = answering.join().ok().context("the server panicked")?;
        anyhow::Ok((output, answered.is_ok()))
    };
    for (image, id, variable) in [
        (&usual, "tls-usual", None),
        (&own, "tls-own", Some("/own.pem")),
    ] {
        let (output, answered) = ask(image, id, variable)?;
        let output = output.success()?;
        ensure!(output.stdout.ends_with("hello") && answered, "{output}");
    }
    for (image, id, variable) in [
        (&own, "tls-built-in", None),
        (&usual, "tls-nobody", Some("/missing.pem")),
    ] {
        let (output, answered) = ask(image, id, variable)?;
        ensure!(output.status == 1 && !answered, "{output}");
        ensure!(output.stderr.contains("TlsProtocolError"), "{output}");
    }
    Ok(())
}
