//! The socket by which the user who runs a rendez-vous node asks it things: `control.sock` in the directory of the session,
//! into which nobody else can look. One line of JSON each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gridnet_core::wire::NodeId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use super::{Shared, Status};
use crate::error::Error;
use crate::store::{NewTicket, Store};

/// Longest question.
const QUESTION_BYTES_MAX: u64 = 8192;
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How long either side waits for the other.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
enum Question {
    Status,
    Revoke(String),
    /// Where the ticket goes: the secret does not come over the socket.
    NewTicket {
        path: PathBuf,
        seconds: u64,
        uses: Option<u64>,
    },
    EndTicket(String),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Status(Box<Status>),
    Revoked(bool),
    Ticket,
    Failed(String),
}

/// What the rendez-vous node of a session, which another process runs, has to tell.
///
/// # Errors
/// [`Error::Unreachable`] when nobody serves it.
pub fn ask_status(dir: &Path) -> Result<Status, Error> {
    match ask(dir, &Question::Status)? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(other)),
    }
}

/// Takes a node out of a session for good. Whether it was there; `None` when nobody serves the session just now.
///
/// # Errors
/// [`Error::Config`] and [`Error::Permission`] when there is no such session, or it is another user's.
pub fn revoke(store: &Store, node: NodeId) -> Result<Option<bool>, Error> {
    match ask(store.dir(), &Question::Revoke(node.to_string())) {
        Ok(Answer::Revoked(was_there)) => Ok(Some(was_there)),
        Ok(other) => Err(unexpected(other)),
        Err(e) => unserved(store, e, || store.add_revoked(node)).map(|()| None),
    }
}

/// Makes another ticket and writes it to a new file, by the process that serves the session, if there is one.
///
/// # Errors
/// [`Error::Config`] when there is such a file, or the ticket would never be valid.
pub fn new_ticket(store: &Store, path: &Path, new: NewTicket) -> Result<(), Error> {
    let path = std::path::absolute(path).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
    let question =
        Question::NewTicket { path: path.clone(), seconds: new.lifetime.as_secs(), uses: new.uses };
    match ask(store.dir(), &question) {
        Ok(Answer::Ticket) => Ok(()),
        Ok(other) => Err(unexpected(other)),
        Err(e) => unserved(store, e, || store.write_ticket(&path, new)),
    }
}

/// Ends a ticket: nobody joins with it any more. Who has joined stays.
///
/// # Errors
/// [`Error::Config`] when there is no such ticket.
pub fn end_ticket(store: &Store, ticket: NodeId) -> Result<(), Error> {
    match ask(store.dir(), &Question::EndTicket(ticket.to_string())) {
        Ok(Answer::Ticket) => Ok(()),
        Ok(other) => Err(unexpected(other)),
        Err(e) => unserved(store, e, || store.end_ticket(ticket)),
    }
}

/// Does it here when nobody serves the session; `why` is how asking has failed.
fn unserved(store: &Store, why: Error, change: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    match (why, store.lock()?) {
        (Error::Unreachable(_), Some(_lock)) => change(),
        (why, _) => Err(why),
    }
}

fn ask(dir: &Path, question: &Question) -> Result<Answer, Error> {
    let path = dir.join("control.sock");
    let mut stream = UnixStream::connect(&path).map_err(|e| nobody(dir, &e))?;
    let failed = |e: std::io::Error| Error::System(format!("{}: {e}", path.display()));
    stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
    let mut line = serde_json::to_string(question).map_err(|e| Error::System(e.to_string()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer).map_err(failed)?;
    serde_json::from_str(&answer).map_err(|e| Error::System(format!("{}: {e}", path.display())))
}

fn nobody(dir: &Path, error: &std::io::Error) -> Error {
    Error::Unreachable(format!("nobody serves the session in {}: {error}", dir.display()))
}

fn unexpected(answer: Answer) -> Error {
    match answer {
        Answer::Failed(why) => Error::Config(why),
        Answer::Status(_) | Answer::Revoked(_) | Answer::Ticket => {
            Error::System("an answer to another question".into())
        }
    }
}

/// Makes the socket; the session's lock is held.
pub(super) fn listen(store: &Store) -> Result<UnixListener, Error> {
    let path = store.file("control.sock");
    let _ = std::fs::remove_file(&path);
    let failed = |e: std::io::Error| Error::System(format!("{}: {e}", path.display()));
    let listener = UnixListener::bind(&path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

pub(super) fn remove(store: &Store) {
    let _ = std::fs::remove_file(store.file("control.sock"));
}

/// Answers one after the other.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("rendez-vous: control socket: {e}"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if !matches!(tokio::time::timeout(LIMIT, answer(stream, &shared)).await, Ok(Ok(()))) {
                    tracing::warn!("rendez-vous: somebody asked and did not wait for the answer");
                }
            }
            Err(e) => {
                tracing::warn!("rendez-vous: control socket: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: tokio::net::UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut question = String::new();
    let (reader, mut writer) = stream.split();
    tokio::io::BufReader::new(reader.take(QUESTION_BYTES_MAX)).read_line(&mut question).await?;
    let answer = match serde_json::from_str(&question) {
        Ok(Question::Status) => Answer::Status(Box::new(shared.status())),
        Ok(Question::Revoke(node)) => match node.parse() {
            Ok(node) => shared.revoke(node).map_or_else(|e| Answer::Failed(e.to_string()), Answer::Revoked),
            Err(_) => Answer::Failed("node: 32 hexadecimal digits".into()),
        },
        Ok(Question::NewTicket { path, seconds, uses }) => {
            let new = NewTicket { lifetime: Duration::from_secs(seconds), uses };
            changed(shared.change_tickets(|store| store.write_ticket(&path, new)))
        }
        Ok(Question::EndTicket(ticket)) => match ticket.parse() {
            Ok(ticket) => changed(shared.change_tickets(|store| store.end_ticket(ticket))),
            Err(_) => Answer::Failed("ticket: 32 hexadecimal digits".into()),
        },
        Err(e) => Answer::Failed(format!("the question makes no sense: {e}")),
    };
    let mut line = serde_json::to_string(&answer).unwrap_or_default();
    line.push('\n');
    writer.write_all(line.as_bytes()).await
}

fn changed(done: Result<(), Error>) -> Answer {
    done.map_or_else(|e| Answer::Failed(e.to_string()), |()| Answer::Ticket)
}
