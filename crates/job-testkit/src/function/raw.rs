//! A function that does not speak HTTP as it should.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RawAnswer {
    /// It is closed before a byte is read.
    Close,
    /// The request is read and never answered.
    Silence,
    /// The request is read and these bytes are written, then the connection is closed.
    Bytes(Vec<u8>),
}

impl RawAnswer {
    /// These bytes as the answer.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// A TCP server on 127.0.0.1 that treats every connection the same way. Dropping it closes all of them.
#[derive(Debug)]
pub struct RawFunction {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl RawFunction {
    /// Starts it on a free port.
    pub async fn start(answer: RawAnswer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("no free port on 127.0.0.1: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("a listener without an address: {error}"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let server = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(treat(stream, answer.clone()));
            }
        });
        Self { address, connections, server }
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RawFunction {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn treat(mut stream: TcpStream, answer: RawAnswer) {
    match answer {
        RawAnswer::Close => {}
        RawAnswer::Silence => {
            read_request(&mut stream).await;
            std::future::pending::<()>().await;
        }
        RawAnswer::Bytes(bytes) => {
            read_request(&mut stream).await;
            // The client may be gone by now, which is its right.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// Reads a request up to the end of its body, as Content-Length says; what is chunked is read up to its last chunk.
async fn read_request(stream: &mut TcpStream) {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while !is_whole(&received) {
        match stream.read(&mut buffer).await {
            Ok(length) if length > 0 => received.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
}

fn is_whole(received: &[u8]) -> bool {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match length {
        Some(length) => received.len() >= end + 4 + length,
        None => !head.contains("transfer-encoding: chunked") || received.ends_with(b"0\r\n\r\n"),
    }
}
