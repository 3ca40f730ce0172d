//! Assembly: configuration, listeners, shutdown. Everything that the binary does and tests start.

pub mod config;
mod event_follower;
mod local;
mod passed_sockets;
mod server;
mod stream_metrics;
mod tls;
pub mod webhooks;

pub use local::{Local, LocalClient, LocalError};
pub use passed_sockets::PassedSockets;
pub use server::{Addresses, Server, StateLock};
