//! RTMP, Enhanced RTMP included: server and client sessions that are told bytes and time and asked what to do.
//!
//! | Subject | Specification |
//! | --- | --- |
//! | handshake, chunks, control messages, commands | Adobe RTMP 1.0 (December 2012) §5–7 |
//! | values | AMF 0 (December 2007) |
//! | FourCC, multitrack, nanoseconds | Enhanced RTMP v2 |
//!
//! The session with digest (C1 and S1 carry an HMAC) is not in the specification; it is what Flash-era encoders expect.
//!
//! Invariants: no I/O, no clock, no task; a peer's bytes lead to `Err`, never to a panic; every buffer a peer can fill
//! has a limit with a name; one input cut into any pieces gives the same outputs.
//!
//! ```
//! use rtmp::{Input, Output, ServerConfig, ServerSession};
//! use std::time::{Duration, Instant};
//!
//! let now = Instant::now();
//! let mut session = ServerSession::new(now, ServerConfig::default());
//! let Output::Wait(Some(deadline)) = session.poll_output() else { panic!("nothing to say yet") };
//! assert_eq!(deadline, now + Duration::from_secs(5), "the handshake has five seconds");
//! session.handle_input(deadline, Input::Timeout).expect_err("it was silent");
//! ```
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod address;
mod amf0;
mod chunk;
mod client;
mod error;
mod handshake;
mod link;
mod message;
mod server;

pub use address::{Address, AddressError};
pub use amf0::{Value, decode_all as decode_amf0};
pub use client::{ClientCommand, ClientConfig, ClientEvent, ClientInput, ClientSession, Role};
pub use error::{Error, Violation};
pub use link::{Output, Stats};
pub use message::{FrameInfo, Media, Metadata, codec_id};
pub use server::{Command, Event, Input, Rejection, ServerConfig, ServerSession};
