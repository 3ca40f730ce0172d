//! C0–C2 and S0–S2: RTMP 1.0 §5.2, and the form with digests that Flash-era encoders use.

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::Violation;

/// Length of C1, C2, S1 and S2. spec: RTMP 1.0 §5.2.3
const PACKET: usize = 1536;
const DIGEST: usize = 32;
const PLAYER_KEY: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001";
/// Appended to either key where a whole packet is signed.
const CRUD: [u8; 32] = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57, 0x6e, 0xec, 0x5d,
    0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];

/// Collects the peer's packets and answers them.
#[derive(Debug)]
pub(crate) struct Handshake {
    received: Vec<u8>,
    answered: bool,
    nonce: [u8; 32],
}

impl Handshake {
    /// `nonce` is fresh randomness from the owner.
    pub(crate) fn new(nonce: [u8; 32]) -> Self {
        Self { received: Vec::new(), answered: false, nonce }
    }

    /// Server side: takes bytes from the front of `input`, appends what to send to `out`, says whether it is done.
    pub(crate) fn serve(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Result<bool, Violation> {
        if !self.collect(input, 1 + PACKET)? {
            return Ok(false);
        }
        if !self.answered {
            self.answered = true;
            let c1 = self.received.get(1..).unwrap_or_default().to_vec();
            out.put_u8(3);
            answer(&c1, self.nonce, out);
        }
        self.collect(input, 1 + 2 * PACKET) // C2 carries nothing that matters
    }

    /// Client side: what to send first.
    pub(crate) fn hello(&self, out: &mut BytesMut) {
        out.put_u8(3);
        out.put_slice(&signed_packet(self.nonce, PLAYER_KEY, [9, 0, 124, 2]));
    }

    /// Client side: as [`Self::serve`]. Echoes S1 in C2, signed where the server signed.
    pub(crate) fn greet(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Result<bool, Violation> {
        if !self.collect(input, 1 + PACKET)? {
            return Ok(false);
        }
        if !self.answered {
            self.answered = true;
            let s1 = self.received.get(1..).unwrap_or_default();
            match find_digest(s1, SERVER_KEY) {
                Some(digest) => out.put_slice(&reply(self.nonce, PLAYER_KEY, &digest)),
                None => out.put_slice(s1),
            }
        }
        self.collect(input, 1 + 2 * PACKET)
    }

    /// Moves bytes until `total` have been received; checks the version byte as soon as it is there.
    fn collect(&mut self, input: &mut &[u8], total: usize) -> Result<bool, Violation> {
        let (head, rest) = input.split_at(input.len().min(total.saturating_sub(self.received.len())));
        self.received.extend_from_slice(head);
        *input = rest;
        match self.received.first() {
            // spec: RTMP 1.0 §5.2.2
            Some(&got) if got != 3 => Err(Violation::HandshakeVersion { got }),
            _ => Ok(self.received.len() >= total),
        }
    }
}

/// S1 and S2 for `c1`: with digests if it carries a valid one, else random and echo.
fn answer(c1: &[u8], nonce: [u8; 32], out: &mut BytesMut) {
    let digest = if c1.get(4..8) == Some(&[0; 4]) { None } else { find_digest(c1, PLAYER_KEY) };
    match digest {
        Some(digest) => {
            out.put_slice(&signed_packet(nonce, SERVER_KEY, [4, 5, 0, 1]));
            out.put_slice(&reply(nonce, SERVER_KEY, &digest));
        }
        None => {
            out.put_slice(&[0; 8]);
            out.put_slice(random(nonce, 0).get(8..).unwrap_or_default());
            out.put_slice(c1);
        }
    }
}

/// A packet with a time, a version and a digest of itself at the place of scheme 0.
fn signed_packet(nonce: [u8; 32], key: &[u8], version: [u8; 4]) -> Bytes {
    let mut packet = random(nonce, 0);
    if let Some(head) = packet.get_mut(..8) {
        head.copy_from_slice(&[0, 0, 0, 0, version[0], version[1], version[2], version[3]]);
    }
    let place = digest_place(&packet, 8).unwrap_or(12);
    let digest = digest_around(&packet, place, key);
    if let Some(field) = packet.get_mut(place..place + DIGEST) {
        field.copy_from_slice(&digest);
    }
    packet.into()
}

/// C2 or S2 in the form with digests: random bytes, signed with a key made from the peer's digest.
fn reply(nonce: [u8; 32], key: &[u8], peer_digest: &[u8]) -> Bytes {
    let mut packet = random(nonce, 1);
    packet.truncate(PACKET - DIGEST);
    let key = hmac(&[key, &CRUD].concat(), &[peer_digest]);
    let signature = hmac(&key, &[&packet]);
    packet.extend_from_slice(&signature);
    packet.into()
}

/// The digest in `packet` if it is valid under one of the two layouts.
fn find_digest(packet: &[u8], key: &[u8]) -> Option<[u8; DIGEST]> {
    [8, 772].into_iter().find_map(|pointer| {
        let place = digest_place(packet, pointer)?;
        let found = packet.get(place..place + DIGEST)?;
        let digest = digest_around(packet, place, key);
        (found == digest).then_some(digest)
    })
}

fn digest_place(packet: &[u8], pointer: usize) -> Option<usize> {
    let sum: usize = packet.get(pointer..pointer + 4)?.iter().map(|byte| usize::from(*byte)).sum();
    Some(sum % 728 + pointer + 4)
}

fn digest_around(packet: &[u8], place: usize, key: &[u8]) -> [u8; DIGEST] {
    hmac(key, &[packet.get(..place).unwrap_or_default(), packet.get(place + DIGEST..).unwrap_or_default()])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// 1,536 bytes that follow from the nonce.
fn random(nonce: [u8; 32], stream: u8) -> Vec<u8> {
    let block = |index: u8| Sha256::new().chain_update(nonce).chain_update([stream, index]).finalize();
    (0..48).flat_map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(c1: &[u8]) -> (bool, BytesMut) {
        let mut out = BytesMut::new();
        let mut server = Handshake::new([7; 32]);
        let hello = [&[3], c1, &[0; PACKET]].concat();
        let done = server.serve(&mut &hello[..], &mut out).expect("valid");
        (done, out)
    }

    #[test]
    fn simple_form_echoes_c1() {
        let c1: Vec<u8> = [&[0; 8][..], &[0x55; PACKET - 8]].concat();
        let (done, out) = run(&c1);
        assert!(done);
        assert_eq!(out.len(), 1 + 2 * PACKET, "the answer is never larger than what was asked");
        assert_eq!(out[1 + PACKET..], c1[..]);
    }

    #[test]
    fn digest_form_is_answered_with_a_digest_the_client_accepts() {
        let client = Handshake::new([9; 32]);
        let mut hello = BytesMut::new();
        client.hello(&mut hello);
        let (_, out) = run(&hello[1..]);

        assert!(find_digest(&out[1..=PACKET], SERVER_KEY).is_some());
        let c1_digest = find_digest(&hello[1..], PLAYER_KEY).expect("signed");
        let key = hmac(&[SERVER_KEY, &CRUD].concat(), &[&c1_digest]);
        let s2 = &out[1 + PACKET..];
        assert_eq!(s2[PACKET - DIGEST..], hmac(&key, &[&s2[..PACKET - DIGEST]]));
    }

    #[test]
    fn nothing_is_answered_before_c1_is_complete() {
        let mut out = BytesMut::new();
        let mut server = Handshake::new([0; 32]);
        let mut half = &[3u8; PACKET][..];
        assert_eq!(server.serve(&mut half, &mut out), Ok(false));
        assert!(out.is_empty());
    }

    #[test]
    fn another_protocol_is_told_apart_at_its_first_byte() {
        let mut out = BytesMut::new();
        let result = Handshake::new([0; 32]).serve(&mut &b"GET / HTTP/1.1"[..], &mut out);
        assert_eq!(result, Err(Violation::HandshakeVersion { got: b'G' }));
    }
}
