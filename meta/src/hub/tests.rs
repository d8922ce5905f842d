//! Members that read slowly, or not at all. Time is virtual.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const SECOND: Duration = Duration::from_secs(1);
const NODE: [u8; 16] = [1; 16];

/// One that has much to tell, once.
struct Talkative(watch::Sender<u64>, Encoded);

impl Talkative {
    /// So many bytes, in messages of any kind that may be skipped.
    fn new(bytes: usize) -> Talkative {
        let message: Arc<[u8]> =
            Message::Refused(Refused { refusal: crate::error::Refusal::Other, reason: "x".repeat(48 << 10) })
                .encode()
                .unwrap()
                .into();
        Talkative(watch::Sender::new(0), vec![message.clone(); bytes.div_ceil(message.len())].into())
    }

    fn bytes(&self) -> usize {
        self.1.iter().map(|message| message.len()).sum()
    }
}

impl Hub for Talkative {
    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn silence(&self) -> Duration {
        3 * SECOND
    }

    fn update_pause(&self) -> Duration {
        SECOND
    }

    fn first_update_at(&self, _known: Version) -> Instant {
        Instant::now()
    }

    fn updates(&self, known: Version) -> Result<(Encoded, Version), Error> {
        let is_new = known == Version::default();
        Ok((if is_new { self.1.clone() } else { Encoded::default() }, Version { epoch: 1, number: 1 }))
    }

    fn check(&self, _visitor: &Visitor) -> Result<(), Error> {
        Ok(())
    }

    fn may_ask(&self, _visitor: &Visitor) -> Result<(), Denied> {
        Ok(())
    }

    fn take(&self, _visitor: &mut Visitor, _message: Message) -> Result<Said, Error> {
        Ok(Said::Nothing)
    }

    fn note(&self, _visitor: &Visitor, _denied: &Denied) {}
}

fn served() -> (Served<DuplexStream>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(32 << 10);
    let (reader, writer) = tokio::io::split(ours);
    let (node, from) = (NodeId::new(NODE).unwrap(), SocketAddr::from(([127, 0, 0, 1], 1)));
    let visitor = Visitor { node, connection: 1, from, until: Moment::from_unix(i64::MAX), is_plain: false };
    // Nobody else says anything to it.
    let (_, queue) = crate::queue::queue(&crate::freight::Freight::new(crate::Shares::default()));
    let (reader, outbox) = (Inbox::new(reader, 1 << 16), Outbox::new(writer));
    (Served { visitor, reader, outbox, known: Version::default(), queue }, theirs)
}

fn in_virtual_time<Out>(future: impl std::future::Future<Output = Out>) -> Out {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

#[test]
fn one_that_reads_slowly_and_answers_is_not_cut_off() {
    let hub = Talkative::new(1 << 20);
    let begun = in_virtual_time(async {
        let (mut member, theirs) = served();
        let (mut reader, mut writer) = tokio::io::split(theirs);
        let begun = Instant::now();
        // 40 KiB a second: it takes far longer than a silence, and than a silent peer may take.
        let reads = async {
            let (mut left, mut some) = (hub.bytes(), vec![0; 4 << 10]);
            while left > 0 {
                sleep(SECOND / 10).await;
                left -= reader.read(&mut some).await.unwrap().min(left);
            }
        };
        let answers = async {
            loop {
                writer.write_all(&Message::Ping(1).encode().unwrap()).await.unwrap();
                sleep(SECOND).await;
            }
        };
        tokio::select! {
            ended = member.serve(&hub) => panic!("{ended:?} after {:?}", begun.elapsed()),
            () = answers => unreachable!(),
            () = reads => begun.elapsed(),
        }
    });
    assert!(begun > 20 * SECOND, "{begun:?}");
}

#[test]
fn one_that_does_not_read_is_cut_off_and_what_waits_for_it_is_bounded() {
    let hub = Talkative::new(1 << 20);
    in_virtual_time(async {
        let (mut member, mut theirs) = served();
        let begun = Instant::now();
        let pings = Message::Ping(1).encode().unwrap().repeat(1000);
        let asks = async {
            loop {
                theirs.write_all(&pings).await.unwrap();
            }
        };
        let ended = tokio::select! {
            ended = member.serve(&hub) => ended.unwrap_err(),
            () = asks => unreachable!(),
        };
        assert!(ended.to_string().contains("takes nothing"), "{ended}");
        assert!(begun.elapsed() < WRITE_LIMIT + SECOND, "{:?}", begun.elapsed());
        assert!(!member.outbox.may_answer(), "it has asked for more than it took");
        assert!(member.outbox.waiting_bytes() < hub.bytes() + (128 << 10));
    });
}

#[test]
fn one_that_says_nothing_is_lost_and_one_that_says_half_a_message_is_not_yet() {
    let hub = Talkative::new(0);
    in_virtual_time(async {
        let (mut member, mut theirs) = served();
        let begun = Instant::now();
        let long = Message::Renew(vec![0; 40]).encode().unwrap();
        let dribbles = async {
            for byte in &long[..20] {
                theirs.write_all(&[*byte]).await.unwrap();
                sleep(SECOND).await;
            }
            std::future::pending::<()>().await
        };
        let ended = tokio::select! {
            ended = member.serve(&hub) => ended.unwrap_err(),
            () = dribbles => unreachable!(),
        };
        assert!(ended.to_string().contains("nothing was heard"), "{ended}");
        let after = begun.elapsed();
        assert!(after > 20 * SECOND && after < 24 * SECOND, "{after:?}");
    });
}

#[test]
fn all_that_there_is_is_made_once_whatever_those_say_who_need_it() {
    let authority = crate::authority::Authority::create(NodeId::new(NODE).unwrap(), Moment::now()).unwrap();
    let mut directory = Directory::new(5);
    for number in 1..=5000u128 {
        directory.revoke(NodeId::new(number.to_be_bytes()).unwrap(), Moment::from_unix(1));
    }
    let head = Head::sign(&directory, &authority).unwrap();
    let mut encoder = Encoder::default();
    let mut updates = |epoch, number| encoder.updates(&directory, &head, Version { epoch, number }).unwrap();
    let (whole, version) = updates(0, 0);
    let (changes, _) = updates(5, 4999);
    assert!(version == directory.version() && changes.len() == 1 && whole.len() > 1);
    for (epoch, number) in [(5, 1), (5, 2), (4, 9), (5, 3000)] {
        assert!(Arc::ptr_eq(&updates(epoch, number).0, &whole), "{epoch} {number}");
        assert!(Arc::ptr_eq(&updates(5, 4999).0, &changes));
    }
    assert!(updates(5, 5000).0.is_empty());
}
