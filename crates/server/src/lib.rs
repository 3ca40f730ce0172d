//! Assembly: configuration, listeners, shutdown. Everything that the binary does and tests start.

pub mod config;
mod event_follower;
mod local;
mod server;
mod stream_metrics;
mod tls;
pub mod webhooks;

pub use local::{Local, LocalClient, LocalError};
pub use server::{Addresses, Server, StateLock};
