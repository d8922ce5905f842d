//! Which rails can be used here, and if not, why not.

use gridnet::config::{Config, KNOWN_RAILS};
use gridnet::RunDir;
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::process::{geteuid, getpid, pidfd_open, PidfdFlags};
use rustix::thread::{membarrier, MembarrierCommand};
use serde::Serialize;

/// A rail and what became of its examination.
#[derive(Serialize)]
pub(super) struct Rail {
    pub(super) name: &'static str,
    pub(super) available: bool,
    pub(super) why: String,
    pub(super) checks: Vec<Check>,
}

/// Something that a rail builds on.
#[derive(Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) works: bool,
    /// Whether the rail cannot do without.
    pub(super) required: bool,
    pub(super) detail: String,
}

/// Tries what each rail needs.
pub(super) fn examine(config: &Config) -> Vec<Rail> {
    KNOWN_RAILS.iter().map(|name| examine_rail(name, config)).collect()
}

fn examine_rail(name: &'static str, config: &Config) -> Rail {
    let (purpose, checks) = match name {
        "shm" => ("processes of this host, through shared memory", shm_checks(config)),
        "tcp" => ("processes of other hosts, over TCP", tcp_checks(config)),
        "verbs" => ("processes of other hosts, over RDMA devices", verbs_checks(config)),
        _ => ("a process and itself", vec![]),
    };
    let missing = checks.iter().find(|check| check.required && !check.works);
    let why = match missing {
        _ if !config.rails.allows(name) && !config.rails.excludes(name) => {
            format!("used only where GRIDNET_RAILS names it: {purpose}")
        }
        _ if !config.rails.allows(name) => format!("excluded by GRIDNET_RAILS={}", config.rails),
        Some(check) => format!("{}: {}", check.name, check.detail),
        None => purpose.to_owned(),
    };
    Rail { name, available: missing.is_none() && config.rails.allows(name), why, checks }
}

fn check(name: &'static str, required: bool, outcome: Result<String, String>) -> Check {
    Check { name, works: outcome.is_ok(), required, detail: outcome.unwrap_or_else(|why| why) }
}

fn shm_checks(config: &Config) -> Vec<Check> {
    vec![
        check("memfd with seals", true, sealed_memory()),
        check("pidfd", true, death_notice()),
        check("membarrier", false, barrier()),
        check("run directory", true, run_dir(config)),
        check("other users", false, Ok(other_users(config))),
    ]
}

fn tcp_checks(config: &Config) -> Vec<Check> {
    let checks = gridnet::examine_tcp(config).into_iter();
    checks.map(|(name, required, outcome)| check(name, required, outcome)).collect()
}

fn verbs_checks(config: &Config) -> Vec<Check> {
    let checks = gridnet::examine_verbs(config).into_iter();
    checks.map(|(name, required, outcome)| check(name, required, outcome)).collect()
}

fn sealed_memory() -> Result<String, String> {
    let memory = memfd_create("gridnet-info", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let memory = memory.map_err(|error| format!("memfd_create: {error}"))?;
    ftruncate(&memory, 4096).map_err(|error| format!("ftruncate: {error}"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(|error| format!("seals: {error}"))?;
    match ftruncate(&memory, 0) {
        Err(_) => Ok("shared memory that cannot be resized under its users".to_owned()),
        Ok(()) => Err("seals have no effect".to_owned()),
    }
}

fn death_notice() -> Result<String, String> {
    pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| format!("pidfd_open: {error}"))?;
    Ok("the death of a peer is seen at once".to_owned())
}

fn barrier() -> Result<String, String> {
    membarrier(MembarrierCommand::RegisterGlobalExpedited)
        .map_err(|error| format!("{error}: senders pay for a fence with each message"))?;
    Ok("senders need no fence".to_owned())
}

/// Whose processes may be peers.
fn other_users(config: &Config) -> String {
    let users: Vec<String> = config.shm_allow_uids.iter().map(u32::to_string).collect();
    match &users[..] {
        [] => "none are let in (GRIDNET_SHM_ALLOW_UIDS)".to_owned(),
        users => format!("{} are let in if they allow user {}", users.join(", "), geteuid().as_raw()),
    }
}

/// Whether the directory in which processes meet is there, or can be made, and is ours alone.
fn run_dir(config: &Config) -> Result<String, String> {
    let dir = config.run_dir.clone().unwrap_or_else(RunDir::default_base);
    RunDir::examine(&dir).map_err(|refusal| refusal.reason)?;
    let made_later = if dir.exists() { "" } else { " (made when it is needed)" };
    Ok(format!("{}{made_later}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, value: &str) -> Config {
        Config::from_sources(std::iter::empty(), &[(name.to_owned(), value.to_owned())]).unwrap()
    }

    #[test]
    fn an_excluded_rail_says_so() {
        let rails = examine(&config("GRIDNET_RAILS", "^shm"));
        let shm = rails.iter().find(|rail| rail.name == "shm").unwrap();
        assert!(!shm.available && shm.why == "excluded by GRIDNET_RAILS=^shm");
        assert!(rails.iter().any(|rail| rail.name == "self" && rail.available));
    }

    #[test]
    fn a_run_directory_that_cannot_be_used_is_the_reason() {
        for (dir, why) in [
            ("/dev/null", "run directory /dev/null is refused: it is no directory"),
            ("/proc/self/fd", "nothing can be made in /proc/self/fd"),
            (&format!("/tmp/{}", "x".repeat(60)), "of at most 52 bytes"),
        ] {
            let shm = examine_rail("shm", &config("GRIDNET_RUN_DIR", dir));
            assert!(!shm.available && shm.why.contains(why), "{}", shm.why);
        }
    }

    #[test]
    fn tcp_wants_to_know_its_peers() {
        let tcp = examine_rail("tcp", &Config::default());
        assert!(!tcp.available && tcp.why.contains("GRIDNET_NET_KEY_FILE"), "{}", tcp.why);
        let given = [("GRIDNET_NET_INSECURE", "1"), ("GRIDNET_NET_INTERFACES", "lo")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let tcp = examine_rail("tcp", &Config::from_sources(std::iter::empty(), &given).unwrap());
        assert!(tcp.available, "{}", tcp.why);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_fine_where_it_can_be_made() {
        let dir = std::env::temp_dir().join(format!("gridnet-info-{}", std::process::id()));
        assert!(run_dir(&config("GRIDNET_RUN_DIR", &dir.display().to_string())).is_ok());
        assert!(run_dir(&config("GRIDNET_RUN_DIR", "/dev/null/gridnet")).is_err());
    }
}
