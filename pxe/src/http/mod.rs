//! The HTTP/1.1 server for scripts, loaders, kernels and initrds.

mod body;
mod config;
mod connection;
pub mod range;
pub mod request;
mod response;
mod service;

pub use config::HttpConfig;
pub use service::Http;

#[cfg(test)]
mod tests;
