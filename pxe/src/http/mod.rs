//! The HTTP/1.1 server for scripts, loaders, kernels and initrds.

mod config;

pub use config::HttpConfig;
