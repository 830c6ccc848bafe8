//! Body: an answer's body, read up to a limit.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::dispatch::failure::{Failure, Progress};

/// How much of an answer is kept; more than any answer that means something.
const KEPT: usize = 1 << 20;

/// How much of a success that is no completion is read. A function may answer with a large result and call back; one
/// whose answer has no end will not.
const READ: usize = 64 << 20;

/// An answer's body on its way.
pub(crate) struct AnswerBody {
    body: Incoming,
    status: u16,
}

/// What was read of a body.
#[derive(Clone)]
pub(crate) struct BodyPrefix {
    /// All of it, or the beginning.
    pub(crate) bytes: Bytes,
    /// Whether there is more.
    pub(crate) cut: bool,
}

impl AnswerBody {
    pub(crate) fn new(status: u16, body: Incoming) -> Self {
        Self { body, status }
    }

    /// The body up to what is kept. One that came in one piece, as most do, is not copied.
    pub(crate) async fn beginning(&mut self, progress: &mut Progress) -> Result<BodyPrefix, Failure> {
        let mut read = Bytes::new();
        let mut pieces = BytesMut::new();
        let mut cut = false;
        while !cut {
            let length = read.len() + pieces.len();
            *progress = Progress::Reading { status: self.status, length };
            let Some(mut data) = self.piece().await? else { break };
            let room = KEPT - length;
            cut = data.len() > room;
            data.truncate(room);
            if read.is_empty() && pieces.is_empty() {
                read = data;
            } else {
                pieces.extend_from_slice(&std::mem::take(&mut read));
                pieces.extend_from_slice(&data);
            }
        }
        Ok(BodyPrefix { bytes: if pieces.is_empty() { read } else { pieces.freeze() }, cut })
    }

    /// Reads what follows the beginning and throws it away.
    pub(crate) async fn rest(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let mut length = KEPT;
        while let Some(data) = self.piece().await? {
            length += data.len();
            *progress = Progress::Reading { status: self.status, length };
            if length > READ {
                return Err(Failure::Endless { status: self.status, limit: READ });
            }
        }
        Ok(())
    }

    /// The next piece, None at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        while !self.body.is_end_stream() {
            let Some(frame) = self.body.frame().await else { break };
            // Trailers mean nothing here.
            if let Ok(data) = frame.map_err(Failure::Answer)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
