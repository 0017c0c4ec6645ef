//! The query of an HTTP request. Its values are bytes, not text.

use std::str::FromStr;

use crate::swarm::InfoHash;

/// The decoded parameters, in the order of the request.
#[derive(Debug)]
pub(crate) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

/// The reason for a failure, as it is sent to the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        query
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                Some((decode(name)?, decode(value)?))
            })
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(|| Failure("the query is not percent-encoded".into()))
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |(other, _)| other == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    fn required(&self, name: &str) -> Result<&[u8], Failure> {
        self.get(name)
            .ok_or_else(|| Failure(format!("{name} is missing")))
    }

    /// An info hash or a peer ID.
    pub(crate) fn hash(&self, name: &str) -> Result<[u8; 20], Failure> {
        as_hash(name, self.required(name)?)
    }

    pub(crate) fn info_hashes(&self) -> Result<Vec<InfoHash>, Failure> {
        let all = self.all("info_hash");
        all.map(|value| as_hash("info_hash", value)).collect()
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<T, Failure> {
        as_number(name, self.required(name)?)
    }

    /// A number that can be missing. A negative one means the same, as in BEP 15.
    pub(crate) fn number_or_default<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some([b'-', digits @ ..]) => as_number::<T>(name, digits).map(|_| None),
            Some(value) => as_number(name, value).map(Some),
        }
    }
}

fn as_hash(name: &str, value: &[u8]) -> Result<[u8; 20], Failure> {
    value
        .try_into()
        .map_err(|_| Failure(format!("{name} is not 20 bytes long")))
}

fn as_number<T: FromStr>(name: &str, value: &[u8]) -> Result<T, Failure> {
    Some(value)
        // `parse` accepts a sign.
        .filter(|value| value.iter().all(u8::is_ascii_digit))
        .and_then(|value| str::from_utf8(value).ok()?.parse().ok())
        .ok_or_else(|| Failure(format!("{name} is not a number, or out of range")))
}

/// Percent-decodes to bytes. A `+` is not a space in the encoding of BEP 3 (RFC 1738).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (&[high, low], after) = rest.split_first_chunk()?;
            let (high, low) = (char::from(high).to_digit(16)?, char::from(low).to_digit(16)?);
            decoded.push(u8::try_from(high << 4 | low).ok()?);
            rest = after;
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_to_bytes() {
        let query = Query::parse("info_hash=%00%fF+%26aaaaaaaaaaaaaaaa&x&&info_hash=b").unwrap();
        assert_eq!(query.hash("info_hash").unwrap()[..5], *b"\x00\xff+&a");
        assert_eq!(query.get("x"), Some(&b""[..]));
        assert_eq!(
            query.info_hashes(),
            Err(Failure("info_hash is not 20 bytes long".into()))
        );
    }

    #[test]
    fn a_broken_escape_is_an_error() {
        for query in ["a=%", "a=%4", "a=%4g", "%zz=1", "a=%+1", "a=%é"] {
            assert!(Query::parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn numbers_have_a_range_and_no_sign() {
        let query = Query::parse("a=65535&b=65536&c=-1&d=%2B1&e=&f=%ff").unwrap();
        assert_eq!(query.number::<u16>("a"), Ok(65535));
        for name in ["b", "c", "d", "e", "f", "missing"] {
            assert!(query.number::<u16>(name).is_err(), "{name}");
        }
        for (name, expected) in [("a", Some(65535)), ("c", None), ("missing", None)] {
            assert_eq!(query.number_or_default::<u16>(name), Ok(expected), "{name}");
        }
        for name in ["b", "d", "e", "f"] {
            assert!(query.number_or_default::<u16>(name).is_err(), "{name}");
        }
    }
}
