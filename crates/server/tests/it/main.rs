//! End to end: the server as production starts it, real encoders, real browsers, on loopback.

mod browser;
mod delivery;
mod encoders;
mod lifecycle;
mod operations;
mod refusals;
mod rig;
