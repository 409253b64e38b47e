//! Sockets, TLS, HTTP plumbing; knows nothing of the product.

pub mod server;
pub mod upstream;
