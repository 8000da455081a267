//! Connections: to a server, to a proxy, and through it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::exchange;
use super::failure::{Failure, Phase};
use super::request::{Origin, connect_request};
use super::resolve::Resolver;
use super::stream::Stream;
use super::tls::{self, Trust};
use crate::memory::Buffer;

/// After so long without a connection the next address of a host is tried beside the one before.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A proxy for every connection.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Whether it is spoken to in TLS.
    pub https: bool,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The value of the header that it wants.
    pub authorization: Option<String>,
}

/// How connections are opened.
#[derive(Debug)]
pub struct Wiring {
    /// For one connection, its tunnel and its handshake.
    pub timeout: Duration,
    /// Bytes of the head with which a proxy answers.
    pub max_head: u64,
    /// A proxy, or none.
    pub proxy: Option<Proxy>,
    /// For https.
    pub trust: Trust,
}

#[derive(Debug)]
pub(super) struct Connector {
    wiring: Wiring,
    resolver: Resolver,
    tls: OnceCell<Result<Arc<ClientConfig>, String>>,
}

impl Connector {
    pub(super) fn new(wiring: Wiring) -> Self {
        Self {
            wiring,
            resolver: Resolver::default(),
            tls: OnceCell::new(),
        }
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.wiring.proxy.as_ref()
    }

    /// A connection to the server, on which nothing was sent to it.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Stream, Failure> {
        let seconds = self.wiring.timeout.as_secs_f64();
        match timeout(self.wiring.timeout, self.open(origin)).await {
            Ok(opened) => opened,
            Err(_) => Err(failed(format!("no connection within {seconds} s"))),
        }
    }

    async fn open(&self, origin: &Origin) -> Result<Stream, Failure> {
        let stream = match &self.wiring.proxy {
            None => self.dial(&origin.host, origin.port).await?,
            Some(proxy) => {
                let mut stream = self.dial(&proxy.host, proxy.port).await?;
                if proxy.https {
                    stream = self.secure(stream, &proxy.host).await?;
                }
                if origin.https {
                    self.tunnel(&mut stream, origin).await?;
                }
                stream
            }
        };
        match origin.https {
            true => self.secure(stream, &origin.host).await,
            false => Ok(stream),
        }
    }

    async fn dial(&self, host: &str, port: u16) -> Result<Stream, Failure> {
        let addresses = self.resolver.addresses(host, port).await;
        let addresses = addresses.map_err(|error| failed(format!("no address: {error}")))?;
        let tcp = first(addresses).await;
        let tcp = tcp.map_err(|error| failed(format!("no connection: {error}")))?;
        tcp.set_nodelay(true)
            .map_err(|error| failed(format!("no connection: {error}")))?;
        Ok(Stream::Tcp(tcp))
    }

    async fn secure(&self, stream: Stream, host: &str) -> Result<Stream, Failure> {
        // Reading the system's certificates takes tens of milliseconds.
        let config = self.tls.get_or_init(|| async {
            let trust = self.wiring.trust.clone();
            let read = spawn_blocking(move || tls::config(&trust)).await;
            read.unwrap_or_else(|error| Err(error.to_string()))
        });
        let config = config.await.clone().map_err(failed)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| failed("the host's name cannot be part of a certificate"))?;
        let secured = TlsConnector::from(config).connect(name, stream).await;
        let secured = secured.map_err(|error| failed(format!("no TLS connection: {error}")))?;
        Ok(Stream::Tls(Box::new(secured)))
    }

    /// Asks the proxy for a tunnel to the server.
    async fn tunnel(&self, stream: &mut Stream, origin: &Origin) -> Result<(), Failure> {
        let request = connect_request(origin, self.wiring.proxy.as_ref().expect("asked of one"))
            .map_err(failed)?;
        let sent = async {
            stream.write_all(&request).await?;
            stream.flush().await
        };
        sent.await
            .map_err(|error| failed(format!("the proxy did not take a request: {error}")))?;
        let answered = exchange::read_head(stream, Buffer::new(), self.wiring.max_head).await;
        let (head, inbox) = answered.map_err(|failure| Failure {
            phase: Phase::Connect,
            ..failure
        })?;
        if !(200..300).contains(&head.status) {
            let status = head.status;
            return Err(failed(format!(
                "the proxy refused a tunnel with HTTP {status}"
            )));
        }
        match inbox.is_empty() {
            true => Ok(()),
            false => Err(failed("the proxy sent more than its answer")),
        }
    }
}

fn failed(said: impl Into<String>) -> Failure {
    Failure::new(Phase::Connect, said)
}

/// The first of these addresses that a connection comes about with.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [address] = addresses[..] {
        return TcpStream::connect(address).await;
    }
    let mut failure = io::Error::other("the host has no address");
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        let patience = match addresses.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                NEXT_ADDRESS
            }
            None if attempts.is_empty() => return Err(failure),
            None => Duration::MAX,
        };
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(Some(Err(error))) => failure = error.into(),
            Ok(None) | Err(_) => {}
        }
    }
}
