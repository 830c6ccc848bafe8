//! Reading: what an answer says. A large one is read where it holds up nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use job_utils::wire::dispatch::{Answer, Received, read_answer};
use job_utils::wire::encoding::is_long_work;
use tokio::sync::Semaphore;
use url::Url;

use crate::dispatch::body::BodyPrefix;

/// How many large or compressed answers are read at once: each may take a MiB for a moment, and a thread.
const AT_ONCE: u32 = 4;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadAnswer {
    pub(crate) answer: Answer,
    /// Whether only its beginning was read.
    pub(crate) is_cut: bool,
    /// Whether it names the job.
    pub(crate) names_job: bool,
}

/// Reads answers.
pub(crate) struct AnswerReader {
    at_once: Arc<Semaphore>,
}

impl AnswerReader {
    pub(crate) fn new() -> Self {
        Self { at_once: Arc::new(Semaphore::new(AT_ONCE as usize)) }
    }

    /// Reads the answer to a POST to `url`; with `complete_on_2xx` every 2xx but 202 is a completion.
    pub(crate) async fn read(
        &self,
        status: u16,
        headers: &HeaderMap,
        body: &BodyPrefix,
        url: &Url,
        complete_on_2xx: bool,
    ) -> ReadAnswer {
        if !is_long_work(headers, &body.bytes) {
            return read(status, headers, body, url, complete_on_2xx);
        }
        // It is never closed. The thread has it until it is done, also when nobody waits for it any more.
        let permit = self.at_once.clone().acquire_owned().await.ok();
        let reading = {
            let (headers, body, url) = (headers.clone(), body.clone(), url.clone());
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                read(status, &headers, &body, &url, complete_on_2xx)
            })
        };
        match reading.await {
            Ok(said) => said,
            // The runtime ends.
            Err(_) => read(status, headers, body, url, complete_on_2xx),
        }
    }
}

fn read(status: u16, headers: &HeaderMap, body: &BodyPrefix, url: &Url, complete_on_2xx: bool) -> ReadAnswer {
    let received = Received::new(status, headers, &body.bytes, body.cut);
    let answer = read_answer(&received, url, complete_on_2xx, SystemTime::now());
    ReadAnswer { answer, is_cut: received.is_cut(), names_job: received.names_job() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::pin::pin;
    use std::task::Poll;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;
    use http::header::CONTENT_ENCODING;

    use job_utils::outcome::Outcome;

    use super::*;

    /// Reads an answer while other threads read as many as they may; says whether it was read by the one that asked.
    async fn reading(headers: &HeaderMap, bytes: Vec<u8>) -> (bool, Answer) {
        let (reader, body) = (AnswerReader::new(), BodyPrefix { bytes: bytes.into(), cut: false });
        let others = reader.at_once.clone().acquire_many_owned(AT_ONCE).await.unwrap();
        let url = "http://fn/task".parse().unwrap();
        let mut reading = pin!(reader.read(200, headers, &body, &url, false));
        let first = std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
        drop(others);
        match first {
            Poll::Ready(said) => (true, said.answer),
            Poll::Pending => (false, reading.await.answer),
        }
    }

    #[tokio::test]
    async fn a_large_or_compressed_answer_is_read_by_one_of_a_few_other_threads() {
        let (plain, body) = (HeaderMap::new(), br#"{"complete": true}"#.to_vec());
        assert_eq!(reading(&plain, body.clone()).await, (true, Answer::Ended(Outcome::Complete)));
        let large = format!(r#"{{"rows": "{}", "complete": true}}"#, "x".repeat(100_000));
        assert_eq!(reading(&plain, large.clone().into_bytes()).await, (false, Answer::Ended(Outcome::Complete)));
        let gzip = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(large.as_bytes()).unwrap();
        let compressed = encoder.finish().unwrap();
        assert!(compressed.len() < 1000);
        assert_eq!(reading(&gzip, compressed).await, (false, Answer::Ended(Outcome::Complete)));
        assert_eq!(reading(&gzip, Vec::new()).await, (true, Answer::Accepted));
    }
}
