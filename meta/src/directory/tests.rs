use super::*;
use proptest::prelude::*;

fn entry(byte: u16) -> Entry {
    let mut bytes = [1; 16];
    bytes[..2].copy_from_slice(&byte.to_le_bytes());
    let (cluster, label) = ("c".parse().unwrap(), "host.1".parse().unwrap());
    Entry { node: NodeId::new(bytes).unwrap(), cluster, label, since: 7 }
}

fn take_all(follower: &mut Follower, updates: Vec<Update>) -> Vec<Event> {
    updates.into_iter().flat_map(|update| follower.take(update).unwrap()).collect()
}

fn catch_up(follower: &mut Follower, directory: &Directory) -> Vec<Event> {
    let updates = directory.since(follower.version());
    take_all(follower, updates)
}

fn same(directory: &Directory, follower: &Follower) -> bool {
    directory.version() == follower.version() && directory.entries().eq(follower.entries())
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
fn a_new_life_of_the_rendezvous_begins_with_everything_and_tells_differences_only() {
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
    (1..=3).for_each(|i| directory.join(entry(i)));
    catch_up(&mut follower, &directory);
    let mut directory = Directory::new(6);
    (2..=4).for_each(|i| directory.join(entry(i)));
    let events = catch_up(&mut follower, &directory);
    assert_eq!(events, [Event::Left(entry(1).node, Departure::Lost), Event::Joined(entry(4))]);
    assert!(same(&directory, &follower));
}

#[test]
fn a_follower_that_is_far_behind_gets_parts_that_fit() {
    let (mut directory, mut follower) = (Directory::new(5), Follower::default());
    directory.join(entry(0));
    catch_up(&mut follower, &directory);
    (1..1500).for_each(|i| directory.join(entry(i)));
    let updates = directory.since(follower.version());
    assert_eq!(updates.len(), 6);
    // A part is missing: nothing changes, and the follower says so.
    let before = follower.version();
    let mut broken = updates.clone();
    broken.remove(2);
    assert!(broken.into_iter().any(|update| follower.take(update) == Err(Gap)));
    assert_eq!((follower.version(), follower.entries().len()), (before, 1));
    assert_eq!(take_all(&mut follower, updates).len(), 1499);
    assert!(same(&directory, &follower));
}

proptest! {
    /// Whatever is lost, late or comes twice: a follower is never wrong about a version, and catches up.
    #[test]
    fn followers_catch_up(
        steps in prop::collection::vec((0..40u16, any::<bool>(), 0..4u8), 1..300),
        restart in 0..300usize,
    ) {
        let (mut directory, mut follower) = (Directory::new(1), Follower::default());
        let mut late: Vec<Vec<Update>> = Vec::new();
        for (at, (node, comes, fate)) in steps.into_iter().enumerate() {
            if at == restart {
                directory = Directory::new(2);
            }
            match comes {
                true => directory.join(entry(node)),
                false => directory.leave(entry(node).node, Departure::Left),
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
