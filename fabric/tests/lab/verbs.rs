//! The rail verbs between hosts: its software devices over networks that lose packets.

use gridnet::{AnyRail, ThreadLevel};
use gridnet_testbed::{lab_test, Impairment};

use crate::common::{Party, Scratch};
use crate::cuts::{linger, Said};
use crate::hosts::{
    address_of, assert_nothing_listens_for_everybody, breaks, count, is_long, over, receive_all, say_address,
    send_all, Noise, COUNT, PATIENCE, SIZES,
};

fn open(scratch: &Scratch) -> Party {
    let options = [("GRIDNET_RAILS", "verbs"), ("GRIDNET_NET_INSECURE", "1")];
    Party::open(&scratch.0, None, ThreadLevel::Serialized, &options)
}

lab_test! {
    /// One packet in a hundred is lost, each way: all arrives, in order.
    fn messages_pass_a_network_that_loses_packets() {
        let Some(lab) = over(Impairment::default().mbit(200).loss_percent(1.0)) else { return };
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let messages = if is_long() { 20_000 } else { 400_u64 };
        let receiver = b.test("verbs::receives").unwrap().env(COUNT, messages.to_string()).spawn().unwrap();
        let address = address_of(&receiver);
        let sent = a.run(|| {
            let scratch = Scratch::new();
            let _said = Said(&receiver);
            let party = open(&scratch);
            let to = party.connect(&address);
            send_all(&party, to, Noise::new(SIZES), messages, 64, || {});
            let (rail, gid) = party.enter().engine.rails().iter().find_map(|rail| match rail {
                AnyRail::Verbs(verbs) => Some(verbs.device()),
                _ => None,
            }).unwrap();
            assert!(rail.contains("udp") && address.network.iter().all(|there| there.ip() != gid.ip()));
            breaks(&party, to)
        });
        receiver.wait(PATIENCE).unwrap().success().unwrap();
        let (broken, repeated) = sent.unwrap();
        println!("RESULT {messages} messages, {broken} breaks, {repeated} frames sent again");
    }
    #[ignore = "is started by the test above, in a host"]
    fn receives() {
        let Some(messages) = count() else { return };
        let scratch = Scratch::new();
        let party = open(&scratch);
        assert_nothing_listens_for_everybody();
        say_address(&party);
        receive_all(&party, Noise::new(SIZES), messages, |_| {});
        linger(&party);
    }
}
