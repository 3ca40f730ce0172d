//! Keys and payload encryption. spec: draft-sharabayko-srt-01 §6, §3.2.2

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use bytes::{BufMut, Bytes, BytesMut};

use crate::packet::{HEADER_BYTES, Seq};

/// spec: draft-sharabayko-srt-01 §6.1.3
const ITERATIONS: NonZeroU32 = NonZeroU32::new(2048).expect("not zero");
const SALT_BYTES: usize = 16;
/// Bytes of a key material message before the salt.
const MATERIAL_HEADER_BYTES: usize = 16;

/// A passphrase: 10 to 79 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Box<[u8]>);

/// The passphrase has not 10 to 79 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SRT passphrase has 10 to 79 bytes, not {0}")]
pub struct PassphraseError(usize);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl Passphrase {
    /// # Errors
    /// It is too short or too long. SRT-03
    pub fn new(text: &str) -> Result<Self, PassphraseError> {
        match text.len() {
            10..=79 => Ok(Self(text.as_bytes().into())),
            other => Err(PassphraseError(other)),
        }
    }
}

/// Length of the key that encrypts the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyLength {
    /// 128 bits.
    #[default]
    Aes128,
    /// 192 bits.
    Aes192,
    /// 256 bits.
    Aes256,
}

impl KeyLength {
    /// In bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// From the number of bytes.
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        [Self::Aes128, Self::Aes192, Self::Aes256].into_iter().find(|length| length.bytes() == bytes)
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128,
            Self::Aes192 => &AES_192,
            Self::Aes256 => &AES_256,
        }
    }
}

/// How the media is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cipher {
    /// AES in counter mode: hides, and does not show what was changed on the way.
    #[default]
    AesCtr,
    /// AES-GCM, 16 bytes more a packet: what was changed on the way is thrown away. Peers from 1.5.4 on.
    AesGcm,
}

impl Cipher {
    /// Cipher and authentication in key material.
    fn wire(self) -> (u8, u8) {
        match self {
            Self::AesCtr => (2, 0),
            Self::AesGcm => (4, 1),
        }
    }

    /// Bytes that a packet gets longer.
    pub(crate) fn tag_bytes(self) -> usize {
        match self {
            Self::AesCtr => 0,
            Self::AesGcm => 16,
        }
    }
}

/// Why key material cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaterialError {
    /// It is damaged, or asks for what is not supported.
    Invalid,
    /// It was wrapped with another passphrase.
    WrongPassphrase,
}

/// The key of one parity.
struct MediaKey {
    bytes: Box<[u8]>,
    key: Key,
}

enum Key {
    Ctr(Box<EncryptingKey>),
    Gcm(LessSafeKey),
}

/// The keys of one direction: what encrypts the media, and the salt.
pub(crate) struct Keys {
    salt: [u8; SALT_BYTES],
    length: KeyLength,
    cipher: Cipher,
    /// Even, odd.
    by_parity: [Option<MediaKey>; 2],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("length", &self.length).finish_non_exhaustive()
    }
}

fn media_key(cipher: Cipher, length: KeyLength, bytes: &[u8]) -> Option<MediaKey> {
    let key = match cipher {
        Cipher::AesCtr => {
            Key::Ctr(Box::new(EncryptingKey::ctr(UnboundCipherKey::new(length.algorithm(), bytes).ok()?).ok()?))
        }
        Cipher::AesGcm => {
            let algorithm = match length {
                KeyLength::Aes128 => &AES_128_GCM,
                KeyLength::Aes192 => &AES_192_GCM,
                KeyLength::Aes256 => &AES_256_GCM,
            };
            Key::Gcm(LessSafeKey::new(UnboundKey::new(algorithm, bytes).ok()?))
        }
    };
    Some(MediaKey { bytes: bytes.into(), key })
}

impl Keys {
    /// One key, for even packets, and a salt.
    pub(crate) fn generate(cipher: Cipher, length: KeyLength) -> Option<Self> {
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).ok()?;
        let mut keys = Self { salt, length, cipher, by_parity: [None, None] };
        keys.renew(0)?;
        Some(keys)
    }

    /// Makes a new key of this parity: 0 even, 1 odd.
    pub(crate) fn renew(&mut self, parity: usize) -> Option<()> {
        let mut bytes = vec![0; self.length.bytes()];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        *self.by_parity.get_mut(parity)? = Some(media_key(self.cipher, self.length, &bytes)?);
        Some(())
    }

    pub(crate) fn length(&self) -> KeyLength {
        self.length
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    fn key(&self, flag: u8) -> Option<&Key> {
        let parity = match flag {
            1 => 0,
            2 => 1,
            _ => return None,
        };
        self.by_parity.get(parity)?.as_ref().map(|key| &key.key)
    }

    /// Encrypts in place what follows the header, which is as it goes out but for the mark of a repeated packet; `false` if
    /// there is no key of that parity.
    pub(crate) fn encrypt(&self, flag: u8, seq: Seq, header: [u8; HEADER_BYTES], payload: &mut BytesMut) -> bool {
        match self.key(flag) {
            None => false,
            Some(Key::Ctr(key)) => self.apply(key, seq, payload),
            Some(Key::Gcm(key)) => {
                let sealed = key.seal_in_place_separate_tag(self.nonce(seq), Aad::from(header), payload);
                sealed.map(|tag| payload.extend_from_slice(tag.as_ref())).is_ok()
            }
        }
    }

    /// Decrypts in place; `false` if there is no key of that parity, or where the packet is not as it was sent.
    pub(crate) fn decrypt(&self, flag: u8, seq: Seq, header: [u8; HEADER_BYTES], payload: &mut Vec<u8>) -> bool {
        match self.key(flag) {
            None => false,
            Some(Key::Ctr(key)) => self.apply(key, seq, payload),
            Some(Key::Gcm(key)) => {
                let opened = key.open_in_place(self.nonce(seq), Aad::from(header), payload).map(|plain| plain.len());
                opened.map(|length| payload.truncate(length)).is_ok()
            }
        }
    }

    /// As libsrt has it since 1.5.4: the salt's first 96 bits, the packet's number in the last four bytes of them.
    fn nonce(&self, seq: Seq) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        let numbered = [0; NONCE_LEN - 4].into_iter().chain(seq.value().to_be_bytes());
        for ((place, salt), number) in nonce.iter_mut().zip(self.salt).zip(numbered) {
            *place = salt ^ number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts or decrypts in counter mode, which is the same.
    ///
    /// spec: draft-sharabayko-srt-01 §6.2.2: the salt's first 112 bits, the packet's number in the last four bytes of them
    fn apply(&self, key: &EncryptingKey, seq: Seq, payload: &mut [u8]) -> bool {
        let mut block = self.salt;
        let [.., a, b, c, d, last, least] = &mut block;
        for (place, byte) in [a, b, c, d].into_iter().zip(seq.value().to_be_bytes()) {
            *place ^= byte;
        }
        (*last, *least) = (0, 0);
        let context = EncryptionContext::Iv128(FixedLength::from(block));
        key.less_safe_encrypt(payload, context).is_ok()
    }

    /// Writes the message that carries the keys that are there.
    pub(crate) fn material(&self, passphrase: &Passphrase) -> Option<Bytes> {
        let mut joined = Vec::new();
        let mut flags = 0;
        for (parity, key) in (0u8..).zip(&self.by_parity) {
            if let Some(key) = key {
                flags |= 1 << parity;
                joined.extend_from_slice(&key.bytes);
            }
        }
        let wrapped = wrap(&kek(passphrase, &self.salt, self.length), self.length, &joined)?;
        let mut out = BytesMut::new();
        out.put_slice(&[0x12, 0x20, 0x29, flags]); // version 1, key material, signature "HAI"
        out.put_u32(0); // key encryption key: by passphrase
        let (cipher, authentication) = self.cipher.wire();
        out.put_slice(&[cipher, authentication, 2, 0, 0, 0]); // 2: MPEG-TS over SRT
        out.put_u8(u8::try_from(SALT_BYTES / 4).ok()?);
        out.put_u8(u8::try_from(self.length.bytes() / 4).ok()?);
        out.put_slice(&self.salt);
        out.put_slice(&wrapped);
        Some(out.freeze())
    }

    /// Reads a message with keys. spec: draft-sharabayko-srt-01 §3.2.2
    pub(crate) fn read(material: &[u8], passphrase: &Passphrase) -> Result<Self, MaterialError> {
        let &[0x12, 0x20, 0x29, flags, _, _, _, _, cipher, auth, _, _, _, _, salt_words, key_words, ref rest @ ..] =
            material
        else {
            return Err(MaterialError::Invalid);
        };
        debug_assert_eq!(material.len() - rest.len(), MATERIAL_HEADER_BYTES, "as the pattern says");
        let length = KeyLength::from_bytes(usize::from(key_words) * 4).ok_or(MaterialError::Invalid)?;
        let flags = flags & 3;
        let cipher = [Cipher::AesCtr, Cipher::AesGcm].into_iter().find(|known| known.wire() == (cipher, auth));
        let cipher = cipher.ok_or(MaterialError::Invalid)?;
        if usize::from(salt_words) * 4 != SALT_BYTES || flags == 0 {
            return Err(MaterialError::Invalid);
        }
        let count = usize::from(flags & 1) + usize::from(flags >> 1);
        let (salt, wrapped) = rest.split_at_checked(SALT_BYTES).ok_or(MaterialError::Invalid)?;
        if wrapped.len() != count * length.bytes() + 8 {
            return Err(MaterialError::Invalid);
        }
        let salt: [u8; SALT_BYTES] = salt.try_into().map_err(|_| MaterialError::Invalid)?;
        let joined = unwrap(&kek(passphrase, &salt, length), length, wrapped).ok_or(MaterialError::WrongPassphrase)?;
        let mut keys = Self { salt, length, cipher, by_parity: [None, None] };
        let mut found = joined.chunks_exact(length.bytes());
        for (parity, place) in keys.by_parity.iter_mut().enumerate() {
            if flags >> parity & 1 == 1 {
                *place = found.next().and_then(|bytes| media_key(cipher, length, bytes));
            }
        }
        Ok(keys)
    }

    /// The same keys again, for the other direction.
    pub(crate) fn copy(&self) -> Option<Self> {
        let copied =
            |key: &Option<MediaKey>| key.as_ref().map(|key| media_key(self.cipher, self.length, &key.bytes).ok_or(()));
        let [even, odd] = [0, 1].map(|parity| self.by_parity.get(parity).and_then(copied).transpose());
        Some(Self { by_parity: [even.ok()?, odd.ok()?], ..*self })
    }

    /// The flag of a key that is there.
    pub(crate) fn flag(&self) -> u8 {
        if self.by_parity.first().is_some_and(Option::is_some) { 1 } else { 2 }
    }

    /// Takes over the keys of a later message; those it does not carry stay.
    pub(crate) fn take_over(&mut self, newer: Self) {
        if (newer.salt, newer.length, newer.cipher) != (self.salt, self.length, self.cipher) {
            *self = newer;
            return;
        }
        for (known, new) in self.by_parity.iter_mut().zip(newer.by_parity) {
            if new.is_some() {
                *known = new;
            }
        }
    }
}

/// The key that encrypts keys. spec: draft-sharabayko-srt-01 §6.1.4: with the last 64 bits of the salt
fn kek(passphrase: &Passphrase, salt: &[u8; SALT_BYTES], length: KeyLength) -> Vec<u8> {
    let mut key = vec![0; length.bytes()];
    let [_, _, _, _, _, _, _, _, last @ ..] = salt;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, ITERATIONS, last, &passphrase.0, &mut key);
    key
}

const WRAP_CHECK: u64 = 0xa6a6_a6a6_a6a6_a6a6;

/// spec: RFC 3394 §2.2.1
fn wrap(kek: &[u8], length: KeyLength, plain: &[u8]) -> Option<Vec<u8>> {
    let key = EncryptingKey::ecb(UnboundCipherKey::new(length.algorithm(), kek).ok()?).ok()?;
    let mut blocks: Vec<[u8; 8]> = plain.chunks_exact(8).filter_map(|eight| eight.try_into().ok()).collect();
    let (mut check, mut round) = (WRAP_CHECK, 0u64);
    for _ in 0..6 {
        for block in &mut blocks {
            round += 1;
            let mut both = [check.to_be_bytes(), *block].concat();
            key.less_safe_encrypt(&mut both, EncryptionContext::None).ok()?;
            let (high, low) = both.split_first_chunk::<8>()?;
            check = u64::from_be_bytes(*high) ^ round;
            *block = low.try_into().ok()?;
        }
    }
    Some([&check.to_be_bytes()[..], &blocks.concat()].concat())
}

/// spec: RFC 3394 §2.2.2; `None` where the check fails
fn unwrap(kek: &[u8], length: KeyLength, wrapped: &[u8]) -> Option<Vec<u8>> {
    let key = DecryptingKey::ecb(UnboundCipherKey::new(length.algorithm(), kek).ok()?).ok()?;
    let (check, rest) = wrapped.split_first_chunk::<8>()?;
    let mut blocks: Vec<[u8; 8]> = rest.chunks_exact(8).filter_map(|eight| eight.try_into().ok()).collect();
    let mut check = u64::from_be_bytes(*check);
    let mut round = 6 * u64::try_from(blocks.len()).ok()?;
    for _ in 0..6 {
        for block in blocks.iter_mut().rev() {
            let mut both = [(check ^ round).to_be_bytes(), *block].concat();
            key.decrypt(&mut both, DecryptionContext::None).ok()?;
            let (high, low) = both.split_first_chunk::<8>()?;
            check = u64::from_be_bytes(*high);
            *block = low.try_into().ok()?;
            round -= 1;
        }
    }
    (check == WRAP_CHECK).then(|| blocks.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    /// spec: RFC 3394 §4.1, §4.2, §4.6
    #[test]
    fn keys_are_wrapped_as_the_examples_of_the_standard_say() {
        for (length, kek, plain, expected) in [
            (
                KeyLength::Aes128,
                "000102030405060708090a0b0c0d0e0f",
                "00112233445566778899aabbccddeeff",
                "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
            ),
            (
                KeyLength::Aes192,
                "000102030405060708090a0b0c0d0e0f1011121314151617",
                "00112233445566778899aabbccddeeff",
                "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d",
            ),
            (
                KeyLength::Aes256,
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
                "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
            ),
        ] {
            let wrapped = wrap(&hex(kek), length, &hex(plain)).expect("wraps");
            assert_eq!(wrapped, hex(expected));
            assert_eq!(unwrap(&hex(kek), length, &wrapped), Some(hex(plain)));
            let mut damaged = wrapped;
            damaged[3] ^= 1;
            assert_eq!(unwrap(&hex(kek), length, &damaged), None);
        }
    }

    #[test]
    fn material_reads_back_and_another_passphrase_does_not() {
        let [right, wrong] = ["0123456789", "0123456780"].map(|text| Passphrase::new(text).expect("long enough"));
        let ciphers = [Cipher::AesCtr, Cipher::AesGcm];
        let lengths = [KeyLength::Aes128, KeyLength::Aes192, KeyLength::Aes256];
        for (cipher, length) in ciphers.into_iter().flat_map(|cipher| lengths.map(|length| (cipher, length))) {
            let mut keys = Keys::generate(cipher, length).expect("random");
            for _ in 0..2 {
                let material = keys.material(&right).expect("writes");
                let read = Keys::read(&material, &right).expect("reads");
                let (header, mut payload) = ([5; HEADER_BYTES], BytesMut::from(&b"some media"[..]));
                assert!(keys.encrypt(1, Seq::new(7), header, &mut payload));
                assert_ne!(&payload[..10], b"some media");
                assert_eq!(payload.len(), 10 + cipher.tag_bytes());
                let mut plain = payload.to_vec();
                assert!(read.decrypt(1, Seq::new(7), header, &mut plain));
                assert_eq!(plain, b"some media");
                for at in 0..payload.len() {
                    let mut changed = payload.to_vec();
                    changed[at] ^= 1;
                    let is_taken = read.decrypt(1, Seq::new(7), header, &mut changed);
                    assert_eq!(is_taken, cipher == Cipher::AesCtr, "what was changed is thrown away");
                }
                let is_taken = read.decrypt(1, Seq::new(7), [6; HEADER_BYTES], &mut payload.to_vec());
                assert_eq!(is_taken, cipher == Cipher::AesCtr, "the header belongs to it");
                assert_eq!(Keys::read(&material, &wrong).err(), Some(MaterialError::WrongPassphrase));
                for end in 0..material.len() {
                    assert_eq!(Keys::read(&material[..end], &right).err(), Some(MaterialError::Invalid), "{end} bytes");
                }
                keys.renew(1).expect("random"); // and again with both
            }
        }
    }

    #[test]
    fn srt_03_passphrases_have_10_to_79_bytes() {
        assert!(Passphrase::new("123456789").is_err() && Passphrase::new(&"x".repeat(80)).is_err());
        assert!(Passphrase::new("1234567890").is_ok());
    }
}
