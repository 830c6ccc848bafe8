//! A real SMTP server that takes every mail and delivers none.
//!
//! It speaks as much of RFC 5321 as a client needs to send: EHLO, HELO, AUTH PLAIN and LOGIN (any password), MAIL,
//! RCPT, DATA, RSET, NOOP, QUIT. It offers no STARTTLS, and SMTPUTF8 unless told otherwise.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One mail as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, with `\r\n` line ends, as sent.
    pub data: String,
    /// What the client sent to authenticate, in the base64 it was sent in.
    pub auth: Vec<String>,
    /// The name that the client gave itself.
    pub hello: String,
}

impl Mail {
    /// The lines of a header's value joined, without the white space that folds them; None without that header.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.data.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        head.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

#[derive(Debug, Default)]
struct Inner {
    connections: usize,
    mails: Vec<Mail>,
    refuse: Option<String>,
    without_smtputf8: bool,
}

type Shared = Arc<Mutex<Inner>>;

/// An SMTP server on a port of its own. It goes away when dropped.
#[derive(Debug)]
pub struct SmtpServer {
    address: SocketAddr,
    state: Shared,
    server: JoinHandle<()>,
}

impl SmtpServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Shared::default();
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                lock(&shared).connections += 1;
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that hangs up in the middle is its own business.
                    let _ = converse(stream, &shared).await;
                });
            }
        });
        Self { address, state, server }
    }

    /// What `SMTP_HOST` has to be.
    pub fn host(&self) -> String {
        self.address.ip().to_string()
    }

    /// What `SMTP_PORT` has to be.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers every RCPT from now on with this line, such as `550 no such user`.
    pub fn refuse(&self, reply: impl Into<String>) {
        lock(&self.state).refuse = Some(reply.into());
    }

    /// Offers SMTPUTF8 to no client from now on.
    pub fn without_smtputf8(&self) {
        lock(&self.state).without_smtputf8 = true;
    }

    /// Every mail taken so far.
    pub fn mails(&self) -> Vec<Mail> {
        lock(&self.state).mails.clone()
    }

    /// How many clients have connected so far.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, Inner> {
    // A list of mails is whole at any time, also after a panic elsewhere.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(stream: TcpStream, state: &Shared) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut mail = Mail::default();
    write.write_all(b"220 testkit ESMTP\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => {
                mail.hello = words.next().unwrap_or_default().to_owned();
                let smtputf8 = if lock(state).without_smtputf8 { "" } else { "250-SMTPUTF8\r\n" };
                format!("250-testkit\r\n250-8BITMIME\r\n{smtputf8}250 AUTH PLAIN LOGIN")
            }
            "HELO" | "NOOP" => "250 OK".to_owned(),
            "RSET" => {
                mail = Mail { auth: mail.auth, hello: mail.hello, ..Mail::default() };
                "250 OK".to_owned()
            }
            "AUTH" => {
                mail.auth.extend(words.skip(1).map(str::to_owned));
                // Base64 of "Username:" and "Password:"; PLAIN comes with its answer in the first line.
                if line.to_ascii_uppercase().contains("LOGIN") {
                    for prompt in ["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n"].iter().skip(mail.auth.len()) {
                        write.write_all(prompt.as_bytes()).await?;
                        mail.auth.extend(lines.next_line().await?);
                    }
                }
                "235 welcome".to_owned()
            }
            "MAIL" => {
                mail.from = path(&line);
                "250 OK".to_owned()
            }
            "RCPT" => match lock(state).refuse.clone() {
                Some(reply) => reply,
                None => {
                    mail.to.push(path(&line));
                    "250 OK".to_owned()
                }
            },
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    // A line that begins with a dot is sent with one more.
                    mail.data.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.data.push_str("\r\n");
                }
                let next = Mail { auth: mail.auth.clone(), hello: mail.hello.clone(), ..Mail::default() };
                lock(state).mails.push(std::mem::replace(&mut mail, next));
                "250 taken".to_owned()
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not understood".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
        write.write_all(b"\r\n").await?;
    }
    Ok(())
}

/// What stands between `<` and `>`.
fn path(line: &str) -> String {
    let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map(|(path, _)| path.to_owned()).unwrap_or_default()
}
