//! End to end: the server as production starts it, real encoders, real browsers, on loopback.

mod browser;
mod conformance;
mod continuity;
mod delivery;
mod dialogues;
mod encoders;
mod fetching;
mod lifecycle;
mod limits;
mod operations;
mod operator;
mod playback;
mod refusals;
mod rig;
mod sampling;
mod sources;
mod srt;
mod viewing;
