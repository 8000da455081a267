//! An HTTP/1.1 client: connections, TLS, and answers that are received where they will be decoded.
//!
//! An [`Engine`] sends a request once, follows no redirect and does not decompress. All of its connections live on one
//! thread of the process, which knows no Python.

mod call;
mod chunks;
mod connect;
mod engine;
mod exchange;
mod failure;
mod head;
mod low_water;
mod mailbox;
mod pool;
mod receive;
mod request;
mod resolve;
mod runtime;
mod stream;
mod tls;

pub use call::{Call, Next};
pub use connect::{Proxy, Wiring};
pub use engine::{Engine, NotBegun};
pub use exchange::{Answer, Ceilings};
pub use failure::{Failure, Fault, Phase};
pub use head::Head;
pub use mailbox::Mailbox;
pub use request::{Request, Wanted};
pub use tls::{Roots, Trust};
