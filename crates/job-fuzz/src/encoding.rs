//! Target `encoding`: bodies that are compressed, or say that they are.
//!
//! The input is a body: it is decoded as it is, and encoded and decoded again.

use job_utils::wire::encoding::{Coding, Decoded, Undecodable, decode, text};

use crate::message::{bare, gzip, zlib};

/// More than what most inputs decode to, and little enough to be quick.
const LIMIT: usize = 64 << 10;

/// Decodes the input, in every way.
pub fn encoding(input: &[u8]) {
    for coding in [Coding::Identity, Coding::Gzip, Coding::Deflate] {
        check(input, coding, decode);
    }
    for (encoded, coding) in
        [(gzip(input), Coding::Gzip), (zlib(input), Coding::Deflate), (bare(input), Coding::Deflate)]
    {
        let whole = decode(&encoded, false, coding, LIMIT);
        assert!(whole.is_ok_and(|whole| &*whole.bytes == input && !whole.cut), "{coding:?}: it does not come back");
        check(&encoded, coding, decode);
    }
    let read = text(input);
    assert!(str::from_utf8(input).is_err() || input.starts_with(b"\xef\xbb\xbf") || read.as_bytes() == input);
}

type Decode = fn(&[u8], bool, Coding, usize) -> Result<Decoded<'_>, Undecodable>;

/// What holds for a body, whole or cut off.
fn check(body: &[u8], coding: Coding, decode: Decode) {
    let whole = match decode(body, false, coding, LIMIT) {
        Ok(whole) => whole,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error without a reason");
            return;
        }
    };
    assert!(whole.bytes.len() <= LIMIT, "{coding:?}: {} bytes", whole.bytes.len());
    let beginning = |length: usize| &whole.bytes[..whole.bytes.len().min(length)];
    for limit in [0, 1, whole.bytes.len() / 2, whole.bytes.len()] {
        let less = decode(body, false, coding, limit);
        let more = whole.cut || whole.bytes.len() > limit;
        let kept = less.is_ok_and(|less| *less.bytes == *beginning(limit) && less.cut == more);
        assert!(kept, "{coding:?}: up to {limit} bytes it is another body");
    }
    for length in [0, 1, body.len() / 2, body.len().saturating_sub(1)] {
        let cut = decode(&body[..length.min(body.len())], true, coding, LIMIT);
        let kept = cut.is_ok_and(|cut| cut.cut && *cut.bytes == *beginning(cut.bytes.len()));
        assert!(kept, "{coding:?}: its first {length} bytes are not its beginning");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decoded_as_it_should_be_passes() {
        encoding(b"\xef\xbb\xbf{\"complete\":true}");
    }

    #[test]
    #[should_panic(expected = "65537 bytes")]
    fn more_than_the_limit_is_told() {
        check(b"x", Coding::Gzip, |_, cut, _, limit| Ok(Decoded { bytes: vec![0; limit + 1].into(), cut }));
    }

    #[test]
    #[should_panic(expected = "not its beginning")]
    fn a_beginning_that_is_refused_is_told() {
        check(b"xyz", Coding::Gzip, |body, cut, _, limit| match cut {
            true => Err(Undecodable::Unknown("x".to_owned())),
            false => decode(body, false, Coding::Identity, limit),
        });
    }
}
