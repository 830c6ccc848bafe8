//! Encoding: from the bytes of a body, as they came over the network, to its text.
//!
//! Frameworks and proxies compress, editors and .NET begin a text with a byte order mark, and Latin-1 finds its way
//! into JSON. A body that is not read for such a reason takes a function's word away from it. So what can be understood
//! is; what cannot is an error, and is never taken for an empty body.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// By how much room grows for what is decompressed, in bytes.
const STEP: usize = 32 << 10;

/// How many members of gzip are read. Most bodies have one; each costs time even when it is empty.
const MOST_MEMBERS: usize = 16;

/// A longer body is read where nothing else waits for it, in bytes. A shorter one takes less time than that costs.
const SHORT: usize = 64 << 10;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// Not at all.
    #[default]
    Identity,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 1950, or the bare RFC 1951 that some servers take it for.
    Deflate,
}

/// A body that is encoded in a way that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undecodable {
    /// Its encoding is none of [`Coding`], or it was encoded more than once.
    #[error("its Content-Encoding is {0:?}; identity, gzip and deflate are understood, one at a time")]
    Unknown(String),
    /// It is not what its encoding says.
    #[error("its Content-Encoding is {coding}, and it is broken: {problem}")]
    Broken {
        /// What it should be.
        coding: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Coding {
    /// What `Content-Encoding` says.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};
    /// use job_utils::wire::encoding::Coding;
    /// let of = |value| Coding::of(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(value))]));
    /// assert_eq!(of("X-GZIP"), Ok(Coding::Gzip));
    /// assert_eq!(of("utf-8"), Ok(Coding::Identity));
    /// assert!(of("br").is_err() && of("gzip, gzip").is_err());
    /// ```
    ///
    /// # Errors
    /// It is an encoding that is not understood.
    pub fn of(headers: &HeaderMap) -> Result<Self, Undecodable> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            let unknown = || Undecodable::Unknown(String::from_utf8_lossy(value.as_bytes()).into_owned());
            for token in value.as_bytes().split(|byte| *byte == b',') {
                let next = match token.trim_ascii().to_ascii_lowercase().as_slice() {
                    // The name of a character set is a common mistake, and says that nothing is compressed.
                    b"" | b"identity" | b"utf-8" | b"utf8" => continue,
                    b"gzip" | b"x-gzip" => Self::Gzip,
                    b"deflate" => Self::Deflate,
                    _ => return Err(unknown()),
                };
                // Twice compressed, a small body could take the time of a very large one.
                if coding != Self::Identity {
                    return Err(unknown());
                }
                coding = next;
            }
        }
        Ok(coding)
    }
}

/// A body without its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// All of it, or the beginning.
    pub bytes: Cow<'a, [u8]>,
    /// Whether there is more.
    pub cut: bool,
}

/// Whether reading a body may take long enough to hold up others, where it is done on a thread that serves them too:
/// it is long, or it is compressed, so that a few bytes may become many.
pub fn is_long_work(headers: &HeaderMap, body: &[u8]) -> bool {
    body.len() > SHORT || !body.is_empty() && headers.contains_key(CONTENT_ENCODING)
}

/// Decodes a body, up to `limit` bytes: what is beyond is never decompressed. Of a body that is `cut`, of which only
/// the beginning has been read, the beginning is decoded.
///
/// # Errors
/// The body is not what its encoding says. An empty body is always empty.
pub fn decode(body: &[u8], cut: bool, coding: Coding, limit: usize) -> Result<Decoded<'_>, Undecodable> {
    if coding == Coding::Identity || body.is_empty() {
        let kept = body.len().min(limit);
        return Ok(Decoded { bytes: Cow::Borrowed(&body[..kept]), cut: cut || kept < body.len() });
    }
    let mut bytes = Vec::new();
    let (name, result) = match coding {
        Coding::Gzip => ("gzip", gunzip(body, limit, &mut bytes)),
        _ => ("deflate", inflate(body, limit, &mut bytes)),
    };
    match result {
        // The rest is missing, as was known.
        Err(error) if cut && error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) if bytes.len() <= limit => {
            return Err(Undecodable::Broken { coding: name, problem: error.to_string() });
        }
        _ => {}
    }
    let more = bytes.len() > limit;
    bytes.truncate(limit);
    Ok(Decoded { bytes: Cow::Owned(bytes), cut: cut || more })
}

/// Decompresses up to a byte more than the limit.
fn gunzip(body: &[u8], limit: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = body;
    for _ in 0..MOST_MEMBERS {
        let room = u64::try_from((limit + 1).saturating_sub(bytes.len())).unwrap_or(u64::MAX);
        let mut member = GzDecoder::new(rest).take(room);
        member.read_to_end(bytes)?;
        rest = member.into_inner().into_inner();
        if rest.is_empty() || bytes.len() > limit {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it has too many members"))
}

/// The same for deflate. The crate's reader would take a body that ends too early for a whole one.
fn inflate(body: &[u8], limit: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut decompress = Decompress::new(has_zlib_header(body));
    let mut rest = body;
    while bytes.len() <= limit {
        bytes.reserve(STEP);
        let (before, length) = (decompress.total_in(), bytes.len());
        let status = decompress.decompress_vec(rest, bytes, FlushDecompress::None)?;
        let taken = usize::try_from(decompress.total_in() - before).unwrap_or(rest.len());
        rest = &rest[taken..];
        match status {
            Status::StreamEnd => return Ok(()),
            _ if taken == 0 && bytes.len() == length => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a body begins as RFC 1950 says. A bare deflate stream that does so by chance begins with a block that is not
/// compressed and not the last one, with bits set where they are 0.
fn has_zlib_header(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0)
}

/// The text of a body: UTF-8, or what its byte order mark says, which is not part of it. A replacement character stands
/// for what is not valid.
///
/// ```
/// use job_utils::wire::encoding::text;
/// assert_eq!(text(b"\xef\xbb\xbf{}"), "{}");
/// assert_eq!(text(b"\xff\xfe{\0}\0"), "{}");
/// assert_eq!(text(b"caf\xe9"), "caf\u{fffd}");
/// ```
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)),
        _ => String::from_utf8_lossy(bytes),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = char::decode_utf16(pairs.iter().map(|pair| unit(*pair)));
    let mut text: String = units.map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    if !rest.is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const BODY: &[u8] = br#"{"complete": true}"#;
    const LIMIT: usize = 1 << 20;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn bare(body: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn whole(body: &[u8], coding: Coding) -> Result<Vec<u8>, Undecodable> {
        let decoded = decode(body, false, coding, LIMIT)?;
        assert!(!decoded.cut);
        Ok(decoded.bytes.into_owned())
    }

    #[test]
    fn what_is_compressed_is_decoded() {
        for (body, coding) in [
            (gzip(BODY), Coding::Gzip),
            ([gzip(&BODY[..5]), gzip(&BODY[5..])].concat(), Coding::Gzip),
            (zlib(BODY), Coding::Deflate),
            (bare(BODY), Coding::Deflate),
            (BODY.to_vec(), Coding::Identity),
        ] {
            assert_eq!(whole(&body, coding).as_deref(), Ok(BODY));
        }
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Identity] {
            assert_eq!(whole(b"", coding).as_deref(), Ok(&b""[..]), "an empty body is empty");
        }
        let large = b"0123456789abcdef".repeat(50_000);
        for (body, coding) in [(gzip(&large), Coding::Gzip), (zlib(&large), Coding::Deflate)] {
            assert!(whole(&body, coding).unwrap() == large);
        }
    }

    #[test]
    fn a_body_of_a_few_members_is_decoded_and_one_of_many_is_refused() {
        let members = |count: usize| [gzip(b"ab").repeat(count - 1), gzip(b"c")].concat();
        assert_eq!(
            whole(&members(MOST_MEMBERS), Coding::Gzip).unwrap(),
            [&b"ab".repeat(MOST_MEMBERS - 1)[..], b"c"].concat()
        );
        assert!(whole(&members(MOST_MEMBERS + 1), Coding::Gzip).is_err());
        // The limit is one of all members together.
        assert_eq!(decode(&members(3), false, Coding::Gzip, 3).unwrap().bytes, &b"aba"[..]);
    }

    #[test]
    fn what_is_broken_is_an_error_wherever_it_breaks() {
        for (body, coding) in [(gzip(BODY), Coding::Gzip), (zlib(BODY), Coding::Deflate), (bare(BODY), Coding::Deflate)]
        {
            for length in 1..body.len() {
                assert!(whole(&body[..length], coding).is_err(), "{coding:?} up to {length}");
            }
        }
        for (body, coding) in [(gzip(BODY), Coding::Gzip), (zlib(BODY), Coding::Deflate)] {
            let mut changed = body.clone();
            let last = changed.len() - 1;
            changed[last] ^= 1;
            assert!(whole(&changed, coding).is_err(), "{coding:?} with a wrong checksum");
            assert!(whole(BODY, coding).is_err(), "{coding:?} that is none");
        }
    }

    #[test]
    fn a_bomb_is_decoded_up_to_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (body, coding) in [(gzip(&zeros), Coding::Gzip), (zlib(&zeros), Coding::Deflate)] {
            assert!(body.len() < LIMIT / 8);
            let Decoded { bytes: Cow::Owned(bytes), cut } = decode(&body, false, coding, LIMIT).unwrap() else {
                panic!("it was decoded")
            };
            assert!(cut && bytes.len() == LIMIT && bytes.capacity() <= 4 * LIMIT, "{}", bytes.capacity());
        }
        let exactly = gzip(&zeros[..LIMIT]);
        assert!(!decode(&exactly, false, Coding::Gzip, LIMIT).unwrap().cut);
        assert_eq!(decode(BODY, false, Coding::Identity, 4).unwrap(), Decoded { bytes: BODY[..4].into(), cut: true });
    }

    #[test]
    fn of_a_body_that_is_cut_the_beginning_is_decoded() {
        // Hard to compress, so that the beginning of the one is in the beginning of the other.
        let numbers: String = (0..20_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        for (body, coding) in [
            (gzip(numbers.as_bytes()), Coding::Gzip),
            (zlib(numbers.as_bytes()), Coding::Deflate),
            (bare(numbers.as_bytes()), Coding::Deflate),
        ] {
            let decoded = decode(&body[..body.len() / 2], true, coding, LIMIT).unwrap();
            assert!(decoded.cut && decoded.bytes.len() > numbers.len() / 4, "{coding:?}: {}", decoded.bytes.len());
            assert!(numbers.as_bytes().starts_with(&decoded.bytes));
            assert!(decode(b"nonsense, more than a header", true, coding, LIMIT).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn a_text_may_be_utf_16_or_invalid() {
        assert_eq!(text(b"\xfe\xff\xd8\x3d\xde\x00\0!"), "😀!");
        assert_eq!(text(b"\xff\xfe\x3d\xd8!\0x"), "\u{fffd}!\u{fffd}");
        assert_eq!(text(b"\xef\xbb\xbf"), "");
        assert_eq!(text("ü".as_bytes()), "ü");
    }
}
