//! The handshake's body. spec: draft-sharabayko-srt-01 §3.2.1

use bytes::{BufMut, Bytes, BytesMut};

use crate::crypto::KeyLength;
use crate::packet::{Seq, word};
use crate::stream_id;
use crate::{Error, RejectCode};

/// Version 1.5.4: what this implementation speaks.
pub(crate) const VERSION: u32 = 0x01_05_04;
/// The oldest peer whose AES-GCM is ours: before, libsrt tried another form.
pub(crate) const VERSION_GCM: u32 = 0x01_05_04;
/// The oldest peer: 1.3.0, since when the handshake is what it is. spec: draft-sharabayko-srt-01 §3.2.1
pub(crate) const VERSION_MIN: u32 = 0x01_03_00;
const FIXED_BYTES: usize = 48;
/// What a listener's induction answer has in the extension field.
pub(crate) const MAGIC: u16 = 0x4a17;
const FLAG_HANDSHAKE: u16 = 1;
const FLAG_KEYS: u16 = 2;
const FLAG_CONFIG: u16 = 4;
/// First number of a refusal. spec: draft-sharabayko-srt-01 §3.2.1.4
const FAILURE: u32 = 1000;

const HANDSHAKE_REQUEST: u16 = 1;
const HANDSHAKE_RESPONSE: u16 = 2;
const KEY_REQUEST: u16 = 3;
const KEY_RESPONSE: u16 = 4;
const STREAM_ID: u16 = 5;
const CONGESTION: u16 = 6;
const FILTER: u16 = 7;
const GROUP: u16 = 8;

/// spec: draft-sharabayko-srt-01 §3.2.1.1.1
pub(crate) mod flags {
    pub(crate) const TSBPD_SENDER: u32 = 1;
    pub(crate) const TSBPD_RECEIVER: u32 = 2;
    pub(crate) const CRYPT: u32 = 4;
    pub(crate) const TOO_LATE_DROP: u32 = 8;
    pub(crate) const PERIODIC_NAK: u32 = 16;
    pub(crate) const RETRANSMIT_FLAG: u32 = 32;
    pub(crate) const STREAM: u32 = 64;
    /// What both sides of a live connection have.
    pub(crate) const LIVE: u32 = TSBPD_SENDER | TSBPD_RECEIVER | CRYPT | TOO_LATE_DROP | PERIODIC_NAK | RETRANSMIT_FLAG;
}

/// What a handshake is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Induction,
    /// The first of a rendezvous.
    Wave,
    Conclusion,
    /// The last of a rendezvous.
    Agreement,
    Refused(RejectCode),
}

impl Kind {
    fn value(self) -> u32 {
        match self {
            Self::Induction => 1,
            Self::Wave => 0,
            Self::Conclusion => 0xffff_ffff,
            Self::Agreement => 0xffff_fffe,
            Self::Refused(code) => FAILURE + code.0,
        }
    }
}

/// Latencies and abilities of a peer. spec: draft-sharabayko-srt-01 §3.2.1.1
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    /// Milliseconds that the peer wants as a receiver, and grants as a sender.
    pub(crate) receiver_latency: u16,
    pub(crate) sender_latency: u16,
}

/// That a connection is one of a group which carries the same. SRT-07
/// spec: draft-sharabayko-srt-01 §3.2.1.3.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Identifies the group among those of the peer; has bit 30 set.
    pub id: u32,
    /// 1: broadcast, 2: main and backup; see [`crate::GroupKind`].
    pub kind: u8,
    /// Higher is preferred.
    pub weight: u16,
}

/// A handshake, read or to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) version: u32,
    /// Key length that is offered; an induction answer may say none.
    pub(crate) key_length: Option<KeyLength>,
    pub(crate) extension: u16,
    pub(crate) initial_seq: Seq,
    pub(crate) mtu: u32,
    pub(crate) window: u32,
    pub(crate) kind: Kind,
    pub(crate) socket_id: u32,
    pub(crate) cookie: u32,
    pub(crate) address: [u8; 16],
    pub(crate) request: Option<Abilities>,
    pub(crate) response: Option<Abilities>,
    pub(crate) key_request: Option<Bytes>,
    pub(crate) key_response: Option<Bytes>,
    pub(crate) stream_id: Option<String>,
    /// A packet filter was asked for.
    pub(crate) has_filter: bool,
    /// Another congestion control than that for live streams was asked for.
    pub(crate) is_not_live: bool,
    pub(crate) group: Option<Membership>,
}

impl Handshake {
    pub(crate) fn new(kind: Kind, socket_id: u32, initial_seq: Seq) -> Self {
        Self {
            version: 5,
            key_length: None,
            extension: 0,
            initial_seq,
            mtu: 1500,
            window: 25_600,
            kind,
            socket_id,
            cookie: 0,
            address: [0; 16],
            request: None,
            response: None,
            key_request: None,
            key_response: None,
            stream_id: None,
            has_filter: false,
            is_not_live: false,
            group: None,
        }
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() < FIXED_BYTES {
            return Err(Error::Truncated);
        }
        let field = |at| word(body, at).ok_or(Error::Truncated);
        let kinds = field(4)?;
        let extension = u16::try_from(kinds & 0xffff).unwrap_or(0);
        let kind = match field(20)? {
            0 => Kind::Wave,
            1 => Kind::Induction,
            0xffff_ffff => Kind::Conclusion,
            0xffff_fffe => Kind::Agreement,
            code @ FAILURE..0x8000_0000 => Kind::Refused(RejectCode(code - FAILURE)),
            _ => return Err(Error::Invalid("the type of the handshake")),
        };
        let mut handshake = Self::new(kind, field(24)?, Seq::new(field(8)?));
        handshake.version = field(0)?;
        handshake.key_length = usize::try_from(kinds >> 16).ok().and_then(|words| KeyLength::from_bytes(words * 8));
        handshake.extension = extension;
        (handshake.mtu, handshake.window, handshake.cookie) = (field(12)?, field(16)?, field(28)?);
        handshake.address = body.get(32..48).and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Truncated)?;
        if kind == Kind::Conclusion && handshake.version == 5 {
            handshake.parse_extensions(body.get(FIXED_BYTES..).unwrap_or_default())?;
        }
        Ok(handshake)
    }

    /// spec: draft-sharabayko-srt-01 §3.2.1.1–3.2.1.3
    fn parse_extensions(&mut self, mut rest: &[u8]) -> Result<(), Error> {
        while let Some(head) = word(rest, 0) {
            let kind = u16::try_from(head >> 16).unwrap_or(0);
            let length = usize::try_from(head & 0xffff).unwrap_or(0) * 4;
            let (content, after) =
                rest.get(4..).unwrap_or_default().split_at_checked(length).ok_or(Error::Truncated)?;
            rest = after;
            match kind {
                HANDSHAKE_REQUEST => self.request = Some(parse_abilities(content)?),
                HANDSHAKE_RESPONSE => self.response = Some(parse_abilities(content)?),
                KEY_REQUEST => self.key_request = Some(Bytes::copy_from_slice(content)),
                KEY_RESPONSE => self.key_response = Some(Bytes::copy_from_slice(content)),
                STREAM_ID => {
                    let text = stream_id::from_wire(content).ok_or(Error::Invalid("the stream identifier"))?;
                    self.stream_id = Some(text);
                }
                CONGESTION => self.is_not_live = stream_id::from_wire(content).as_deref() != Some("live"),
                FILTER => self.has_filter = true,
                GROUP => self.group = parse_group(content),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self) -> Bytes {
        let mut extensions = BytesMut::new();
        let mut present = 0;
        for (kind, abilities) in [(HANDSHAKE_REQUEST, &self.request), (HANDSHAKE_RESPONSE, &self.response)] {
            if let Some(abilities) = abilities {
                present |= FLAG_HANDSHAKE;
                put_extension(&mut extensions, kind, |out| {
                    out.put_u32(abilities.version);
                    out.put_u32(abilities.flags);
                    out.put_u16(abilities.receiver_latency);
                    out.put_u16(abilities.sender_latency);
                });
            }
        }
        for (kind, material) in [(KEY_REQUEST, &self.key_request), (KEY_RESPONSE, &self.key_response)] {
            if let Some(material) = material {
                present |= FLAG_KEYS;
                put_extension(&mut extensions, kind, |out| out.put_slice(material));
            }
        }
        if let Some(text) = &self.stream_id {
            present |= FLAG_CONFIG;
            put_extension(&mut extensions, STREAM_ID, |out| out.put_slice(&stream_id::to_wire(text)));
        }
        if let Some(group) = &self.group {
            present |= FLAG_CONFIG;
            put_extension(&mut extensions, GROUP, |out| {
                out.put_u32(group.id);
                out.put_slice(&[group.kind, 0]);
                out.put_u16(group.weight);
            });
        }
        let mut out = BytesMut::with_capacity(FIXED_BYTES + extensions.len());
        out.put_u32(self.version);
        out.put_u16(self.key_length.map_or(0, |length| u16::try_from(length.bytes() / 8).unwrap_or(0)));
        out.put_u16(if present == 0 { self.extension } else { present });
        out.put_u32(self.initial_seq.value());
        out.put_u32(self.mtu);
        out.put_u32(self.window);
        out.put_u32(self.kind.value());
        out.put_u32(self.socket_id);
        out.put_u32(self.cookie);
        out.put_slice(&self.address);
        out.put_slice(&extensions);
        out.freeze()
    }
}

fn put_extension(out: &mut BytesMut, kind: u16, body: impl FnOnce(&mut BytesMut)) {
    let mut content = BytesMut::new();
    body(&mut content);
    out.put_u16(kind);
    out.put_u16(u16::try_from(content.len() / 4).unwrap_or(u16::MAX));
    out.put_slice(&content);
}

fn parse_abilities(content: &[u8]) -> Result<Abilities, Error> {
    let (Some(version), Some(flags), Some(latencies)) = (word(content, 0), word(content, 4), word(content, 8)) else {
        return Err(Error::Truncated);
    };
    let half = |value| u16::try_from(value & 0xffff).unwrap_or(0);
    Ok(Abilities { version, flags, receiver_latency: half(latencies >> 16), sender_latency: half(latencies) })
}

fn parse_group(content: &[u8]) -> Option<Membership> {
    let (id, rest) = (word(content, 0)?, word(content, 4)?);
    Some(Membership { id, kind: u8::try_from(rest >> 24).ok()?, weight: u16::try_from(rest & 0xffff).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Handshake {
        let abilities = Abilities { version: VERSION, flags: flags::LIVE, receiver_latency: 120, sender_latency: 80 };
        Handshake {
            key_length: Some(KeyLength::Aes256),
            extension: FLAG_HANDSHAKE | FLAG_KEYS | FLAG_CONFIG,
            request: Some(abilities),
            key_request: Some(Bytes::from_static(b"12345678")),
            stream_id: Some("#!::r=live/show".into()),
            group: Some(Membership { id: 7, kind: 1, weight: 3 }),
            cookie: 9,
            ..Handshake::new(Kind::Conclusion, 77, Seq::new(5))
        }
    }

    #[test]
    fn a_handshake_reads_back() {
        assert_eq!(Handshake::parse(&full().write()), Ok(full()));
        let refused = Handshake::new(Kind::Refused(RejectCode::UNAUTHORIZED), 1, Seq::new(1));
        assert_eq!(refused.kind.value(), 2401, "SRT-02: 1000 for a refusal, 1000 for its own codes, 401");
        assert_eq!(Handshake::parse(&refused.write()), Ok(refused));
    }

    #[test]
    fn every_cut_is_an_error_or_has_less_in_it() {
        let whole = full().write();
        for end in 0..whole.len() {
            let cut = Handshake::parse(&whole[..end]);
            assert!(cut.as_ref().is_err() || cut != Ok(full()), "{end} bytes");
            assert!(end >= FIXED_BYTES || cut.is_err());
        }
    }
}
