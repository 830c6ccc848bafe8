//! A message of HTTP as the targets write it: headers, an empty line, a body; and the ways in which a body is sent.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers and the body; None when it could not be sent over HTTP.
pub(crate) fn message(input: &[u8]) -> Option<(HeaderMap, &[u8])> {
    let mut headers = HeaderMap::new();
    let mut rest = input;
    loop {
        let line;
        (line, rest) = first_line(rest);
        let line = line.trim_ascii();
        if line.is_empty() {
            return Some((headers, rest));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
}

/// The first line, and what follows it.
pub(crate) fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    (&input[..end], input.get(end + 1..).unwrap_or_default())
}

/// Whether a byte order mark can be put before a body. Before another one, or the beginning of one, it would be text.
pub(crate) fn takes_mark(body: &[u8]) -> bool {
    !body.starts_with(b"\xef") && !body.starts_with(b"\xfe") && !body.starts_with(b"\xff")
}

/// With a byte order mark.
pub(crate) fn marked(body: &[u8]) -> Vec<u8> {
    [b"\xef\xbb\xbf", body].concat()
}

/// With as many headers as proxies and meshes add.
pub(crate) fn with_many(headers: &HeaderMap) -> HeaderMap {
    let mut many = headers.clone();
    many.extend((0..120).filter_map(|n| Some((HeaderName::try_from(format!("x-{n}")).ok()?, HeaderValue::from(n)))));
    many
}

pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default()
}

pub(crate) fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// Deflate without the header and the checksum that it should have.
pub(crate) fn bare(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default()
}
