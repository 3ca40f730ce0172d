//! AMF 0 values, bounded in depth and number.

use bytes::{BufMut, BytesMut};

use crate::Violation;

/// Deepest nesting that is read; real encoders use 3.
const DEPTH_MAX: u32 = 16;
/// Most values in one message; real encoders send below 100.
const VALUES_MAX: u32 = 4096;

/// One value. spec: AMF 0 §2
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// §2.2
    Number(f64),
    /// §2.3
    Boolean(bool),
    /// §2.4 and §2.14
    String(String),
    /// §2.5, §2.10 (ECMA array) and §2.18 (typed object); the order is kept
    Object(Vec<(String, Value)>),
    /// §2.7, §2.8 and what cannot be carried
    Null,
    /// §2.12
    StrictArray(Vec<Value>),
    /// §2.13, milliseconds since 1970
    Date(f64),
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The number of a number.
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// A whole number from 0 to 2³² − 1, fractions cut off.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before the cast")]
    pub fn as_u32(&self) -> Option<u32> {
        self.as_f64().filter(|number| (0.0..=4_294_967_295.0).contains(number)).map(|number| number as u32)
    }

    /// The property of an object, or of an ECMA array (ERTMP-05: both are accepted).
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Self::Object(properties) = self else { return None };
        properties.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// An object from its properties.
pub(crate) fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    Value::Object(properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

struct Reader<'a> {
    rest: &'a [u8],
    values: u32,
}

const UNKNOWN: Violation = Violation::Amf("has an unknown type");
const SHORT: Violation = Violation::Amf("ends too early");

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    fn f64(&mut self) -> Result<f64, Violation> {
        self.number().map(f64::from_be_bytes)
    }

    fn u16(&mut self) -> Result<usize, Violation> {
        self.number().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn u32(&mut self) -> Result<usize, Violation> {
        usize::try_from(u32::from_be_bytes(self.number()?)).map_err(|_| SHORT)
    }

    fn text(&mut self, length: usize) -> Result<String, Violation> {
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, depth: u32) -> Result<Value, Violation> {
        self.values += 1;
        if depth > DEPTH_MAX {
            return Err(Violation::Amf("nested too deeply"));
        }
        if self.values > VALUES_MAX {
            return Err(Violation::Amf("has too many values"));
        }
        match self.take(1)?.first().copied().unwrap_or_default() {
            0 => self.f64().map(Value::Number),
            1 => Ok(Value::Boolean(self.number::<1>()? != [0])),
            2 => {
                let length = self.u16()?;
                self.text(length).map(Value::String)
            }
            3 => self.properties(depth),
            5 | 6 | 13 => Ok(Value::Null),
            7 => self.take(2).map(|_| Value::Null), // reference: nothing real sends it
            8 => {
                self.take(4)?; // the count is a hint
                self.properties(depth)
            }
            10 => {
                let count = self.u32()?;
                (0..count).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::StrictArray)
            }
            11 => {
                let date = self.f64()?;
                self.take(2)?;
                Ok(Value::Date(date))
            }
            12 | 15 => {
                let length = self.u32()?;
                self.text(length).map(Value::String)
            }
            16 => {
                let length = self.u16()?;
                self.take(length)?;
                self.properties(depth)
            }
            _ => Err(UNKNOWN),
        }
    }

    fn properties(&mut self, depth: u32) -> Result<Value, Violation> {
        let mut properties = Vec::new();
        loop {
            let length = self.u16()?;
            let name = self.text(length)?;
            if length == 0 && self.rest.first() == Some(&9) {
                self.take(1)?;
                return Ok(Value::Object(properties));
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }
}

/// Reads all values of a message.
///
/// A value of unknown type ends the list: what came before it counts (ERTMP-05).
///
/// # Errors
/// Truncated values, more than 16 levels, more than 4,096 values.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Value>, Violation> {
    let mut reader = Reader { rest: bytes, values: 0 };
    let mut values = Vec::new();
    while !reader.rest.is_empty() {
        match reader.value(0) {
            Err(UNKNOWN) if !values.is_empty() => break,
            value => values.push(value?),
        }
    }
    Ok(values)
}

/// Writes one value. Ours are shallow; what came from a peer was bounded when it was read.
pub(crate) fn encode(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Number(number) => {
            out.put_u8(0);
            out.put_f64(*number);
        }
        Value::Boolean(value) => out.put_slice(&[1, u8::from(*value)]),
        Value::String(text) => {
            if let Ok(length) = u16::try_from(text.len()) {
                out.put_u8(2);
                out.put_u16(length);
            } else {
                out.put_u8(12);
                out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
            }
            out.put_slice(text.as_bytes());
        }
        Value::Object(properties) => {
            out.put_u8(3);
            for (name, value) in properties {
                out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
                out.put_slice(name.as_bytes().get(..name.len().min(0xffff)).unwrap_or_default());
                encode(out, value);
            }
            out.put_slice(&[0, 0, 9]);
        }
        Value::Null => out.put_u8(5),
        Value::StrictArray(values) => {
            out.put_u8(10);
            out.put_u32(u32::try_from(values.len()).unwrap_or(u32::MAX));
            values.iter().for_each(|value| encode(out, value));
        }
        Value::Date(date) => {
            out.put_u8(11);
            out.put_f64(*date);
            out.put_u16(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back() {
        let value = object([
            ("text", "live".into()),
            ("number", 1.5.into()),
            ("list", Value::StrictArray(vec![Value::Null, Value::Boolean(true)])),
            ("date", Value::Date(5.0)),
            ("long", Value::String("x".repeat(70_000))),
        ]);
        let mut out = BytesMut::new();
        encode(&mut out, &value);
        assert_eq!(decode_all(&out), Ok(vec![value]));
    }

    #[test]
    fn ertmp_05_ecma_array_reads_like_an_object() {
        let bytes = b"\x08\x00\x00\x00\x01\x00\x01a\x01\x01\x00\x00\x09";
        assert_eq!(decode_all(bytes), Ok(vec![object([("a", Value::Boolean(true))])]));
    }

    #[test]
    fn seventy_thousand_levels_are_refused() {
        let deep: Vec<u8> = [10, 0, 0, 0, 1].repeat(70_000);
        assert_eq!(decode_all(&deep), Err(Violation::Amf("nested too deeply")));
    }

    #[test]
    fn a_count_of_four_billion_allocates_nothing() {
        assert_eq!(decode_all(&[10, 0xff, 0xff, 0xff, 0xff]), Err(SHORT));
        let flat: Vec<u8> = [&[10, 0xff, 0xff, 0xff, 0xff][..], &[5; 100_000]].concat();
        assert_eq!(decode_all(&flat), Err(Violation::Amf("has too many values")));
    }

    #[test]
    fn numbers_outside_the_range_are_no_u32() {
        assert_eq!(Value::Number(f64::NAN).as_u32(), None);
        assert_eq!(Value::Number(-1.0).as_u32(), None);
        assert_eq!(Value::Number(29.97).as_u32(), Some(29));
    }
}
