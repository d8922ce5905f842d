//! The table of variables: one row holds all there is to say about one of them.

use super::net::{InterfaceList, PathCount, Ports};
use super::parse::{Bytes, Choice, Count, Directory, Kind, LogFilter, Name, PowerOfTwo, Rails, Time, Uids};
use super::parse::{GIB, KIB, MIB};
use super::{
    ConfigError, HugePages, Interfaces, Multirail, NetEngine, Origin, PortRange, ProgressMode, RailSelection,
    SingleCopy, VerbsWire, WaitMode,
};
use gridnet_meta::cluster::Will;
use std::path::PathBuf;
use std::time::Duration;

/// What is known of a variable before any value is read.
pub struct Variable {
    /// Name, as in the environment.
    pub name: &'static str,
    /// Default, spelled as a user would.
    pub default: &'static str,
    /// What a number counts; empty where that says nothing.
    pub unit: &'static str,
    /// What the variable does.
    pub sentence: &'static str,
    kind: &'static dyn AnyKind,
}

impl Variable {
    /// What a value must look like.
    pub fn accepted(&self) -> String {
        self.kind.describe()
    }

    /// Whether `value` is one that this variable can have.
    pub fn accepts(&self, value: &str) -> bool {
        self.kind.reads(value)
    }

    pub(super) fn bad_value(&self, value: &str) -> ConfigError {
        ConfigError::BadValue { name: self.name, value: value.to_owned(), accepted: self.accepted() }
    }
}

/// [`Kind`] without its type, so that the table can hold all of them.
trait AnyKind: Sync {
    fn reads(&self, text: &str) -> bool;
    fn describe(&self) -> String;
}

impl<K: Kind> AnyKind for K {
    fn reads(&self, text: &str) -> bool {
        self.parse(text).is_some()
    }

    fn describe(&self) -> String {
        self.accepted()
    }
}

/// Makes from each row a field of [`Config`] and an element of [`VARIABLES`].
macro_rules! variables {
    ($( $field:ident: $type:ty = $name:literal $default:literal [$unit:literal] $kind:expr, $sentence:literal; )*) => {
        /// The configuration of a fabric: one typed field for each variable.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $( #[doc = concat!("`", $name, "`: ", $sentence)] pub $field: $type, )*
            origins: [Origin; VARIABLES.len()],
        }

        /// Every variable there is.
        pub static VARIABLES: [Variable; [$($name),*].len()] = [
            $( Variable { name: $name, default: $default, unit: $unit, sentence: $sentence, kind: &$kind }, )*
        ];

        impl Config {
            /// Reads the fields from one text per variable, in the order of the table.
            pub(super) fn from_settings(
                settings: [(String, Origin); VARIABLES.len()],
            ) -> Result<Config, ConfigError> {
                let origins = std::array::from_fn(|index| settings[index].1);
                let mut rows = VARIABLES.iter().zip(&settings);
                $( let $field = read(&$kind, rows.next())?; )*
                Ok(Config { $( $field, )* origins })
            }

            /// The canonical text and the origin of each variable, in the order of the table.
            pub(super) fn shown(&self) -> Vec<(String, Origin)> {
                let texts = [$( $kind.show(&self.$field), )*];
                texts.into_iter().zip(self.origins).collect()
            }
        }
    };
}

variables! {
    rails: RailSelection = "GRIDNET_RAILS" "auto" [""] Rails,
        "Rails that may be used, in order of preference.";

    wait_mode: WaitMode = "GRIDNET_WAIT_MODE" "adaptive" [""]
        Choice(&[("adaptive", WaitMode::Adaptive), ("spin", WaitMode::Spin), ("block", WaitMode::Block)]),
        "What a waiting call does: spin briefly and then sleep, spin for ever, or sleep at once.";
    wait_spin: Duration = "GRIDNET_WAIT_SPIN" "50us" ["time"] Time(Duration::from_secs(10)),
        "How long the adaptive mode spins before it sleeps.";
    progress: ProgressMode = "GRIDNET_PROGRESS" "manual" [""]
        Choice(&[("manual", ProgressMode::Manual), ("thread", ProgressMode::Thread)]),
        "Who drives communication: the calls of the program, or a thread of the library.";

    shm_segment_size: usize = "GRIDNET_SHM_SEGMENT_SIZE" "1g" ["bytes"] Bytes(MIB..=64 * GIB),
        "Upper limit of the shared memory of one fabric; pages are taken only as they are used.";
    shm_ring_slots: usize = "GRIDNET_SHM_RING_SLOTS" "128" ["slots"] PowerOfTwo(64..=4096),
        "Small messages that one peer can have under way to this process.";
    shm_link_window: usize = "GRIDNET_SHM_LINK_WINDOW" "1m" ["bytes"] Bytes(256 * KIB..=64 * MIB),
        "Bytes that a sender may have under way to one peer, besides messages that fit into a ring slot.";
    shm_huge_pages: HugePages = "GRIDNET_SHM_HUGE_PAGES" "auto" [""]
        Choice(&[("auto", HugePages::Auto), ("never", HugePages::Never)]),
        "Whether huge pages are used for shared memory where the system offers them.";
    shm_heap_size: usize = "GRIDNET_SHM_HEAP_SIZE" "16g" ["bytes"] Bytes(MIB..=1024 * GIB),
        "Upper limit of the memory that a fabric allocates for regions; pages are taken only as they are used.";
    shm_single_copy: SingleCopy = "GRIDNET_SHM_SINGLE_COPY" "auto" [""]
        Choice(&[("auto", SingleCopy::Auto), ("always", SingleCopy::Always), ("never", SingleCopy::Never)]),
        "Whether long messages are copied straight out of the sender's memory: when that is faster, whenever it is allowed, or never.";
    shm_allow_uids: Vec<u32> = "GRIDNET_SHM_ALLOW_UIDS" "" [""] Uids,
        "Other users of the host whose processes may be peers, when they allow this one too.";

    net_interfaces: Interfaces = "GRIDNET_NET_INTERFACES" "" [""] InterfaceList,
        "Interfaces, addresses and networks that may be used and told to others; empty is all but loopback, link-local and those of containers.";
    net_ports: Option<PortRange> = "GRIDNET_NET_PORTS" "" [""] Ports,
        "Ports of this side, of listeners and of calls; empty is any.";
    session: Option<PathBuf> = "GRIDNET_SESSION" "" [""] Directory,
        "Ticket of a session that the fabric joins, or directory of a node, as gridnet session join --keep writes it: peers on other hosts are those of the session, and what they send is encrypted.";
    session_cluster: Option<String> = "GRIDNET_SESSION_CLUSTER" "" [""] Name,
        "With a ticket, the cluster that the fabric belongs to: nodes with a network of their own; empty is that of its host.";
    session_label: Option<String> = "GRIDNET_SESSION_LABEL" "" [""] Name,
        "With a ticket, what the fabric is called in the session, for people and rules; empty is its host and process.";
    session_lead: Will = "GRIDNET_SESSION_LEAD" "elected" [""]
        Choice(&[("elected", Will::Willing), ("always", Will::Configured), ("never", Will::Unwilling)]),
        "With a ticket, whether the fabric leads its cluster, and then listens for the other nodes of it.";
    session_rules: Option<PathBuf> = "GRIDNET_SESSION_RULES" "" [""] Directory,
        "With a ticket, file of the rules by which endpoints to nodes of the session get their stacks, read again when it changes; empty is the scheme direct, encrypted.";
    session_timeout: Duration = "GRIDNET_SESSION_TIMEOUT" "10s" [""] Time(Duration::from_secs(3600)),
        "With a ticket, how long opening the fabric may take to join the session.";
    net_key_file: Option<PathBuf> = "GRIDNET_NET_KEY_FILE" "" [""] Directory,
        "File of mode 0600 with the key (32 bytes or more) by which processes know each other; what they send is not encrypted.";
    net_insecure: bool = "GRIDNET_NET_INSECURE" "off" [""]
        Choice(&[("off", false), ("on", true), ("0", false), ("1", true)]),
        "Whether networks are used without any key, when both sides say so.";
    multirail: Multirail = "GRIDNET_MULTIRAIL" "auto" [""] PathCount,
        "Over how many pairs of interfaces large messages to one peer go at a time; auto is each pair.";
    net_engine: NetEngine = "GRIDNET_NET_ENGINE" "auto" [""]
        Choice(&[
            ("auto", NetEngine::Auto),
            ("io_uring", NetEngine::IoUring),
            ("epoll", NetEngine::Epoll),
            ("io_uring_recv", NetEngine::IoUringRecv),
            ("io_uring_sqpoll", NetEngine::IoUringSqpoll),
        ]),
        "What watches sockets on which little happens; the last two also receive from the busy ones, which is slower.";
    net_window: usize = "GRIDNET_NET_WINDOW" "1m" ["bytes"] Bytes(256 * KIB..=64 * MIB),
        "Bytes of small messages that may be under way to one peer; they are kept until it has them.";
    net_send_buffer: usize = "GRIDNET_NET_SEND_BUFFER" "0" ["bytes"] Bytes(0..=GIB),
        "Buffer of the kernel for sending over one connection; 0 leaves it to the kernel.";
    net_receive_buffer: usize = "GRIDNET_NET_RECEIVE_BUFFER" "0" ["bytes"] Bytes(0..=GIB),
        "Buffer of the kernel for receiving over one connection; 0 leaves it to the kernel.";
    net_congestion: Option<String> = "GRIDNET_NET_CONGESTION" "" [""] Name,
        "Congestion control of TCP, as the system calls it; empty is the system's choice, and reno within a host.";
    net_keep_alive: Duration = "GRIDNET_NET_KEEP_ALIVE" "1s" ["time"] Time(Duration::from_secs(3600)),
        "After how long without traffic, in whole seconds, the kernel asks whether the other side is there; 0 is never.";
    net_user_timeout: Duration = "GRIDNET_NET_USER_TIMEOUT" "0ns" ["time"] Time(Duration::from_secs(3600)),
        "After how long without an answer to what was sent the kernel gives a connection up; 0 leaves it to the kernel.";
    verbs_device: Option<String> = "GRIDNET_VERBS_DEVICE" "" [""] Name,
        "The RDMA device of the rail verbs: an adapter by its name, or soft; empty is an adapter at an address that may be used, or else soft.";
    verbs_wire: VerbsWire = "GRIDNET_VERBS_WIRE" "udp" [""]
        Choice(&[("udp", VerbsWire::Udp), ("shm", VerbsWire::Shm), ("xdp", VerbsWire::Xdp)]),
        "What carries the packets of the software RDMA device: UDP sockets, memory that processes of the host share, or sockets of AF_XDP; the same on both sides, but that the first and the last talk with each other.";

    eager_max: usize = "GRIDNET_EAGER_MAX" "8k" ["bytes"] Bytes(0..=8 * KIB),
        "Longest message that is sent at once; a longer one waits until the receiver is ready for it.";
    unexpected_bytes: usize = "GRIDNET_UNEXPECTED_BYTES" "64m" ["bytes"] Bytes(8 * KIB..=1024 * GIB),
        "Memory for messages that no receive was posted for yet; when it is full, senders wait.";
    unexpected_messages: usize = "GRIDNET_UNEXPECTED_MESSAGES" "65536" ["messages"] Count(1..=GIB),
        "Number of messages that no receive was posted for yet; when it is reached, senders wait.";
    stream_window: usize = "GRIDNET_STREAM_WINDOW" "256k" ["bytes"] Bytes(4 * KIB..=GIB),
        "Bytes of one stream that may wait to be read; when they do, its writer waits.";
    max_ops: usize = "GRIDNET_MAX_OPS" "1048576" ["operations"] Count(1..=GIB),
        "Operations that one fabric can have in flight.";
    lent_bytes: usize = "GRIDNET_LENT_BYTES" "16g" ["bytes"] Bytes(MIB..=1024 * GIB),
        "Memory for long messages on their way to receives of loans; one that finds no room ends with GRIDNET_ERR_LIMIT.";
    cq_capacity: usize = "GRIDNET_CQ_CAPACITY" "65536" ["entries"] Count(1..=GIB),
        "Entries of a completion queue that was created without saying how many.";

    peer_timeout: Duration = "GRIDNET_PEER_TIMEOUT" "5s" [""] Time(Duration::from_secs(3600)),
        "How long a peer that no path leads to is sought before its operations end; one that is only slow is not given up.";
    reliability: bool = "GRIDNET_RELIABILITY" "on" [""] Choice(&[("on", true), ("off", false)]),
        "Whether conversations over networks survive broken connections; off is for measurements, on both sides.";

    page: bool = "GRIDNET_PAGE" "on" [""] Choice(&[("on", true), ("off", false)]),
        "Whether the fabric keeps a page that gridnet explain and gridnet top read.";

    run_dir: Option<PathBuf> = "GRIDNET_RUN_DIR" "" [""] Directory,
        "Directory of the sockets by which processes of this host meet; empty is $XDG_RUNTIME_DIR/gridnet, else /tmp/gridnet-UID.";
    host_id: Option<String> = "GRIDNET_HOST_ID" "" [""] Name,
        "Processes with the same text count as being on one host; empty is automatic.";
    log: String = "GRIDNET_LOG" "warn" [""] LogFilter,
        "What is logged to standard error.";
}

/// Reads the next row's text as a value of `kind`.
fn read<K: Kind>(kind: &K, row: Option<(&Variable, &(String, Origin))>) -> Result<K::Value, ConfigError> {
    let (variable, (text, _)) = row.expect("the macro asks for as many rows as there are");
    kind.parse(text).ok_or_else(|| variable.bad_value(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The canonical text of a value reads back as the same value, for every variable and any text it accepts.
        #[test]
        fn what_is_shown_reads_back(index in 0..VARIABLES.len(), text in "[a-z0-9,^=/]{0,8}") {
            let variable = &VARIABLES[index];
            let text = if variable.accepts(&text) { text } else { variable.default.to_owned() };
            let given = [(variable.name.to_owned(), text)];
            let config = Config::from_sources(std::iter::empty(), &given).unwrap();
            let shown = config.entries().into_iter().map(|entry| (entry.name.to_owned(), entry.value));
            let again = Config::from_sources(shown, &given).unwrap();
            prop_assert_eq!(Config { origins: config.origins, ..again }, config);
        }
    }

    #[test]
    fn every_default_parses_and_is_spelled_canonically() {
        let config = Config::default();
        for entry in config.entries() {
            assert_eq!(entry.value, entry.default, "{}", entry.name);
            assert_eq!(entry.origin, Origin::Default);
        }
    }

    #[test]
    fn names_are_unique_and_described() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(variable.name.starts_with("GRIDNET_"));
            assert!(variable.sentence.ends_with('.') && !variable.accepted().is_empty());
            assert!(VARIABLES[..index].iter().all(|earlier| earlier.name != variable.name));
        }
    }
}
