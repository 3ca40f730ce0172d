//! What tests share: a playlist reader that knows the rules, a small HTTP client, real programs, a scripted publisher.

pub mod http;
pub mod playlist;
pub mod programs;
pub mod publisher;
