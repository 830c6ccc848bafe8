//! A TCP proxy that breaks the network between two programs: cut, silence, delay.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
//! # let port = server.local_addr()?.port();
//! let proxy = job_testkit::Proxy::start(port).await?; // clients connect to proxy.port()
//! proxy.cut(); // connections break; new ones pass
//! proxy.blackhole(); // nothing passes, and nobody is told
//! proxy.restore(); // what was held back goes on
//! # Ok(())
//! # }
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How many chunks of up to [`CHUNK`] bytes are on their way in one direction before the sender has to wait.
const IN_FLIGHT: usize = 16;
const CHUNK: usize = 16 * 1024;

/// What the proxy does to bytes and to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Every chunk arrives this much later, in each direction.
    Delay(Duration),
    /// Connections are accepted, bytes are held back, and an end of one side is not told to the other.
    Blackhole,
}

/// State that connections follow.
#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Grows with every cut.
    cuts: u64,
}

/// A proxy from a port of its own on 127.0.0.1 to another port there. Dropping it breaks its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    open: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// Starts it on a free port. Nobody needs to listen on `target` yet: a connection that cannot be passed on is
    /// closed.
    pub async fn start(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, follow) = watch::channel(State { mode: Mode::Pass, cuts: 0 });
        let open = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn(serve(listener, target, follow, open.clone()));
        Ok(Self { port, state, open, server })
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections are open, those included that are held back.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Resets every open connection on both sides, as a firewall that forgets them does. New ones are as good as
    /// before.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// From now on connections are accepted and nothing passes, in either direction: what a network that drops packets
    /// looks like. Bytes are kept and pass after [`Proxy::restore`], as retransmission would have it.
    pub fn blackhole(&self) {
        self.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// From now on everything arrives this much later, in each direction.
    pub fn delay(&self, by: Duration) {
        self.state.send_modify(|state| state.mode = Mode::Delay(by));
    }

    /// Ends [`Proxy::blackhole`] and [`Proxy::delay`].
    pub fn restore(&self) {
        self.state.send_modify(|state| state.mode = Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, target: u16, follow: watch::Receiver<State>, open: Arc<AtomicUsize>) {
    // Ended with the server: dropping the set aborts them.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, or a client that has gone again: the next one may be luckier.
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connection(client, target, follow.clone(), open.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(mut client: TcpStream, target: u16, follow: watch::Receiver<State>, open: Arc<AtomicUsize>) {
    let _counted = Counted::new(open);
    let _ = client.set_nodelay(true);
    let cuts = follow.borrow().cuts;
    let mut cut = follow.clone();
    let mut server = None;
    tokio::select! {
        () = pass(&mut client, &mut server, target, follow) => {}
        _ = cut.wait_for(|state| state.cuts != cuts) => {
            // Closing then resets the connection rather than end it in order.
            for stream in [Some(client), server].into_iter().flatten() {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

async fn pass(client: &mut TcpStream, server: &mut Option<TcpStream>, target: u16, mut follow: watch::Receiver<State>) {
    if passes(&mut follow).await.is_none() {
        return;
    }
    let Ok(connected) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = connected.set_nodelay(true);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.insert(connected).split();
    tokio::join!(direction(from_client, to_server, follow.clone()), direction(from_server, to_client, follow));
}

/// Waits until bytes may pass; says how much later they are to arrive. None when the proxy is gone.
async fn passes(state: &mut watch::Receiver<State>) -> Option<Duration> {
    let state = state.wait_for(|state| state.mode != Mode::Blackhole).await.ok()?;
    Some(match state.mode {
        Mode::Delay(by) => by,
        Mode::Pass | Mode::Blackhole => Duration::ZERO,
    })
}

/// Copies one direction to its end. Reader and writer are apart, so that a delay makes bytes late and not few.
async fn direction(from: ReadHalf<'_>, to: WriteHalf<'_>, state: watch::Receiver<State>) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::join!(read(from, sender), write(to, receiver, state));
}

async fn read(mut from: ReadHalf<'_>, sender: mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length) = from.read(&mut buffer).await {
        // An end is an empty chunk: it may be late as well.
        if sender.send((Instant::now(), buffer[..length].to_vec())).await.is_err() || length == 0 {
            return;
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut state: watch::Receiver<State>,
) {
    while let Some((read_at, chunk)) = receiver.recv().await {
        let Some(delay) = passes(&mut state).await else { return };
        let arrives = read_at + delay;
        if arrives > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(arrives) => {}
                // The proxy is gone.
                _ = state.wait_for(|_| false) => return,
            }
            // Silence may have come meanwhile.
            if passes(&mut state).await.is_none() {
                return;
            }
        }
        if chunk.is_empty() || to.write_all(&chunk).await.is_err() {
            break;
        }
    }
    // An end is held back as well.
    if passes(&mut state).await.is_some() {
        let _ = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server that sends everything back, and its port.
    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn says(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(String::from_utf8(back).unwrap())
    }

    #[tokio::test]
    async fn bytes_pass_and_so_does_the_end() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(says(&mut stream, "hello").await.unwrap(), "hello");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        eventually(LIMIT, async || proxy.connections() == 0).await;
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_nothing_else() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(says(&mut stream, "hello").await.unwrap(), "hello");
        proxy.cut();
        let reset = tokio::time::timeout(LIMIT, stream.read(&mut [0; 8])).await.unwrap();
        assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(says(&mut stream, "again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn a_blackhole_accepts_and_holds_everything_back_until_it_is_gone() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut old = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert_eq!(says(&mut old, "hello").await.unwrap(), "hello");
        proxy.blackhole();
        let mut new = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        for stream in [&mut old, &mut new] {
            let silence = tokio::time::timeout(Duration::from_millis(100), says(stream, "a")).await;
            assert!(silence.is_err(), "{silence:?}");
        }
        proxy.restore();
        for stream in [&mut old, &mut new] {
            let mut kept = [0; 1];
            tokio::time::timeout(LIMIT, stream.read_exact(&mut kept)).await.unwrap().unwrap();
            assert_eq!(&kept, b"a");
        }
    }

    #[tokio::test]
    async fn a_delay_makes_bytes_late_in_both_directions() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        proxy.delay(Duration::from_millis(50));
        let start = Instant::now();
        assert_eq!(says(&mut stream, "hello").await.unwrap(), "hello");
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
        proxy.delay(Duration::from_secs(3600));
        let late = tokio::time::timeout(Duration::from_millis(100), says(&mut stream, "late")).await;
        assert!(late.is_err(), "{late:?}");
    }

    #[tokio::test]
    async fn without_a_target_a_connection_is_closed() {
        let port = crate::cluster::free_port().unwrap();
        let proxy = Proxy::start(port).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let end = tokio::time::timeout(LIMIT, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
