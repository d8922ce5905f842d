use super::*;
use crate::record::fields;
use proptest::prelude::*;

fn entry(byte: u16) -> Entry {
    let mut bytes = [1; 16];
    bytes[..2].copy_from_slice(&byte.to_le_bytes());
    let (cluster, label) = ("c".parse().unwrap(), "host.1".parse().unwrap());
    let (node, more) = (NodeId::new(bytes).unwrap(), Extras::default());
    Entry { node, cluster, label, since: 7, order: 1, leads: false, via: None, more }
}

fn take_all(follower: &mut Follower, updates: Vec<Update>) -> Vec<Event> {
    updates.into_iter().flat_map(|update| follower.take(update).unwrap()).collect()
}

fn catch_up(follower: &mut Follower, directory: &Directory) -> Vec<Event> {
    let updates = directory.since(follower.version());
    take_all(follower, updates)
}

fn same(directory: &Directory, follower: &Follower) -> bool {
    let known = follower.directory();
    directory.version() == known.version()
        && directory.entries == known.entries
        && directory.revoked == known.revoked
}

#[test]
fn a_follower_sees_who_comes_and_goes() {
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
    directory.join(entry(1));
    assert_eq!(catch_up(&mut follower, &directory), [Event::Joined(entry(1))]);
    assert_eq!(directory.since(follower.version()), []);
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
    let (mut directory, mut early) = (Directory::new(5), Follower::default());
    let (one, two, end) = (entry(1).node, entry(2).node, Moment::from_unix(1000));
    directory.join(entry(1));
    catch_up(&mut early, &directory);
    directory.revoke(one, end);
    directory.revoke(one, end);
    directory.revoke(two, end.after(std::time::Duration::from_secs(9)));
    assert_eq!(catch_up(&mut early, &directory), [Event::Left(one, Departure::Revoked)]);
    // By a snapshot, too.
    let mut late = Follower::default();
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
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
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
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
    directory.join(entry(0));
    catch_up(&mut follower, &directory);
    (1..1500).for_each(|i| directory.join(entry(i)));
    (2000..2500).for_each(|i| directory.revoke(entry(i).node, Moment::from_unix(1000)));
    let updates = directory.since(follower.version());
    assert!(updates.len() > 3, "{}", updates.len());
    // A part is missing: nothing changes, and the follower says so.
    let before = follower.version();
    let mut broken = updates.clone();
    broken.remove(2);
    assert!(broken.into_iter().any(|update| follower.take(update) == Err(Gap)));
    assert_eq!((follower.version(), follower.entries().len()), (before, 1));
    assert_eq!(take_all(&mut follower, updates).len(), 1499);
    assert!(same(&directory, &follower));
}

#[test]
fn what_comes_from_the_future_is_counted_kept_and_passed_on() {
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
    follower.keep_changes();
    catch_up(&mut follower, &directory);
    // An entry with fields that this version does not know: numbered ones are kept, those behind all others skipped.
    let with_extras = Entry { more: Extras::default().with(900, b"later").unwrap(), ..entry(1) };
    let longer = [postcard::to_stdvec(&with_extras).unwrap(), vec![1, 2, 3]].concat();
    assert_eq!(fields::<Entry>(&longer).unwrap(), with_extras);
    let record = postcard::to_stdvec(&Change::Other(1, longer.into())).unwrap();
    let change: Change = postcard::from_bytes(&record).unwrap();
    assert_eq!(change, Change::Joined(with_extras.clone()));
    directory.change(change);
    // A change of a kind that is not known yet.
    let unknown = Change::Other(77, Box::from(&b"whatever"[..]));
    let sent = postcard::to_stdvec(&unknown).unwrap();
    directory.change(postcard::from_bytes(&sent).unwrap());
    directory.join(entry(2));
    let events = catch_up(&mut follower, &directory);
    assert_eq!(events, [Event::Joined(with_extras), Event::Joined(entry(2))]);
    assert!(same(&directory, &follower));
    // One who follows the follower gets all of it.
    let passed_on = follower.directory().since(Version { epoch: 5, number: 0 });
    assert!(
        matches!(&passed_on[..], [Update::Changes { changes, .. }] if changes[1] == unknown),
        "{passed_on:?}"
    );
}

proptest! {
    /// Whatever is lost, late or comes twice: a follower is never wrong about a version, and catches up.
    #[test]
    fn followers_catch_up(
        steps in prop::collection::vec((0..40u16, 0..3u8, 0..4u8), 1..300),
        restart in 0..300usize,
    ) {
        let (mut directory, mut follower) = (Directory::new(1), Follower::default());
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
            let updates = directory.since(follower.version());
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
