use super::*;
use crate::authority::{Authority, AuthorityKey};
use crate::record::fields;
use proptest::prelude::*;

fn entry(byte: u16) -> Entry {
    let mut bytes = [1; 16];
    bytes[..2].copy_from_slice(&byte.to_le_bytes());
    let (cluster, label) = ("c".parse().unwrap(), "host.1".parse().unwrap());
    let (node, more) = (NodeId::new(bytes).unwrap(), Extras::default());
    Entry { node, cluster, label, since: 7, order: 1, leads: false, via: None, more }
}

fn authority() -> &'static Authority {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(entry(1).node, Moment::now()).unwrap())
}

fn follower_of(authority: &Authority) -> Follower {
    Follower::new(AuthorityKey::of(authority.certificate()).unwrap())
}

fn follower() -> Follower {
    follower_of(authority())
}

/// What the rendez-vous node tells one that is at `known`.
fn told(directory: &Directory, known: Version) -> Vec<Update> {
    directory.since(known, &Head::sign(directory, authority()).unwrap())
}

fn take_all(follower: &mut Follower, updates: Vec<Update>) -> Vec<Event> {
    updates.into_iter().flat_map(|update| follower.take(update).unwrap().to_vec()).collect()
}

fn catch_up(follower: &mut Follower, directory: &Directory) -> Vec<Event> {
    let updates = told(directory, follower.version());
    take_all(follower, updates)
}

fn same(directory: &Directory, follower: &Follower) -> bool {
    let known = follower.directory();
    directory.version() == known.version() && directory.tables == known.tables
}

#[test]
fn a_follower_sees_who_comes_and_goes() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    directory.join(entry(1));
    assert_eq!(catch_up(&mut follower, &directory), [Event::Joined(entry(1))]);
    assert_eq!(told(&directory, follower.version()), []);
    directory.join(entry(2));
    directory.join(entry(2));
    directory.leave(entry(1).node, Departure::Left);
    directory.leave(entry(1).node, Departure::Lost);
    let events = catch_up(&mut follower, &directory);
    assert_eq!(events, [Event::Joined(entry(2)), Event::Left(entry(1).node, Departure::Left)]);
    assert!(same(&directory, &follower));
}

#[test]
fn revocations_are_told_until_they_are_not_needed() {
    let (mut directory, mut early) = (Directory::new(5), follower());
    let (one, two, end) = (entry(1).node, entry(2).node, Moment::from_unix(1000));
    directory.join(entry(1));
    catch_up(&mut early, &directory);
    directory.revoke(one, end);
    directory.revoke(one, end);
    directory.revoke(two, end.after(std::time::Duration::from_secs(9)));
    assert_eq!(catch_up(&mut early, &directory), [Event::Left(one, Departure::Revoked)]);
    // By a snapshot, too.
    let mut late = follower();
    catch_up(&mut late, &directory);
    for follower in [&mut early, &mut late] {
        assert!(same(&directory, follower) && follower.directory().is_revoked(one));
    }
    directory.forget_ended(end);
    catch_up(&mut early, &directory);
    assert!(same(&directory, &early));
    assert_eq!(early.directory().revoked().collect::<Vec<_>>(), [two]);
    assert_eq!(directory.version().number, 5, "nothing is told twice");
}

#[test]
fn a_new_life_of_the_rendezvous_begins_with_everything_and_tells_differences_only() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    (1..=5).for_each(|i| directory.join(entry(i)));
    catch_up(&mut follower, &directory);
    let mut directory = Directory::new(6);
    (2..=4).for_each(|i| directory.join(Entry { since: 8, order: 9, ..entry(i) }));
    directory.join(entry(6));
    directory.revoke(entry(5).node, Moment::from_unix(1000));
    let left = |i: u16, why| Event::Left(entry(i).node, why);
    let events = catch_up(&mut follower, &directory);
    let expected = [left(1, Departure::Lost), left(5, Departure::Revoked), Event::Joined(entry(6))];
    assert_eq!(events, expected);
    assert!(same(&directory, &follower));
}

#[test]
fn a_follower_that_is_far_behind_gets_parts_that_fit() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    directory.join(entry(0));
    catch_up(&mut follower, &directory);
    (1..5000).for_each(|i| directory.join(entry(i)));
    (6000..6500).for_each(|i| directory.revoke(entry(i).node, Moment::from_unix(1000)));
    let updates = told(&directory, follower.version());
    assert!(updates.len() > 3, "{}", updates.len());
    // A part is missing: nothing changes, and the follower says so.
    let before = follower.version();
    let mut broken = updates.clone();
    broken.remove(2);
    assert!(broken.into_iter().any(|update| follower.take(update) == Err(Trouble::Gap)));
    assert_eq!((follower.version(), follower.entries().len()), (before, 1));
    assert_eq!(take_all(&mut follower, updates).len(), 4999);
    assert!(same(&directory, &follower));
}

#[test]
fn what_comes_from_the_future_is_counted_kept_and_passed_on() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    follower.keep_changes();
    catch_up(&mut follower, &directory);
    // An entry with fields that this version does not know: numbered ones are kept, those behind all others skipped.
    let with_extras = Entry { more: Extras::default().with(900, b"later").unwrap(), ..entry(1) };
    let longer = [postcard::to_stdvec(&with_extras).unwrap(), vec![1, 2, 3]].concat();
    assert_eq!(fields::<Entry>(&longer).unwrap(), with_extras);
    let record = Record::of_later(1, &longer);
    assert_eq!(record.change(), Some(Change::Joined(with_extras.clone())));
    add(&mut directory, record.clone());
    // A change of a kind that is not known yet, and one that says why in a way that is not.
    let unknown = Record::of_later(77, b"whatever");
    add(&mut directory, unknown.clone());
    directory.join(entry(2));
    let gone = Record::of_later(2, &postcard::to_stdvec(&(entry(2).node.bytes(), 99u16)).unwrap());
    add(&mut directory, gone.clone());
    let events = catch_up(&mut follower, &directory);
    let left = Event::Left(entry(2).node, Departure::Gone);
    assert_eq!(events, [Event::Joined(with_extras), Event::Joined(entry(2)), left]);
    assert!(same(&directory, &follower));
    // One who follows the follower gets all of it, as it was written.
    let known = Version { epoch: 5, number: 0 };
    let passed_on = follower.directory().since(known, follower.head().unwrap());
    let Part::Changes { records, .. } = &passed_on[0].part else { panic!("{passed_on:?}") };
    assert_eq!([&records[0], &records[1], &records[3]], [&record, &unknown, &gone]);
    let mut below = self::follower();
    catch_up(&mut below, &Directory::new(5));
    assert_eq!(take_all(&mut below, passed_on).len(), 3);
}

#[test]
fn newcomers_get_what_later_versions_have_in_a_state() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    follower.keep_changes();
    directory.join(entry(3));
    // An entry and a revocation with more fields, and records of a kind that is not known, one of which is ended.
    let longer = |record: &[u8]| [record, &[1, 2, 3]].concat();
    add(&mut directory, Record::of_later(1, &longer(&postcard::to_stdvec(&entry(1)).unwrap())));
    let revoked = entry(2).node;
    let until = (revoked.bytes(), 1_900_000_000i64);
    add(&mut directory, Record::of_later(3, &longer(&postcard::to_stdvec(&until).unwrap())));
    for (key, rest) in [(7, "first"), (7, "second"), (9, "gone"), (9, ""), (8, "other")] {
        add(&mut directory, Record::of_later(77, &[&[key; 16], rest.as_bytes()].concat()));
    }
    add(&mut directory, Record::of_later(78, b"no key"));
    assert_eq!(directory.tables.size(), 5);
    let newcomer = |of: &Directory, head: &Head| {
        let mut newcomer = self::follower();
        take_all(&mut newcomer, of.since(Version::default(), head));
        assert!(same(&directory, &newcomer));
    };
    // By the changes, and by all that there is; each passes on all that there is.
    catch_up(&mut follower, &directory);
    newcomer(follower.directory(), follower.head().unwrap());
    let mut late = self::follower();
    late.keep_changes();
    let head = Head::sign(&directory, authority()).unwrap();
    take_all(
        &mut late,
        Directory { log: VecDeque::new(), ..directory.clone() }.since(Version::default(), &head),
    );
    newcomer(late.directory(), late.head().unwrap());
    // What it has written itself is as ever.
    directory.leave(entry(1).node, Departure::Left);
    directory.join(entry(1));
    catch_up(&mut late, &directory);
    let mut below = self::follower();
    take_all(&mut below, late.directory().since(Version::default(), late.head().unwrap()));
    assert!(same(&directory, &below));
}

/// Does a change as one of a later version writes it.
fn add(directory: &mut Directory, record: Record) {
    drop(Arc::make_mut(&mut directory.tables).take(&record));
    directory.chain = head::chained(&directory.chain, &record);
    directory.keep(record);
}

/// Changes that say something else than the directory does, by whoever passes them on.
fn forged(update: &Update, part: impl FnOnce(&mut Vec<Record>)) -> Update {
    let mut forged = update.clone();
    let (Part::Snapshot { records, .. } | Part::Changes { records, .. }) = &mut forged.part;
    part(records);
    forged
}

#[test]
fn what_the_authority_has_not_said_is_not_taken() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    (1..=3).for_each(|i| directory.join(entry(i)));
    let whole = told(&directory, Version::default()).remove(0);
    let other = Authority::create(entry(1).node, Moment::now()).unwrap();
    let untrue = Record::from(&Change::Revoked(entry(2).node, Moment::from_unix(1000)));
    let cases = |directory: &Directory, update: &Update| {
        let mut unsigned = update.clone();
        unsigned.head.version.number += 1;
        let (mut of_life, mut longer) = (update.clone(), update.clone());
        of_life.head.version.epoch += 1;
        longer.head.size += 1;
        vec![
            forged(update, |records| records[0] = untrue.clone()),
            forged(update, |records| records.push(untrue.clone())),
            forged(update, |records| records.swap(0, 1)),
            unsigned,
            of_life,
            longer,
            Update { head: Head::sign(directory, &other).unwrap(), ..update.clone() },
        ]
    };
    for (number, update) in cases(&directory, &whole).into_iter().enumerate() {
        assert_eq!(follower.take(update), Err(Trouble::Forged), "snapshot {number}");
        assert_eq!((follower.version(), follower.head()), (Version::default(), None));
    }
    let signed = whole.head.clone();
    take_all(&mut follower, vec![whole]);
    (4..=6).for_each(|i| directory.join(entry(i)));
    let before = follower.version();
    let changes = told(&directory, before).remove(0);
    for (number, update) in cases(&directory, &changes).into_iter().enumerate() {
        let taken = follower.take(update);
        // Changes of a life that is not known begin nowhere.
        assert!(
            taken == Err(if number == 4 { Trouble::Gap } else { Trouble::Forged }),
            "{number}: {taken:?}"
        );
        assert_eq!((follower.version(), follower.head()), (before, Some(&signed)));
    }
    assert_eq!(take_all(&mut follower, vec![changes]).len(), 3);
}

#[test]
fn what_is_of_the_past_is_not_taken_again() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    directory.join(entry(1));
    let first = told(&directory, Version::default());
    directory.leave(entry(1).node, Departure::Left);
    let second = told(&directory, Version::default());
    let mut later = Directory::new(6);
    later.join(entry(2));
    take_all(&mut follower, second.clone());
    assert_eq!(take_all(&mut follower, first.clone()), [], "an earlier state of the same life");
    catch_up(&mut follower, &later);
    assert_eq!(take_all(&mut follower, [first.clone(), second.clone()].concat()), [], "an earlier life");
    assert!(same(&later, &follower));
    // One that knows nothing, but where the rendez-vous node was.
    let mut newcomer = self::follower();
    newcomer.raise_floor(Version { epoch: 5, number: 2 });
    assert_eq!(take_all(&mut newcomer, first), []);
    assert_eq!(newcomer.version(), Version::default());
    take_all(&mut newcomer, second);
    assert_eq!(newcomer.version(), Version { epoch: 5, number: 2 });
}

#[test]
fn followers_of_one_process_share_what_they_know_and_believe_no_more_for_it() {
    let (mut directory, shelf) = (Directory::new(5), Arc::<Shelf>::default());
    let beside = |authority: &Authority| {
        Follower::beside(AuthorityKey::of(authority.certificate()).unwrap(), shelf.clone())
    };
    let [mut one, mut other] = [beside(authority()), beside(authority())];
    for step in [1, 2, 3] {
        directory.join(entry(step));
        directory.leave(entry(step - 1).node, Departure::Left);
        let updates = told(&directory, one.version());
        assert_eq!(take_all(&mut one, updates.clone()), take_all(&mut other, updates));
        assert!(Arc::ptr_eq(&one.directory().tables(), &other.directory().tables()));
        assert!(same(&directory, &one) && same(&directory, &other));
    }
    // One that leads keeps what it was told, and so looks at it, also when another knows where it leads.
    let mut leader = beside(authority());
    leader.keep_changes();
    let whole = directory.since(Version::default(), one.head().unwrap());
    take_all(&mut leader, whole);
    assert!(Arc::ptr_eq(&one.directory().tables(), &leader.directory().tables()));
    directory.join(entry(9));
    let update = told(&directory, leader.version()).remove(0);
    take_all(&mut one, vec![update.clone()]);
    let untrue = Record::from(&Change::Joined(entry(8)));
    assert_eq!(leader.take(forged(&update, |records| records[0] = untrue)), Err(Trouble::Forged));
    take_all(&mut leader, vec![update]);
    assert!(same(&directory, &leader));
    // What another session has signed is nothing to it.
    let foreign = Authority::create(entry(1).node, Moment::now()).unwrap();
    let update = told(&directory, Version::default()).remove(0);
    assert_eq!(beside(&foreign).take(update), Err(Trouble::Forged));
    // Nothing is kept by the shelf alone.
    let tables = Arc::downgrade(&one.directory().tables());
    drop((one, other, leader));
    assert!(tables.upgrade().is_none());
}

#[test]
fn what_is_kept_until_all_parts_are_there_is_bounded() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    catch_up(&mut follower, &directory);
    let label: Name = "n".repeat(60).parse().unwrap();
    (1..=LOG_MAX as u16).for_each(|i| directory.join(Entry { label: label.clone(), ..entry(i) }));
    let mut parts = told(&directory, follower.version());
    let long = forged(&parts[0], |records| *records = vec![records[0].clone(); LOG_MAX + 1]);
    assert_eq!(follower.take(long), Err(Trouble::Forged));
    assert!(parts.len() > 1);
    assert_eq!(follower.take(parts.remove(0)), Ok([].into()));
    // More of the same, without an end: the part that was due is not there any more, either.
    let again = forged(&parts[0], Vec::clear);
    (0..100).for_each(|_| drop(follower.take(again.clone())));
    assert!(follower.pending() <= LOG_MAX);
    let far = Directory { version: Version { epoch: 5, number: LOG_MAX as u64 + 1 }, ..directory.clone() };
    let head = Head::sign(&far, authority()).unwrap();
    let far = Update { head, part: Part::Changes { from: 0, records: Vec::new() } };
    assert_eq!(follower.take(far), Err(Trouble::Forged), "more than anybody keeps");
    let longest = Record::of_later(1, &[0; Record::BYTES_MAX]);
    let longer = Record::of_later(1, &[0; Record::BYTES_MAX + 1]);
    let read = |record| postcard::from_bytes::<Record>(&postcard::to_stdvec(record).unwrap());
    assert!(read(&longest).is_ok() && read(&longer).is_err());
    catch_up(&mut follower, &directory);
    assert!(same(&directory, &follower));
}

#[test]
fn what_one_connection_says_is_not_blamed_on_another() {
    let (mut directory, mut follower) = (Directory::new(5), follower());
    (0..2000).for_each(|i| directory.join(entry(i)));
    let parts = told(&directory, Version::default());
    assert!(parts.len() > 1);
    let (mut old, mut new) = (Pending::default(), Pending::default());
    let untrue = Record::from(&Change::Revoked(entry(2).node, Moment::from_unix(1000)));
    for (at, part) in parts.iter().enumerate() {
        let forged = forged(part, |records| records[0] = untrue.clone());
        let (is_last, of_old) = (at + 1 == parts.len(), follower.take_of(&mut old, forged));
        assert_eq!(of_old.is_err(), is_last, "it is forged, which is seen in the end");
        assert_eq!(follower.take_of(&mut new, part.clone()).map(|events| !events.is_empty()), Ok(is_last));
    }
    assert!(same(&directory, &follower));
    // Changes that come by both.
    let before = follower.version();
    (0..500).for_each(|i| directory.leave(entry(i).node, Departure::Left));
    let middle = told(&directory, before);
    let size = |i: u16| Entry { more: Extras::default().with(900, &[1; 400]).unwrap(), ..entry(i) };
    (0..400).for_each(|i| directory.join(size(i)));
    let parts = told(&directory, before);
    assert!(parts.len() > 1);
    assert_eq!(follower.take_of(&mut new, parts[0].clone()), Ok([].into()));
    assert!(middle.into_iter().all(|part| follower.take_of(&mut old, part).is_ok()));
    assert_ne!(follower.version(), before);
    let taken: Vec<_> = parts[1..].iter().map(|part| follower.take_of(&mut new, part.clone())).collect();
    assert!(!taken.contains(&Err(Trouble::Forged)), "{taken:?}");
    catch_up(&mut follower, &directory);
    assert!(same(&directory, &follower));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("TEST_SOAK").is_some() { 1000 } else { 60 }))]

    /// Whatever is lost, late or comes twice: a follower is never wrong about a version, and catches up.
    #[test]
    fn followers_catch_up(
        steps in prop::collection::vec((0..40u16, 0..3u8, 0..4u8), 1..300),
        restart in 0..300usize,
    ) {
        let (mut directory, mut follower) = (Directory::new(1), follower());
        let mut late: Vec<Vec<Update>> = Vec::new();
        for (at, (node, what, fate)) in steps.into_iter().enumerate() {
            if at == restart {
                directory = Directory::new(2);
            }
            match what {
                0 => directory.join(entry(node)),
                1 => directory.leave(entry(node).node, Departure::Left),
                _ => {
                    directory.revoke(entry(node).node, Moment::from_unix(at as i64 + 20));
                    directory.forget_ended(Moment::from_unix(at as i64));
                }
            }
            let updates = told(&directory, follower.version());
            match fate {
                0 => (),
                1 => late.push(updates),
                _ => updates.into_iter().for_each(|update| {
                    let _ = follower.take(update);
                }),
            }
            if fate == 3 {
                for update in late.pop().into_iter().flatten() {
                    let _ = follower.take(update);
                }
            }
            prop_assert!(follower.version() != directory.version() || same(&directory, &follower));
        }
        catch_up(&mut follower, &directory);
        prop_assert!(same(&directory, &follower));
    }
}
