//! Timeline, program and packager together, in virtual time: the playlists always keep the rules.

mod days;
mod golden;
mod random;
mod rules;
mod world;
