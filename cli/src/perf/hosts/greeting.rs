//! What is said on the connection between the two commands before orders go over it: that both have the key.
//!
//! | who | line |
//! |---|---|
//! | client | `gridnet-perf PROTOCOL VERSION NONCE` |
//! | server | `gridnet-perf PROTOCOL VERSION NONCE PROOF`, or `gridnet-perf PROTOCOL VERSION refused REASON` |
//! | client | `PROOF WISH` |
//! | server | `welcome`, or `refused REASON` |
//!
//! A proof is over all that was said before; the client's over its wish, too.

use crate::args::{LARGEST, MOST_SECONDS};
use crate::cabi;
use crate::failure::Failure;
use crate::perf::lines::Lines;
use crate::text;
use gridnet::proof::{self, Key};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a client wants of the server, of which this is all that it may choose.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Wish {
    /// Bytes of the largest message.
    pub(super) largest: usize,
    /// GRIDNET_RAILS, if it is to be another than what the server has.
    pub(super) rails: Option<String>,
    /// GRIDNET_WAIT_MODE, likewise.
    pub(super) wait: Option<String>,
    /// Seconds that either side waits for the other.
    pub(super) timeout: u64,
}

impl Wish {
    fn is_modest(&self) -> bool {
        let texts = [&self.rails, &self.wait];
        let is_plain = texts.into_iter().flatten().all(|text| text::readable(text) == *text);
        is_plain && self.largest <= LARGEST && (1..=MOST_SECONDS).contains(&self.timeout)
    }
}

/// The client's part, up to the server's last word; what comes behind it, of which some may be here already. `key_name` is
/// where the key is from.
pub(super) fn call(
    stream: &TcpStream,
    key: &Key,
    key_name: &str,
    wish: &Wish,
    patience: Duration,
) -> Result<Lines, Failure> {
    let mut talk = Talk::over(stream, patience)?;
    let hello = hello()?;
    talk.say(&hello)?;
    let answer = talk.hear()?;
    let theirs = Hello::of(&answer)
        .ok_or_else(|| Failure::Run("whoever listens there is no `gridnet perf --serve`".to_owned()))?;
    if let Some(why) = theirs.refusal() {
        return Err(Failure::Run(format!("the server refuses: {why}")));
    }
    theirs.check_protocol()?;
    let (said, proof) = answer.rsplit_once(' ').unwrap_or_default();
    if !accepts(key, SERVER, &[hello.as_bytes(), said.as_bytes()], proof) {
        return Err(Failure::Run(format!(
            "the key in {key_name} is not the server's, which writes a new one each time it is started: copy it again"
        )));
    }
    let wish = serde_json::to_string(wish).map_err(io::Error::from)?;
    let proof = key.sign(CLIENT, &[hello.as_bytes(), answer.as_bytes(), wish.as_bytes()]);
    talk.say(&format!("{} {wish}", hex(&proof)))?;
    let verdict = talk.hear()?;
    match verdict.strip_prefix(REFUSED) {
        Some(why) => Err(Failure::Run(format!("the server refuses: {why}"))),
        None if verdict == WELCOME => Ok(talk.lines),
        None => Err(Failure::Run(format!("the server is out of step: {verdict:?}"))),
    }
}

/// The server's part, up to the client's wish; [`welcome`] or [`refuse`] is the last word.
///
/// # Errors
/// Why this is no client of ours. It was told, where it would understand.
pub(super) fn answer(stream: &TcpStream, key: &Key, patience: Duration) -> Result<Wish, Failure> {
    let mut talk = Talk::over(stream, patience)?;
    let theirs = talk.hear()?;
    let not_ours = || Failure::Run("it is no `gridnet perf --connect`".to_owned());
    let hello = Hello::of(&theirs).ok_or_else(not_ours)?;
    if let Err(failure) = hello.check_protocol() {
        talk.say(&format!("{NAME} {PROTOCOL} {} {REFUSED}{}", cabi::version(), failure.text()))?;
        return Err(failure);
    }
    let own = self::hello()?;
    let proof = key.sign(SERVER, &[theirs.as_bytes(), own.as_bytes()]);
    let answer = format!("{own} {}", hex(&proof));
    talk.say(&answer)?;
    let last = talk.hear()?;
    let (proof, wish) = last.split_once(' ').ok_or_else(not_ours)?;
    if !accepts(key, CLIENT, &[theirs.as_bytes(), answer.as_bytes(), wish.as_bytes()], proof) {
        refuse(stream, "the key is another");
        return Err(Failure::Run("it has another key".to_owned()));
    }
    let wish = serde_json::from_str(wish).ok().filter(Wish::is_modest);
    // Nothing more is said before the last word: what came would be lost to the peer process.
    match wish.filter(|_| talk.lines.is_drained()) {
        Some(wish) => Ok(wish),
        None => {
            refuse(stream, "what it wants is not to be had of this version of gridnet");
            Err(Failure::Run("what it wants is not to be had".to_owned()))
        }
    }
}

/// The server's last word.
pub(super) fn welcome(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(format!("{WELCOME}\n").as_bytes())
}

/// The other last word.
pub(super) fn refuse(mut stream: &TcpStream, why: &str) {
    // One that has gone need not know.
    let _ = stream.write_all(format!("{REFUSED}{}\n", why.replace('\n', " ")).as_bytes());
}

fn hello() -> Result<String, Failure> {
    let nonce = proof::nonce().map_err(|refusal| Failure::Run(refusal.reason))?;
    Ok(format!("{NAME} {PROTOCOL} {} {}", cabi::version(), hex(&nonce)))
}

/// The first line of the other side.
struct Hello<'a> {
    protocol: u32,
    version: &'a str,
    /// The number, and the proof; or a refusal.
    rest: &'a str,
}

impl<'a> Hello<'a> {
    fn of(line: &'a str) -> Option<Hello<'a>> {
        let mut words = line.strip_prefix(NAME)?.strip_prefix(' ')?.splitn(3, ' ');
        let (protocol, version, rest) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        Some(Hello { protocol, version, rest })
    }

    fn refusal(&self) -> Option<&'a str> {
        self.rest.strip_prefix(REFUSED)
    }

    fn check_protocol(&self) -> Result<(), Failure> {
        if self.protocol == PROTOCOL {
            return Ok(());
        }
        let older = if self.protocol < PROTOCOL { "older" } else { "newer" };
        Err(Failure::Run(format!(
            "the sides are of different versions, gridnet {} and gridnet {}, of which the first is {older}: use the same on both",
            self.version,
            cabi::version()
        )))
    }
}

/// A conversation with a deadline.
struct Talk<'a> {
    stream: &'a TcpStream,
    lines: Lines,
    deadline: Instant,
}

impl<'a> Talk<'a> {
    fn over(stream: &'a TcpStream, patience: Duration) -> io::Result<Talk<'a>> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience))?;
        let lines = Lines::new(File::from(stream.as_fd().try_clone_to_owned()?), LONGEST);
        Ok(Talk { stream, lines, deadline: Instant::now() + patience })
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        let said = self.stream.write_all(format!("{line}\n").as_bytes());
        said.map_err(|_| Failure::Run("the connection broke".to_owned()))
    }

    fn hear(&mut self) -> Result<String, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let why = match self.lines.next(Some(left)) {
            Ok(Some(line)) => match String::from_utf8(line) {
                // Of what is meant nothing is lost. Much of it is shown, and until there is a proof anybody may have said it.
                Ok(line) => return Ok(text::readable(&line)),
                Err(_) => "it speaks something else",
            },
            Ok(None) => "it hangs up",
            Err(error) if error.kind() == ErrorKind::TimedOut => "it says nothing",
            Err(_) => "it speaks something else",
        };
        Err(Failure::Run(why.to_owned()))
    }
}

fn accepts(key: &Key, purpose: &str, texts: &[&[u8]], proof: &str) -> bool {
    unhex(proof).is_some_and(|proof| key.accepts(purpose, texts, &proof))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

const NAME: &str = "gridnet-perf";

/// Grows whenever orders, reports or wishes change, so that the sides of a measurement understand each other.
const PROTOCOL: u32 = 1;

const WELCOME: &str = "welcome";
const REFUSED: &str = "refused ";

const CLIENT: &str = "gridnet perf 1 client";
const SERVER: &str = "gridnet perf 1 server";

/// Bytes of a line.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wish() -> Wish {
        Wish { largest: 8, rails: Some("tcp".to_owned()), wait: None, timeout: 20 }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn key(byte: u8) -> Key {
        Key::new(&[byte; 32]).unwrap()
    }

    /// A client with this key and wish meets a server with that key, which welcomes it.
    fn meet(theirs: u8, wish: &Wish, own: u8) -> (Result<Lines, Failure>, Result<Wish, Failure>) {
        let (client, server) = pair();
        std::thread::scope(|scope| {
            let called = scope.spawn(move || call(&client, &key(theirs), "k", wish, PATIENCE));
            let answered = answer(&server, &key(own), PATIENCE);
            if answered.is_ok() {
                welcome(&server).unwrap();
                (&server).write_all(b"behind it\n").unwrap();
            }
            drop(server);
            (called.join().unwrap(), answered)
        })
    }

    /// What a client says to a server that sends these lines, the first of them at once.
    fn told(line: &'static str) -> String {
        let (client, mut server) = pair();
        server.write_all(line.as_bytes()).unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        call(&client, &key(1), "k", &wish(), PATIENCE).err().expect("no server").text().to_owned()
    }

    #[test]
    fn the_wish_of_a_client_with_the_key_comes_through() {
        for _ in 0..20 {
            let (called, answered) = meet(1, &wish(), 1);
            assert_eq!(answered.unwrap(), wish());
            // Whether or not it came in one piece with the welcome.
            let behind = called.map_err(|failure| failure.text().to_owned()).unwrap().next(Some(PATIENCE));
            assert_eq!(behind.unwrap().as_deref(), Some(&b"behind it"[..]));
        }
    }

    #[test]
    fn another_key_is_noticed_by_the_client_first() {
        let (called, answered) = meet(2, &wish(), 1);
        let why = called.err().expect("it is noticed");
        assert!(why.text().contains("the key in k is not the server's"), "{why:?}");
        assert!(answered.is_err());
    }

    #[test]
    fn immodest_wishes_are_refused() {
        let coloured = Some("\u{1b}[31mtcp".to_owned());
        for bad in [
            Wish { largest: LARGEST + 1, ..wish() },
            Wish { timeout: 0, ..wish() },
            Wish { rails: coloured.clone(), ..wish() },
            Wish { wait: coloured, ..wish() },
        ] {
            let (called, answered) = meet(1, &bad, 1);
            assert!(
                called.err().expect("it is refused").text().contains("not to be had") && answered.is_err()
            );
        }
    }

    #[test]
    fn who_is_no_server_is_told_from_one_of_another_version() {
        assert!(told("SSH-2.0-OpenSSH_9.2\n").contains("no `gridnet perf --serve`"));
        assert!(told("gridnet-perf x 0.1.0 y\n").contains("no `gridnet perf --serve`"));
        assert!(told("").contains("hangs up"));
        let newer = told("gridnet-perf 2 9.9.9 00 00\n");
        assert!(newer.contains("gridnet 9.9.9") && newer.contains("newer"), "{newer}");
        assert!(told("gridnet-perf 2 9.9.9 refused out of order\n").contains("refuses: out of order"));
        assert!(told("gridnet-perf 0 0.0.1 00 00\n").contains("older"));
    }

    #[test]
    fn who_is_no_client_is_refused() {
        let refusal = |said: &[u8]| {
            let (mut client, server) = pair();
            client.write_all(said).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let failure = answer(&server, &key(1), PATIENCE).unwrap_err();
            drop(server);
            let mut heard = String::new();
            let _ = io::Read::read_to_string(&mut client, &mut heard);
            (failure.text().to_owned(), heard)
        };
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n\r\n").0, "it is no `gridnet perf --connect`");
        assert_eq!(refusal(b"\xff\xfe\n").0, "it speaks something else");
        assert_eq!(refusal(&[b'x'; 70_000]).0, "it speaks something else");
        assert_eq!(refusal(b"gridnet-perf 1 0.1.0").0, "it hangs up");
        let (why, heard) = refusal(b"gridnet-perf 9 9.9.9 00\n");
        assert!(
            why.contains("newer") && heard.contains("refused") && heard.contains("gridnet 9.9.9"),
            "{heard}"
        );
        // The proof of the server, sent back, is none of a client.
        let (why, _) = refusal(b"gridnet-perf 1 0.1.0 00\n00 {}\n");
        assert_eq!(why, "it has another key");
    }

    /// Before there is a proof anybody may have said it.
    #[test]
    fn what_strangers_say_does_nothing_to_the_terminal() {
        let newer = told("gridnet-perf 2 9\u{1b}[2J9 00 00\n");
        assert!(newer.contains("gridnet 9?[2J9"), "{newer:?}");
        let refused = told("gridnet-perf 1 9.9.9 refused \u{1b}]0;all is well\u{7}\n");
        assert!(refused.ends_with("refuses: ?]0;all is well?"), "{refused:?}");
        let (mut client, server) = pair();
        client.write_all("gridnet-perf 9 9\u{9b}2J9 00\n".as_bytes()).unwrap();
        let failure = answer(&server, &key(1), PATIENCE).unwrap_err();
        assert!(failure.text().contains("gridnet 9?2J9"), "{failure:?}");
    }

    #[test]
    fn who_says_nothing_is_not_waited_for() {
        let (_client, server) = pair();
        let failure = answer(&server, &key(1), Duration::from_millis(10)).unwrap_err();
        assert_eq!(failure.text(), "it says nothing");
    }

    #[test]
    fn digits_are_read_as_they_are_written() {
        assert_eq!(unhex(&hex(&[0, 127, 255])), Some(vec![0, 127, 255]));
        assert_eq!((unhex("0"), unhex("0g"), unhex("")), (None, None, Some(Vec::new())));
    }
}
