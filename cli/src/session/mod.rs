//! `gridnet session`: the processes of several hosts that trust and know each other.

mod args;
mod output;
mod quick;

pub(crate) use args::SessionArgs;

use crate::failure::Failure;
use crate::lossy::Lossy;
use crate::signals::ending;
use args::{JoinArgs, SessionCommand};
use gridnet_meta::clock::Moment;
use gridnet_meta::directory::{Entry, Event};
use gridnet_meta::member::{About, Connection, Keeper, Member};
use gridnet_meta::rendezvous::{ask_status, end_ticket, new_ticket, revoke, Rendezvous};
use gridnet_meta::store::{NewSession, Store};
use gridnet_meta::ticket::{check_via, Ticket};
use gridnet_meta::{Rules, Shares};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How often somebody who watches looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How long the last lines may take when the rendez-vous node ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Does what the command line says.
pub(crate) fn run(args: &SessionArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match &args.command {
        SessionCommand::New { dir, listen, address, insecure, ticket } => {
            let (listen, addresses, ticket) = (listen.clone(), address.clone(), (*ticket).into());
            let new = NewSession { listen, addresses, insecure: *insecure, ticket };
            let (store, ticket) = Store::create(&dir.dir, &new, Moment::now())?;
            output::made(&mut out, &store, &ticket)?;
        }
        SessionCommand::Serve { dir, relay } => serve(Store::open(&dir.dir)?, (*relay).into())?,
        SessionCommand::Ticket { file, via, dir, ticket } => {
            let via = check_via(via.clone())?;
            new_ticket(&Store::open(&dir.dir)?, file, (*ticket).into())?;
            let ticket = Ticket { via, ..Ticket::read(file)? };
            ticket.replace(file)?;
            output::ticket(&mut out, file, &ticket)?;
        }
        SessionCommand::Status { dir, json } => {
            let status = ask_status(Store::open(&dir.dir)?.dir())?;
            output::status(&mut out, &status, *json)?;
        }
        SessionCommand::Revoke { node, dir, ticket: true } => {
            end_ticket(&Store::open(&dir.dir)?, *node)?;
            output::ended(&mut out, *node)?;
        }
        SessionCommand::Revoke { node, dir, ticket: false } => {
            let was_there = revoke(&Store::open(&dir.dir)?, *node)?;
            output::revoked(&mut out, *node, was_there)?;
        }
        SessionCommand::Join(args) => join(args, &mut out)?,
        SessionCommand::Quick { command } => {
            // The command writes, too.
            drop(out);
            quick::run(command)?;
        }
    }
    Ok(())
}

fn serve(store: Store, relay: Shares) -> Result<(), Failure> {
    // Refusals are lines of the log, on standard error. Whoever started this need not read them, nor what is said below.
    let (out, log) =
        (Lossy::start("gridnet-out", own(io::stdout())?)?, Lossy::start("gridnet-log", own(io::stderr())?)?);
    let writer = log.clone();
    let log_to = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _ = log_to.with_max_level(tracing::Level::INFO).try_init();
    let mut ended = ending()?;
    let session = store.session();
    let rendezvous = Rendezvous::start(store, Rules { relay, ..Rules::default() })?;
    let at: Vec<String> = rendezvous.listening().iter().map(ToString::to_string).collect();
    let how = if rendezvous.status().insecure { ", insecure = true" } else { "" };
    out.line(format!("session {session}: rendez-vous node at {}{how}\n", at.join(", ")).as_bytes());
    ended.set_read_timeout(Some(LOOK))?;
    while !is_ended(&mut ended)? {
        if !rendezvous.is_running() {
            return Err(Failure::Run("the rendez-vous node has ended by a defect".into()));
        }
    }
    drop(rendezvous);
    out.finish(LAST_WORDS);
    log.finish(LAST_WORDS);
    Ok(())
}

/// A descriptor of our own: whoever is stuck writing to it holds no lock that others want.
fn own(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

fn join(args: &JoinArgs, out: &mut impl Write) -> Result<(), Failure> {
    let mut ticket = Ticket::read(&args.ticket)?;
    if !args.via.is_empty() {
        ticket.via = check_via(args.via.clone())?;
    }
    let label = args.label.clone().map_or_else(gridnet_meta::name::of_process, Ok)?;
    let (cluster, will, listen) = (args.cluster.clone(), args.lead.into(), args.listen);
    let about = About { cluster, will, listen, passes_joins: args.pass_joins, ..About::new(label) };
    let ended = ending()?;
    let mut keeper = args.keep.as_deref().map(Keeper::lock).transpose()?;
    let member = match &keeper {
        Some(keeper) => keeper.join(ticket, about, args.timeout)?,
        None => Member::join(ticket, about, args.timeout)?,
    };
    keeper.iter_mut().try_for_each(|keeper| keeper.look(&member))?;
    if !args.watch {
        output::joined(out, &member, args.json)?;
        return Ok(());
    }
    let out = Lossy::start("gridnet-out", own(io::stdout())?)?;
    let ended = watch(&member, keeper, ended, &out, args.json);
    out.finish(LAST_WORDS);
    ended
}

/// Prints what happens until a signal comes, or the session is left for good. Nothing of it waits for who reads.
fn watch(
    member: &Member,
    mut keeper: Option<Keeper>,
    mut ended: UnixStream,
    out: &Lossy,
    json: bool,
) -> Result<(), Failure> {
    say(out, |text| output::joined(text, member, json))?;
    let mut last = member.connection();
    ended.set_read_timeout(Some(LOOK))?;
    // Who only prints ends when nobody reads it any more.
    while !is_ended(&mut ended)? && (keeper.is_some() || !out.is_over()) {
        keeper.iter_mut().try_for_each(|keeper| keeper.look(member))?;
        tell(out, member.take_events(), || member.nodes(), json)?;
        let now = member.connection();
        if now != last {
            say(out, |text| output::connection(text, &now, json))?;
        }
        if let Connection::Refused(e) = now {
            return Err(e.into());
        }
        last = now;
    }
    Ok(())
}

/// Prints who came and went; who is there, when not all of that is known.
fn tell(
    out: &Lossy,
    (events, missed): (Vec<Event>, bool),
    nodes: impl FnOnce() -> Vec<Entry>,
    json: bool,
) -> io::Result<()> {
    if missed {
        return say(out, |text| output::missed(text, &nodes(), json));
    }
    events.iter().try_for_each(|event| say(out, |text| output::event(text, event, json)))
}

/// Prints all that is written at once, or nothing.
fn say(out: &Lossy, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    write(&mut text)?;
    out.line(&text);
    Ok(())
}

fn is_ended(ended: &mut UnixStream) -> io::Result<bool> {
    // A read with a time limit is interrupted by the signal that it waits for: `read_exact` goes on.
    match ended.read_exact(&mut [0]) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;

    #[test]
    fn who_has_missed_what_happened_says_who_is_there_and_goes_on() {
        let (reader, writer) = io::pipe().unwrap();
        let mut lines = io::BufReader::new(reader).lines();
        let out = Lossy::start("test", writer).unwrap();
        tell(&out, (Vec::new(), true), Vec::new, true).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"kind":"missed","nodes":[]}"#);
        tell(&out, (Vec::new(), true), Vec::new, false).unwrap();
        assert!(lines.next().unwrap().unwrap().starts_with("missed "));
    }
}
