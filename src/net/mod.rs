//! Sockets, TLS, HTTP plumbing; knows nothing of the product.

pub mod authority;
pub mod server;
pub mod upstream;
