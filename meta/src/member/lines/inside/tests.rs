//! Who gets in at the door of a line within a host.

use std::io::BufRead;

use super::*;
use crate::driver::Driver;
use crate::member::About;
use crate::testing::{in_runtime, Parties, LONG};

/// A member, as its thread has it.
fn listening(parties: &Parties) -> (Driver, Arc<Shared>) {
    let driver = Driver::start().unwrap();
    let about = About::new("tests".parse().unwrap());
    let shared = Shared::new(Vec::new(), about, parties.member(0), driver.common()).unwrap();
    (driver, Arc::new(shared))
}

/// Waits at a gate; who has come in.
fn waiting(shared: &Arc<Shared>, gate: Gate) -> tokio::task::JoinHandle<Result<(u32, bool), String>> {
    let shared = shared.clone();
    tokio::spawn(
        async move { wait(&shared, gate, never()).await.map(|direct| (direct.pid, direct.has_called)) },
    )
}

/// Calls a gate, and says nonsense: it hears nothing.
async fn call_as_stranger(name: Name) {
    let stranger = Packets::connect(name).unwrap();
    stranger.try_say(b"GET / HTTP/1.0").unwrap();
    assert!(stranger.hear::<SECRET_BYTES>().await.is_err());
}

fn never() -> Moment {
    Moment::from_unix(i64::MAX)
}

#[test]
fn only_who_has_the_secret_gets_in_and_it_is_good_for_one_line() {
    let parties = Parties::new();
    let (_driver, shared) = listening(&parties);
    let (own, other) = (parties.node(0), parties.node(1));
    in_runtime(async {
        let (gate, entry) = open(own, (other, 7)).unwrap();
        let waits = waiting(&shared, gate);
        // Nonsense, another node, another line, another secret.
        call_as_stranger(entry.name).await;
        for (node, number, secret) in
            [(parties.node(2), 7, entry.secret), (other, 8, entry.secret), (other, 7, [1; SECRET_BYTES])]
        {
            let called = call(node, (own, number), Entry { secret, ..entry.clone() }, never()).await;
            assert!(called.is_err());
        }
        assert!(!waits.is_finished());
        let direct = call(other, (own, 7), entry.clone(), never()).await.unwrap();
        assert_eq!((direct.pid, direct.has_called), (std::process::id(), true));
        assert_eq!(waits.await.unwrap(), Ok((std::process::id(), false)));
        let again = call(other, (own, 7), entry, never()).await;
        assert!(again.is_err_and(|why| why.contains("refused")), "nobody listens any more");
    });
    let lines: Vec<(String, String)> =
        shared.lock().audit.lines().map(|line| (line.who.clone(), line.why.clone())).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let own = format!("process {}", std::process::id());
    assert!(lines.iter().all(|(who, why)| *who == own && why.contains("the door of a line")), "{lines:#?}");
    assert!(lines.iter().any(|(_, why)| why.ends_with("does not prove to be it")), "{lines:#?}");
}

/// Nobody has to be heard again and again: the gate is shut, and whoever is waited for goes another way.
#[test]
fn a_gate_is_shut_when_too_many_have_called_who_are_not_the_one() {
    let parties = Parties::new();
    let (_driver, shared) = listening(&parties);
    let (own, other) = (parties.node(0), parties.node(1));
    in_runtime(async {
        let (gate, entry) = open(own, (other, 7)).unwrap();
        let waits = waiting(&shared, gate);
        for called in 0..DENIED_MAX {
            assert!(!waits.is_finished(), "after {called}");
            call_as_stranger(entry.name).await;
        }
        let why = waits.await.unwrap().unwrap_err();
        assert!(why.contains("64 have called"), "{why}");
        let called = call(other, (own, 7), entry, never()).await;
        assert!(called.is_err_and(|why| why.contains("refused")), "nobody listens any more");
    });
}

/// In a namespace without users everybody looks like one: the kernel's word for it is worth nothing.
#[test]
fn where_users_are_not_mapped_there_is_no_line_without_tls() {
    const CHILD: &str = "LINES_WITHOUT_USERS";
    if std::env::var_os(CHILD).is_some() {
        let (own, other) = (NodeId::new([1; 16]).unwrap(), NodeId::new([2; 16]).unwrap());
        return in_runtime(async {
            assert_ne!(own_uid(), 0);
            let entry =
                Entry { uid: own_uid(), name: Listener::open().unwrap().1, secret: [1; SECRET_BYTES] };
            assert!(open(own, (other, 7)).is_err_and(|why| why.contains("not mapped")));
            let called = call(other, (own, 7), entry, never()).await;
            assert!(called.is_err_and(|why| why.contains("not mapped")));
        });
    }
    let name = "member::lines::inside::tests::where_users_are_not_mapped_there_is_no_line_without_tls";
    let mut child = std::process::Command::new("unshare");
    child.args(["--user", "--"]).arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    match child.env(CHILD, "1").output() {
        Ok(said) if String::from_utf8_lossy(&said.stderr).contains("unshare failed") => {
            println!("SKIPPED: users that are not mapped: the system gives no user namespace");
        }
        Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout)),
        Err(_) => println!("SKIPPED: users that are not mapped: there is no unshare"),
    }
}

#[test]
fn who_listens_proves_it_too() {
    let parties = Parties::new();
    let [own, other] = [0, 1].map(|party| parties.node(party));
    in_runtime(async {
        // One that is in its place, and sends back what it hears.
        let (gate, entry) = open(own, (other, 7)).unwrap();
        let echo = async {
            let caller = gate.listener.accept().await.unwrap();
            let proof = caller.hear::<SECRET_BYTES>().await.unwrap();
            caller.try_say(&proof).unwrap();
            caller
        };
        let (called, _caller) = tokio::join!(call(other, (own, 7), entry.clone(), never()), echo);
        assert!(called.is_err_and(|why| why.contains("does not prove")));
        let elsewhere = Entry { uid: own_uid() + 1, ..entry };
        let called = call(other, (own, 7), elsewhere, never()).await;
        assert!(called.is_err_and(|why| why.contains("of user")));
    });
}

/// Whoever listens there: before anything is said the kernel is asked who it is.
#[test]
fn a_process_of_another_user_that_listens_hears_nothing() {
    const LISTEN: &str = "import os, socket, sys\n\
        os.setgid(65534); os.setuid(65534)\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        s.settimeout(float(sys.argv[2]))\n\
        s.bind('\\0gridnet-line-' + sys.argv[1]); s.listen()\n\
        print('listens', flush=True)\n\
        print(len(s.accept()[0].recv(4096)))\n";
    if own_uid() != 0 {
        return println!("SKIPPED: a process of another user that listens: only root can start one");
    }
    let name = in_runtime(async { Listener::open().unwrap().1 });
    let mut python = std::process::Command::new("python3");
    python
        .args(["-c", LISTEN, &name.hex(), &LONG.as_secs().to_string()])
        .stdout(std::process::Stdio::piped());
    let Ok(mut other) = python.spawn() else {
        return println!("SKIPPED: a process of another user that listens: there is no python3");
    };
    let mut said = std::io::BufReader::new(other.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "listens");
    let [own, to] = [1, 2].map(|number| NodeId::new([number; 16]).unwrap());
    let entry = Entry { uid: own_uid(), name, secret: [1; SECRET_BYTES] };
    let called = in_runtime(async { call(own, (to, 7), entry, never()).await.map(drop) });
    assert!(called.is_err_and(|why| why.contains("is of user 65534")));
    assert_eq!(said.next().unwrap().unwrap(), "0", "nothing was said");
    assert!(other.wait().unwrap().success());
}

/// A process of another user calls, by a program that is there anyway.
#[test]
fn a_process_of_another_user_is_refused_and_noted() {
    if own_uid() != 0 {
        return println!("SKIPPED: a process of another user: only root can start one");
    }
    let parties = Parties::new();
    let (_driver, shared) = listening(&parties);
    let (own, other) = (parties.node(0), parties.node(1));
    let is_denied = in_runtime(async {
        let (gate, entry) = open(own, (other, 7)).unwrap();
        // It knows the name, and the right proof.
        let pact = Pact { number: 7, nodes: [other, own], secret: JoinSecret::from_bytes(entry.secret) };
        let (name, proof) = (entry.name.hex(), crate::hex::encode(&pact.prove(Role::Caller)));
        let called = tokio::task::spawn_blocking(move || call_as_another(&name, &proof));
        let is_over = tokio::select! {
            _ = wait(&shared, gate, never()) => panic!("it got in"),
            called = called => called.unwrap(),
        };
        is_over
    });
    let Some(heard) = is_denied else {
        return println!("SKIPPED: a process of another user: there is no python3");
    };
    assert_eq!(heard, "0", "the connection is closed, and nothing was said");
    let lines: Vec<String> = shared.lock().audit.lines().map(|line| line.why.clone()).collect();
    assert!(lines.iter().any(|why| why.contains("is of user 65534")), "{lines:#?}");
}

/// How many bytes it hears.
fn call_as_another(name: &str, proof: &str) -> Option<String> {
    const CALL: &str = "import os, socket, sys\n\
        os.setgid(65534); os.setuid(65534)\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        s.settimeout(float(sys.argv[3]))\n\
        s.connect('\\0gridnet-line-' + sys.argv[1])\n\
        try:\n\
        \x20   s.send(bytes.fromhex(sys.argv[2]))\n\
        \x20   print(len(s.recv(4096)))\n\
        except (BrokenPipeError, ConnectionResetError):\n\
        \x20   print(0)\n";
    let limit = LONG.as_secs().to_string();
    let called =
        std::process::Command::new("python3").args(["-c", CALL, name, proof, &limit]).output().ok()?;
    assert!(called.status.success(), "{}", String::from_utf8_lossy(&called.stderr));
    Some(String::from_utf8_lossy(&called.stdout).trim().to_owned())
}
