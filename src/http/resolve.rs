//! Names of hosts. Thousands of connections to one host ask for its addresses once.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

/// How long an answer is used.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Resolver {
    asked: Mutex<HashMap<String, Arc<OnceCell<Asked>>>>,
}

#[derive(Debug)]
struct Asked {
    found: Result<Vec<SocketAddr>, String>,
    at: Instant,
}

impl Resolver {
    /// The addresses of a host, in the order in which the system would try them.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let cell = self.cell(host, port);
        let asked = cell.get_or_init(|| async {
            let found = tokio::net::lookup_host((host, port)).await;
            Asked {
                found: found
                    .map(Iterator::collect)
                    .map_err(|error| error.to_string()),
                at: Instant::now(),
            }
        });
        match &asked.await.found {
            Ok(addresses) => Ok(addresses.clone()),
            Err(said) => Err(io::Error::other(said.clone())),
        }
    }

    /// The question that is being asked, or was answered a moment ago.
    fn cell(&self, host: &str, port: u16) -> Arc<OnceCell<Asked>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = asked.entry(format!("{host}:{port}")).or_default();
        let over = |asked: &Asked| asked.found.is_err() || asked.at.elapsed() > FRESH;
        if cell.get().is_some_and(over) {
            *cell = Arc::default();
        }
        Arc::clone(cell)
    }
}
