//! The newest of what a leg brought, for whoever decodes it to look at it.

use std::collections::VecDeque;

use media::{AccessUnit, TrackKind};

use crate::ring::Tracks;
use crate::standby::Incoming;

/// Frames of sound that are kept: 5 s at 200 a second, and longer at the usual rates.
const SOUND_MAX: usize = 1000;
/// Most bytes of them: 30 s at 1 Mbit/s.
const SOUND_BYTES_MAX: usize = 4 << 20;

/// A picture that decodes alone, and the sound since the sample before.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The leg.
    pub leg: u64,
    /// It is not silent.
    pub delivers: bool,
    /// How the units are coded.
    pub tracks: Tracks,
    /// The newest random access point, where one came since the sample before.
    pub picture: Option<AccessUnit>,
    /// Frames of sound without a gap that is known, the oldest first.
    pub sound: Vec<AccessUnit>,
}

/// What waits to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    picture: Option<AccessUnit>,
    sound: VecDeque<AccessUnit>,
    sound_bytes: usize,
}

impl Newest {
    pub(crate) fn keep(&mut self, incoming: &Incoming) {
        match incoming.unit.track {
            TrackKind::Video if incoming.unit.is_random_access => self.picture = Some(incoming.unit.clone()),
            TrackKind::Video => {}
            // Silence in place of sound is no sound that somebody sends.
            TrackKind::Audio if incoming.is_stand_in => {}
            TrackKind::Audio => {
                self.sound_bytes += incoming.unit.payload.len();
                self.sound.push_back(incoming.unit.clone());
                while self.sound.len() > SOUND_MAX || self.sound_bytes > SOUND_BYTES_MAX {
                    let Some(oldest) = self.sound.pop_front() else { break };
                    self.sound_bytes -= oldest.payload.len();
                }
            }
        }
    }

    /// Another configuration: what is kept cannot be decoded by it.
    pub(crate) fn clear(&mut self, track: TrackKind) {
        match track {
            TrackKind::Video => self.picture = None,
            TrackKind::Audio => (self.sound, self.sound_bytes) = (VecDeque::new(), 0),
        }
    }

    pub(crate) fn take(&mut self, leg: u64, delivers: bool, tracks: &Tracks) -> Sample {
        let Self { picture, sound, .. } = std::mem::take(self);
        Sample { leg, delivers, tracks: tracks.clone(), picture, sound: sound.into() }
    }
}
