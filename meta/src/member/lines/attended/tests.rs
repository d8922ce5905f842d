//! What comes while a program polls, and after it has stopped.

use std::cell::RefCell;
use std::sync::mpsc::{channel, Sender};

use tokio::task::JoinHandle;

use super::super::packets::{Listener, Packets};
use super::super::stages::Side;
use super::super::At;
use super::*;
use crate::clock::Moment;
use crate::driver::Driver;
use crate::member::{About, ECHO};
use crate::message::{Message, Request};
use crate::testing::{Parties, LONG};

/// A member with an end of a line to another one, and what that one has.
struct Scene {
    shared: Arc<Shared>,
    theirs: Packets,
    /// Takes what comes, when it is woken.
    takes: JoinHandle<()>,
    _stop: watch::Sender<bool>,
    asked: u64,
    // The thread ends last.
    driver: Driver,
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

impl Scene {
    /// With its thread, which also looks whether somebody still polls, if it `looks`.
    fn new(looks: bool) -> Scene {
        let (parties, driver) = (Parties::new(), Driver::start().unwrap());
        let about = About::new("tests".parse().unwrap());
        let shared = Shared::new(Vec::new(), about, parties.member(0), driver.common()).unwrap();
        let (shared, of) = (Arc::new(shared), (parties.node(1), 1));
        let (told, (stop, stopped)) = (std::sync::mpsc::channel(), watch::channel(false));
        let (tell, of_thread) = (told.0, shared.clone());
        let takes = driver.common().handle.spawn(async move {
            let (listener, name) = Listener::open().unwrap();
            let theirs = Packets::connect(name).unwrap();
            let ours = listener.accept().await.unwrap();
            let ours = Arc::new(Direct::new(ours, of, Moment::from_unix(i64::MAX), (1, false)));
            let _wanted = of_thread.stands(of, &ours);
            of_thread.lines.attended.add(&ours);
            tell.send(theirs).unwrap();
            while !matches!(ours.when_come(&of_thread).await.unwrap(), Some(Err(_))) {}
        });
        let theirs = told.1.recv().unwrap();
        if looks {
            let shared = shared.clone();
            drop(driver.common().handle.spawn(async move { look(&shared, stopped).await }));
        }
        Scene { shared, theirs, takes, _stop: stop, asked: 0, driver }
    }

    fn attended(&self) -> &Attended {
        &self.shared.lines.attended
    }

    /// Polls until everything is left to who polls.
    fn poll(&self) {
        let deadline = Instant::now() + LONG;
        while !self.attended().is_left() {
            assert!(Instant::now() < deadline, "it is never left to who polls");
            self.attended().poll(Instant::now());
        }
    }

    fn ask(&mut self) {
        self.asked += 1;
        let (id, body) = (self.asked, b"x".to_vec());
        let request = Message::Request(Request { id, done: id, service: ECHO, left_ms: 1000, body });
        assert!(self.theirs.try_say(&request.encode().unwrap()).unwrap());
    }

    fn is_answered(&self) -> bool {
        self.theirs.try_hear(&mut [0; 4096]).unwrap().is_some_and(|len| len > 0)
    }

    /// The thread of the member has looked at everything by which it is woken.
    fn turns(&self) {
        for _ in 0..10 {
            let (tell, told) = std::sync::mpsc::channel();
            drop(self.driver.common().handle.spawn(async move { tell.send(()).unwrap() }));
            told.recv().unwrap();
        }
    }
}

impl Shared {
    /// As a line is known that stands.
    fn stands(
        &self,
        of: (gridnet_core::wire::NodeId, u64),
        line: &Arc<Direct>,
    ) -> tokio::sync::mpsc::Receiver<Vec<u8>> {
        self.post.office().line_stands(of, Instant::now());
        let mut stages = self.lines.stages();
        stages.begin(of, Side::Theirs, self.node, Instant::now()).unwrap();
        stages.stands(of, (At::Process(1), false), Some(line.clone()), Instant::now()).unwrap()
    }
}

#[test]
fn who_polls_has_it_alone_and_who_goes_to_sleep_leaves_it() {
    let mut scene = Scene::new(false);
    // Also where the thread was woken before, for what somebody else has taken.
    for _ in 0..5 {
        scene.ask();
        until("the thread answers", || scene.is_answered());
        // And has looked for more.
        scene.turns();
        scene.poll();
        scene.ask();
        scene.turns();
        assert!(!scene.is_answered(), "the thread was woken");
        scene.attended().polls.rest();
        scene.attended().leave(false);
        until("the thread answers what had come", || scene.is_answered());
        scene.turns();
        scene.poll();
        scene.ask();
        let came = scene.attended().come();
        assert_eq!((came.len(), came[0].take_some(&scene.shared)), (1, 1));
        assert!(scene.is_answered(), "by who polls");
        scene.attended().leave(false);
    }
}

#[test]
fn who_does_not_poll_any_more_is_found_out() {
    let mut scene = Scene::new(true);
    for _ in 0..3 {
        scene.poll();
        scene.ask();
        until("the thread answers", || scene.is_answered());
        // And has looked for more.
        scene.turns();
        assert!(!scene.attended().is_left());
    }
    // And so is that the other one has gone.
    scene.poll();
    let Scene { theirs, takes, _stop, driver, .. } = scene;
    drop(theirs);
    until("the thread knows", || takes.is_finished());
    drop(driver);
}

#[test]
fn a_line_that_comes_to_stand_meanwhile_is_left_to_who_polls_too() {
    let scene = Scene::new(false);
    scene.poll();
    let other = Scene::new(false);
    assert!(!other.attended().is_left());
    let line = other.attended().lines().first().unwrap().clone();
    // As if it were of the first one.
    scene.attended().add(&line);
    other.theirs.try_say(b"no message").unwrap();
    other.turns();
    assert!(!other.takes.is_finished(), "the thread was woken");
    scene.attended().leave(false);
    until("the thread takes it", || other.takes.is_finished());
}

/// As in a handler of `exit`, which runs when what threads keep has ended.
#[test]
fn who_polls_when_the_thread_ends_leaves_it() {
    struct AtEnd(Arc<Shared>, Sender<usize>);
    impl Drop for AtEnd {
        fn drop(&mut self) {
            let _ = self.1.send(attend(&self.0));
        }
    }
    thread_local!(static AT_END: RefCell<Option<AtEnd>> = const { RefCell::new(None) });
    let mut scene = Scene::new(false);
    scene.poll();
    scene.ask();
    let (tell, told) = channel();
    let (handle, at_end) = (scene.driver.common().handle, AtEnd(scene.shared.clone(), tell));
    let thread = std::thread::spawn(move || {
        // What is used first ends last.
        AT_END.with(|end| *end.borrow_mut() = Some(at_end));
        drop(handle.enter());
    });
    thread.join().unwrap();
    assert_eq!(told.recv(), Ok(0));
    until("the thread answers what had come", || scene.is_answered());
}

#[test]
fn polling_is_steady_after_a_while_and_until_a_pause_or_a_rest() {
    let start = Instant::now();
    let polls = Polls { start, last: AtomicU64::new(0), since: AtomicU64::new(Polls::NOT) };
    let at = |micros| start + PAUSE + Duration::from_micros(micros);
    assert_eq!((polls.poll(at(0)), polls.poll(at(500))), (Pace::Paused, Pace::New));
    assert_eq!((polls.poll(at(999)), polls.poll(at(1000))), (Pace::New, Pace::Steady));
    polls.rest();
    assert_eq!((polls.poll(at(1100)), polls.poll(at(2000))), (Pace::New, Pace::New));
    assert_eq!(polls.poll(at(2100)), Pace::Steady);
    assert!(!polls.is_paused(at(3000)) && polls.is_paused(at(3100)));
    assert_eq!((polls.poll(at(3100)), polls.poll(at(3200))), (Pace::Paused, Pace::New));
}
