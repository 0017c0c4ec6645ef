//! Lists of hops: each proxy adds an element at the right end, so the client has written the left end.
//!
//! The crate `client-ip` takes the rightmost element of the last line. If there are two proxies, that is one of them.

use http::{HeaderMap, HeaderName, HeaderValue, header::ValueIter};

use super::reason::Rejection;

/// How many bytes of a list are read, from its right end. As many as nginx allows in one line of a header by default.
const MAX_BYTES: usize = 8 * 1024;

/// The elements of all lines of a header, from right to left, without empty ones. The text left of the last returned
/// element has not been read.
pub(super) struct FromRight<'a> {
    lines: ValueIter<'a, HeaderValue>,
    line: Option<&'a [u8]>,
    bytes_left: usize,
}

impl<'a> FromRight<'a> {
    pub(super) fn new(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        Self {
            lines: headers.get_all(name).into_iter(),
            line: None,
            bytes_left: MAX_BYTES,
        }
    }
}

impl<'a> Iterator for FromRight<'a> {
    type Item = Result<&'a [u8], Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.line.take() {
                Some(line) => line,
                None => self.lines.next_back()?.as_bytes(),
            };
            let start = line.len().saturating_sub(self.bytes_left);
            let comma = last_unquoted(&line[start..], b',').map(|at| start + at);
            let (rest, element) = match comma {
                Some(at) => (Some(&line[..at]), &line[at + 1..]),
                None if start > 0 => return Some(Err(Rejection::Oversized)),
                None => (None, line),
            };
            // The comma, or the end of the line, counts too.
            let Some(bytes_left) = self.bytes_left.checked_sub(element.len() + 1) else {
                return Some(Err(Rejection::Oversized));
            };
            self.bytes_left = bytes_left;
            self.line = rest;
            let element = element.trim_ascii();
            // RFC 9110 §5.6.1.2: empty elements do not count.
            if !element.is_empty() {
                return Some(Ok(element));
            }
        }
    }
}

/// The last `separator` outside of quoted strings (RFC 9110 §5.6.4).
///
/// It looks from the right, so that a quote which the client has left open does not reach into the elements of proxies.
fn last_unquoted(text: &[u8], separator: u8) -> Option<usize> {
    let mut is_quoted = false;
    for (at, &byte) in text.iter().enumerate().rev() {
        if byte == b'"' {
            let backslashes = text[..at].iter().rev().take_while(|&&byte| byte == b'\\').count();
            if !is_quoted || backslashes % 2 == 0 {
                is_quoted = !is_quoted;
            }
        } else if byte == separator && !is_quoted {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-forwarded-for");

    fn elements<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Result<String, Rejection>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, line.parse().unwrap());
        }
        let element = |element: &[u8]| String::from_utf8(element.to_vec()).unwrap();
        FromRight::new(&headers, &NAME)
            .map(|result| result.map(element))
            .take(5_000)
            .collect()
    }

    fn ok(elements: &[&str]) -> Vec<Result<String, Rejection>> {
        elements.iter().map(|&element| Ok(element.to_owned())).collect()
    }

    #[test]
    fn all_lines_are_one_list() {
        assert_eq!(elements([]), []);
        assert_eq!(elements(["", " , ,", "\t"]), []);
        assert_eq!(elements(["a"]), ok(&["a"]));
        assert_eq!(
            elements(["a, b", "c,d , ", "", "e"]),
            ok(&["e", "d", "c", "b", "a"])
        );
    }

    #[test]
    fn a_quoted_comma_separates_nothing() {
        assert_eq!(elements([r#"a="x, y", b"#]), ok(&["b", r#"a="x, y""#]));
        assert_eq!(elements([r#"a="x\", y", b"#]), ok(&["b", r#"a="x\", y""#]));
        assert_eq!(elements([r#"a="x\\", b"#]), ok(&["b", r#"a="x\\""#]));
    }

    #[test]
    fn an_open_quote_of_the_client_reaches_no_hop_of_a_proxy() {
        for client in [r#"a=""#, r#"a="\"#, r#"a="x"y""#, r"\", r#"""""#] {
            for hop in ["for=192.0.2.7", r#"for="[2001:db8::7]";by="_\"x""#] {
                assert_eq!(elements([&*format!("{client}, {hop}")])[0], Ok(hop.to_owned()));
                assert_eq!(elements([client, hop])[0], Ok(hop.to_owned()));
            }
        }
    }

    #[test]
    fn the_work_has_a_bound() {
        let long = "x".repeat(100_000);
        assert_eq!(elements([&*long])[..1], [Err(Rejection::Oversized)]);
        assert_eq!(
            elements([&*format!("{long}, a")])[..2],
            [Ok("a".to_owned()), Err(Rejection::Oversized)]
        );
        let commas = ",".repeat(100_000);
        assert_eq!(elements([&*commas])[0], Err(Rejection::Oversized));
        let quotes = r#"""#.repeat(100_000);
        assert_eq!(elements([&*quotes])[0], Err(Rejection::Oversized));
        let lines = vec!["a"; 10_000];
        let read = elements(lines);
        let oversized = read
            .iter()
            .position(|element| *element == Err(Rejection::Oversized));
        assert_eq!(oversized, Some(MAX_BYTES / 2));
        let whole = "x".repeat(MAX_BYTES - 1);
        assert_eq!(elements([&*whole]), ok(&[&whole]));
    }
}
