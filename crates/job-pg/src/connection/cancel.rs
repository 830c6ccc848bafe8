//! Cancel: tell the server that nobody waits for a statement any more.
//!
//! A cancel request has a connection of its own, which the server closes when it has done what it was asked for.
//! PgBouncer of Debian 12 (1.18) ends as a whole ("bad client state") when the client closes first, as the client
//! library does: so behind a pooler the request's connection is left open until the other side closes it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Client;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;

use crate::connection::connect::Connector;
use crate::connection::tls::MakeConnect;
use job_utils::backoff::Backoff;

/// How long a statement may take to end before its cancellation is repeated: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that is shut down only when the other side has closed it.
struct ClosedByPeer(Box<dyn Stream>);

impl AsyncRead for ClosedByPeer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClosedByPeer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 64];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Pin::new(&mut self.0).poll_shutdown(cx),
            }
        }
    }
}

impl Connector {
    /// Ends the statement that `client` runs. One request is not enough: one that arrives before the statement does, on
    /// another connection and perhaps past a statement that a pooler still keeps, ends nothing. So it is repeated until
    /// the connection answers what is asked after the statement. How long that may take is the caller's business.
    pub(crate) async fn end_statement(&self, client: &Client) {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut answer = pin!(client.simple_query(""));
        loop {
            self.cancel(client).await;
            if tokio::time::timeout(pauses.next_wait(), &mut answer).await.is_ok() {
                return;
            }
        }
    }

    /// Asks for the end of the statement that `client` runs. How long that may take is the caller's business.
    async fn cancel(&self, client: &Client) {
        let token = client.cancel_token();
        if !self.is_pooled() {
            // What it comes to, nobody can tell; and whoever gave the statement up has no use for it.
            let _ = token.cancel_query(self.tls()).await;
            return;
        }
        let Some(host) = self.last_host() else { return };
        let Some(name) = host.get_hosts().first() else { return };
        let port = host.get_ports().first().copied().unwrap_or(5432);
        let stream: io::Result<Box<dyn Stream>> = match (name, host.get_hostaddrs().first()) {
            (_, Some(address)) => TcpStream::connect((*address, port)).await.map(|stream| Box::new(stream) as _),
            (Host::Tcp(name), None) => {
                TcpStream::connect((name.as_str(), port)).await.map(|stream| Box::new(stream) as _)
            }
            (Host::Unix(directory), None) => {
                let socket = directory.join(format!(".s.PGSQL.{port}"));
                UnixStream::connect(socket).await.map(|stream| Box::new(stream) as _)
            }
        };
        let server_name = match name {
            Host::Tcp(name) => name.as_str(),
            Host::Unix(_) => "",
        };
        let tls = <MakeConnect as MakeTlsConnect<ClosedByPeer>>::make_tls_connect(&mut self.tls(), server_name);
        if let (Ok(stream), Ok(tls)) = (stream, tls) {
            let _ = token.cancel_query_raw(ClosedByPeer(stream), tls).await;
        }
    }
}
