use super::*;
use crate::facts::Facts;
use crate::rules::{Pair, Rules};

const LIMIT: Duration = Duration::from_secs(30);

struct Scene {
    call: Call,
    cache: Cache,
    now: Instant,
}

fn service() -> Name {
    "files".parse().unwrap()
}

fn wish(rules: &str, now: Instant) -> Wish {
    let [from, to] = ["a@A/h1", "b@B/h2"].map(|text| Facts::describe(text).unwrap());
    let rules: Rules = rules.parse().unwrap();
    let choice = Choice::new(&rules, &Pair { from: &from, to: &to, service: &service() }, Security::Plain);
    let hints = [("tls/tcp".to_owned(), vec![4])].into();
    Wish {
        to: to.node,
        service: service(),
        choice,
        hints,
        first: b"first".to_vec().into(),
        deadline: now + LIMIT,
    }
}

/// The stacks of a request.
fn asked(actions: &[Action]) -> (Ask, Vec<String>) {
    let Some(Action::Say(bytes)) = actions.first() else { panic!("{actions:?}") };
    let ask = Ask::decode(bytes).unwrap();
    let stacks = ask.candidates.iter().map(|wanted| wanted.stack.clone()).collect();
    (ask, stacks)
}

fn path(actions: &[Action]) -> Path {
    match actions.iter().find_map(|action| match action {
        Action::Connect(path) => Some(path.clone()),
        _ => None,
    }) {
        Some(path) => path,
        None => panic!("{actions:?}"),
    }
}

fn failure(actions: &[Action]) -> String {
    match actions.last() {
        Some(Action::Failed(failure)) => failure.to_string(),
        _ => panic!("{actions:?}"),
    }
}

impl Scene {
    fn begin(rules: &str, cache: Cache) -> (Scene, Vec<Action>) {
        let (now, mut cache) = (Instant::now(), cache);
        let (call, actions) = Call::begin(wish(rules, now), (7, 1), &mut cache, now);
        (Scene { call, cache, now }, actions)
    }

    fn hear(&mut self, attempt: u16, outcome: Outcome, failed: Vec<Failed>) -> Vec<Action> {
        let reply = Reply { incarnation: 100, connection: 1, attempt, outcome, failed };
        self.call.heard(&reply.encode().unwrap(), &mut self.cache, self.now)
    }

    fn hear_built(&mut self, attempt: u16, index: u16, place: &[u8]) -> Vec<Action> {
        let grant = Some(Grant { incarnation: 100, token: 2 });
        self.hear(attempt, Outcome::Built(Built { index, place: place.to_vec(), grant }), Vec::new())
    }

    fn connected(&mut self, path: &Path, outcome: Result<(), &str>) -> Vec<Action> {
        self.call.connected(path.number, outcome.map_err(str::to_owned), &mut self.cache, self.now)
    }
}

/// A cache in which the path by tls/tcp is.
fn warm() -> Cache {
    let (mut scene, _) = Scene::begin("", Cache::default());
    scene.hear_built(0, 0, b"there");
    assert_eq!(scene.cache.len(), 1);
    scene.cache
}

#[test]
fn a_request_is_answered_and_the_path_comes_up() {
    let (mut scene, actions) = Scene::begin("", Cache::default());
    let (ask, stacks) = asked(&actions);
    assert_eq!(
        (stacks, &ask.first[..], ask.attempt),
        (vec!["tls/tcp".into(), "tls/relay".into()], &b"first"[..], 0)
    );
    assert_eq!((ask.candidates[0].hint.as_slice(), ask.left_ms, actions.len()), (&[4][..], 30_000, 1));
    let path = path(&scene.hear_built(0, 0, b"there"));
    assert_eq!(
        (path.place.as_slice(), path.security, path.again),
        (&b"there"[..], Security::Encrypted, None)
    );
    assert_eq!(scene.hear_built(0, 0, b"there"), [], "a second time");
    assert_eq!(scene.connected(&path, Ok(())), [Action::Up(Box::new(path.clone()))]);
    assert!(scene.call.is_over() && scene.call.next_look().is_none());
    assert_eq!(scene.connected(&path, Ok(())), []);
    assert_eq!(scene.call.look(scene.now + LIMIT), []);
}

#[test]
fn the_next_stack_follows_and_all_reasons_are_kept() {
    let (mut scene, _) = Scene::begin("", Cache::default());
    let first = path(&scene.hear_built(0, 0, b"there"));
    let actions = scene.connected(&first, Err("connection\nrefused"));
    let (ask, stacks) = asked(&actions);
    assert_eq!((ask.attempt, stacks), (1, vec!["tls/relay".to_owned()]));
    assert!(scene.cache.is_empty(), "nothing is taken for granted there");
    assert_eq!(scene.hear_built(0, 0, b"there"), [], "of the try before");
    let failed = vec![Failed { index: 0, refusal: Refusal::Build, why: "no room".into() }];
    let actions = scene.hear(1, Outcome::Refused(Refusal::Build, "none could be built".into()), failed);
    assert_eq!(
        failure(&actions),
        "tls/tcp: connection?refused; tls/relay: refused (build): no room; refused (build): none could be built; \
         shm not tried: they are not known to be on one host"
    );
}

#[test]
fn what_the_other_side_left_out_is_not_asked_for_again() {
    let (mut scene, _) = Scene::begin("", Cache::default());
    let failed = vec![
        Failed { index: 0, refusal: Refusal::Policy, why: "not here".into() },
        Failed { index: 9, refusal: Refusal::Policy, why: "of nothing".into() },
    ];
    let built = Outcome::Built(Built { index: 1, place: vec![], grant: None });
    let path = path(&scene.hear(0, built, failed));
    assert_eq!(path.stack.to_string(), "tls/relay");
    let actions = scene.connected(&path, Err("broken"));
    assert!(failure(&actions)
        .starts_with("tls/tcp: refused (policy): not here; tls/relay: broken; shm not tried"));
}

#[test]
fn answers_that_make_no_sense_end_it() {
    let (mut scene, _) = Scene::begin("", warm());
    let nothing = Outcome::Built(Built { index: 2, place: vec![], grant: None });
    let actions = scene.hear(0, nothing, Vec::new());
    assert!(matches!(actions.first(), Some(Action::Close(1))), "{actions:?}");
    assert!(failure(&actions).contains("built what was not asked for") && scene.cache.is_empty());
    let (mut scene, _) = Scene::begin("", Cache::default());
    let actions = scene.call.heard(b"nonsense", &mut scene.cache, scene.now);
    assert!(failure(&actions).starts_with("its answer makes no sense: it is of the unknown kind"));
}

#[test]
fn it_asks_again_until_its_time_is_over() {
    let (mut scene, _) = Scene::begin("", Cache::default());
    let (start, mut said) = (scene.now, 0);
    while let Some(next) = scene.call.next_look() {
        assert!(next >= scene.now, "time passes");
        scene.now = next;
        match scene.call.look(next).as_slice() {
            [Action::Say(_)] => said += 1,
            actions => assert!(failure(actions).starts_with("no answer has come in time")),
        }
    }
    assert_eq!((said, scene.now - start), (3, LIMIT), "after 3, 9 and 21 s");
}

#[test]
fn one_that_is_put_off_asks_again_soon() {
    let (mut scene, _) = Scene::begin("", Cache::default());
    assert_eq!(scene.hear(0, Outcome::Refused(Refusal::Busy, "wait".into()), Vec::new()), []);
    let next = scene.call.next_look().unwrap();
    assert!(next - scene.now <= AGAIN_SOON);
    assert!(matches!(scene.call.look(next)[..], [Action::Say(_)]));
    scene.hear(0, Outcome::Refused(Refusal::Rate, "too often".into()), Vec::new());
    assert!(failure(&scene.call.look(scene.now + LIMIT)).starts_with("put off (rate): too often"));
}

#[test]
fn one_that_is_not_known_yet_asks_for_the_same_again_until_its_time_is_over() {
    let (mut scene, actions) = Scene::begin("", warm());
    let first = path(&actions);
    let not_yet = || Outcome::Refused(Refusal::Unknown, "not yet".into());
    for attempt in 0..5 {
        let actions = scene.hear(attempt, not_yet(), Vec::new());
        let is_first = attempt == 0;
        assert_eq!(actions.first(), is_first.then_some(&Action::Close(first.number)), "nothing is granted");
        assert_eq!(scene.hear(attempt, not_yet(), Vec::new()), [], "of the try before");
        let next = scene.call.next_look().unwrap();
        assert!(next <= scene.now + AGAIN.0, "soon");
        scene.now = next;
        let (ask, stacks) = asked(&scene.call.look(next));
        assert_eq!((ask.attempt, ask.again, stacks.len(), ask.first.len()), (attempt + 1, None, 2, 5));
    }
    assert_eq!(path(&scene.hear_built(5, 0, b"there")).attempt, 5);
    let (mut scene, _) = Scene::begin("", Cache::default());
    scene.hear(0, not_yet(), Vec::new());
    assert!(failure(&scene.call.look(scene.now + LIMIT)).starts_with("put off (unknown): not yet"));
}

#[test]
fn a_service_that_is_not_there_is_asked_for_as_long_as_a_start_takes() {
    for is_carried in [true, false] {
        let (mut scene, _) = Scene::begin("", Cache::default());
        let (begun, mut attempt) = (scene.now, 0);
        let end = loop {
            let actions = match is_carried {
                true => {
                    attempt += 1;
                    scene.hear(attempt - 1, Outcome::Refused(Refusal::Service, "none".into()), Vec::new())
                }
                false => scene.call.unserved("none", &mut scene.cache, scene.now),
            };
            if scene.call.is_over() {
                break failure(&actions);
            }
            scene.now = scene.call.next_look().unwrap();
            assert!(matches!(scene.call.look(scene.now)[..], [Action::Say(_)]));
        };
        assert!(end.contains("none") && !end.contains("put off"), "{end}");
        assert!((STARTING..2 * STARTING).contains(&(scene.now - begun)), "{:?}", scene.now - begun);
        assert_eq!(scene.call.unserved("none", &mut scene.cache, scene.now), [], "it is over");
    }
}

#[test]
fn the_second_connection_goes_there_at_once() {
    let (mut scene, actions) = Scene::begin("", warm());
    let (ask, _) = asked(&actions);
    let path = path(&actions);
    assert_eq!((ask.again, path.again), (Some(Grant { incarnation: 100, token: 2 }), ask.again));
    assert_eq!(path.place, b"there");
    // It is up when both are there, in any order.
    assert_eq!(scene.connected(&path, Ok(())), []);
    assert_eq!(scene.hear_built(0, 0, b"there"), [Action::Up(Box::new(path.clone()))]);
    let (mut scene, _) = Scene::begin("", warm());
    assert_eq!(scene.hear_built(0, 0, b"there"), []);
    assert_eq!(scene.connected(&path, Ok(())), [Action::Up(Box::new(path))]);
}

#[test]
fn better_stacks_have_their_turn_again_after_a_while() {
    let (mut scene, _) = Scene::begin("", Cache::default());
    scene.hear_built(0, 1, b"relayed");
    let begin = |cache: &mut Cache, now: Instant| Call::begin(wish("", now), (7, 1), cache, now);
    let later = scene.now + SECOND_BEST - Duration::from_millis(1);
    let (mut call, actions) = begin(&mut scene.cache, later);
    assert_eq!(path(&actions).place, b"relayed");
    // That it came up once more does not make it better.
    let built = Outcome::Built(Built {
        index: 1,
        place: b"relayed".into(),
        grant: Some(Grant { incarnation: 100, token: 3 }),
    });
    let reply = Reply { incarnation: 100, connection: 1, attempt: 0, outcome: built, failed: Vec::new() };
    call.heard(&reply.encode().unwrap(), &mut scene.cache, later);
    let (_, actions) = begin(&mut scene.cache, later + Duration::from_millis(1));
    assert_eq!((actions.len(), asked(&actions).0.again), (1, None));
    // The best one stays.
    let mut cache = warm();
    let (_, actions) = begin(&mut cache, Instant::now() + 100 * SECOND_BEST);
    assert_eq!(path(&actions).place, b"there");
}

#[test]
fn another_place_or_a_refusal_ends_the_path_that_was_made_at_once() {
    for is_up in [true, false] {
        let (mut scene, actions) = Scene::begin("", warm());
        let first = path(&actions);
        if is_up {
            scene.connected(&first, Ok(()));
        }
        let actions = scene.hear_built(0, 0, b"elsewhere");
        assert_eq!(actions[0], Action::Close(first.number));
        let second = path(&actions);
        assert_eq!((second.place.as_slice(), second.number), (&b"elsewhere"[..], first.number + 1));
        assert_eq!(scene.connected(&first, Ok(())), [], "that one is not wanted");
        assert_eq!(scene.connected(&second, Ok(())), [Action::Up(Box::new(second))]);
        let (mut scene, actions) = Scene::begin("", warm());
        let first = path(&actions);
        if is_up {
            scene.connected(&first, Ok(()));
        }
        let actions = scene.hear(0, Outcome::Refused(Refusal::Security, "no".into()), Vec::new());
        assert_eq!(actions[0], Action::Close(first.number));
        assert!(failure(&actions).starts_with("refused (security): no") && scene.cache.is_empty());
    }
}

#[test]
fn a_path_that_fails_before_the_answer_is_made_once_more_when_the_answer_leads_there() {
    for is_answered in [false, true] {
        let (mut scene, actions) = Scene::begin("", warm());
        let first = path(&actions);
        // Perhaps it came there before the request.
        let again = match is_answered {
            false => {
                assert_eq!(scene.connected(&first, Err("refused")), []);
                scene.hear_built(0, 0, b"there")
            }
            true => {
                assert_eq!(scene.hear_built(0, 0, b"there"), []);
                scene.connected(&first, Err("refused"))
            }
        };
        let second = path(&again);
        assert_eq!((again.len(), &second.place, second.again), (1, &first.place, None));
        let actions = scene.connected(&second, Err("nobody there"));
        let (ask, stacks) = asked(&actions);
        assert_eq!((ask.attempt, ask.again, stacks), (1, None, vec!["tls/relay".to_owned()]));
    }
    // One that nobody answers is not tried for twice as long.
    let (mut scene, actions) = Scene::begin("", warm());
    scene.hear_built(0, 0, b"there");
    scene.now += TOO_EARLY;
    assert_eq!(asked(&scene.connected(&path(&actions), Err("nobody there"))).1, ["tls/relay"]);
    // When the other side has moved, it does not count.
    let (mut scene, actions) = Scene::begin("", warm());
    scene.connected(&path(&actions), Err("nobody there"));
    assert_eq!(path(&scene.hear_built(0, 0, b"elsewhere")).place, b"elsewhere");
}

#[test]
fn a_path_to_an_earlier_life_is_not_taken_for_one_to_this() {
    let (mut scene, actions) = Scene::begin("", warm());
    let first = path(&actions);
    scene.connected(&first, Ok(()));
    // It was started again since, and listens at the same place.
    let built = Outcome::Built(Built { index: 0, place: b"there".into(), grant: None });
    let reply = Reply { incarnation: 101, connection: 1, attempt: 0, outcome: built, failed: Vec::new() };
    let actions = scene.call.heard(&reply.encode().unwrap(), &mut scene.cache, scene.now);
    assert_eq!(actions[0], Action::Close(first.number));
    assert_eq!(path(&actions).again, None);
}

#[test]
fn what_was_agreed_in_another_life_or_by_other_rules_is_not_used() {
    let (_, actions) = Scene::begin("scheme = 'relay-only'", warm());
    assert_eq!((actions.len(), asked(&actions).0.again), (1, None), "the rules lead elsewhere");
    let mut cache = warm();
    cache.seen(Facts::describe("b@B/h2").unwrap().node, 101);
    assert_eq!(Scene::begin("", cache).1.len(), 1);
}

#[test]
fn nothing_is_asked_that_cannot_be() {
    let now = Instant::now();
    let mut none = wish("", now);
    none.choice.candidates.clear();
    let (call, actions) = Call::begin(none, (7, 1), &mut Cache::default(), now);
    assert!(call.is_over() && failure(&actions).starts_with("no stack is allowed; shm not tried"));
    let long = Wish { first: vec![0; FIRST_BYTES_MAX + 1].into(), ..wish("", now) };
    let (_, actions) = Call::begin(long, (7, 1), &mut Cache::default(), now);
    assert!(failure(&actions).starts_with("there is too much data"));
    let mut talkative = wish("", now);
    talkative.hints.insert("tls/tcp".into(), vec![0; 1000]);
    let (_, actions) = Call::begin(talkative, (7, 1), &mut Cache::default(), now);
    assert!(failure(&actions).starts_with("a method has too much to say"));
}

#[test]
fn a_reason_of_the_other_side_is_one_reason() {
    let why = "no; stack shm: encrypted, agreed on".to_owned();
    let tried = Tried { stack: None, refusal: Some(Refusal::Policy), why };
    let failure = Failure { left_out: Vec::new(), by: String::new(), tried: vec![tried] };
    assert_eq!(failure.reasons(), ["refused (policy): no; stack shm: encrypted, agreed on"]);
    assert_eq!(failure.to_string(), failure.reasons()[0]);
}
