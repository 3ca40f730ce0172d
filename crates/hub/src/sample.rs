//! The newest of what a leg brought, for whoever decodes it to look at it.

use std::collections::VecDeque;

use media::{AccessUnit, TrackKind};

use crate::ring::Tracks;
use crate::standby::Incoming;

/// Frames of sound that are kept: 5 s at 200 a second, and longer at the usual rates.
const SOUND_MAX: usize = 1000;

/// A picture that decodes alone, and the sound since the sample before.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The leg.
    pub leg: u64,
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
}

impl Newest {
    pub(crate) fn keep(&mut self, incoming: &Incoming) {
        match incoming.unit.track {
            TrackKind::Video if incoming.unit.is_random_access => self.picture = Some(incoming.unit.clone()),
            TrackKind::Video => {}
            // Silence in place of sound is no sound that somebody sends.
            TrackKind::Audio if incoming.is_stand_in => {}
            TrackKind::Audio => {
                if self.sound.len() == SOUND_MAX {
                    self.sound.pop_front();
                }
                self.sound.push_back(incoming.unit.clone());
            }
        }
    }

    /// Another configuration: what is kept cannot be decoded by it.
    pub(crate) fn clear(&mut self, track: TrackKind) {
        match track {
            TrackKind::Video => self.picture = None,
            TrackKind::Audio => self.sound.clear(),
        }
    }

    pub(crate) fn take(&mut self, leg: u64, tracks: &Tracks) -> Sample {
        let Self { picture, sound } = std::mem::take(self);
        Sample { leg, tracks: tracks.clone(), picture, sound: sound.into() }
    }
}
