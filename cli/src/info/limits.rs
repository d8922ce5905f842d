//! What the operating system allows.

use rustix::process::{getrlimit, Resource};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// A limit of this process.
#[derive(Serialize)]
pub(super) struct Limit {
    pub(super) name: &'static str,
    /// Null is unlimited.
    pub(super) value: Option<u64>,
    /// Whether it counts bytes.
    pub(super) bytes: bool,
    /// What it limits for us.
    pub(super) meaning: &'static str,
}

/// The limits that matter here.
pub(super) fn all() -> Vec<Limit> {
    let rlimit =
        |name, resource, bytes, meaning| Limit { name, value: getrlimit(resource).current, bytes, meaning };
    vec![
        rlimit("RLIMIT_NOFILE", Resource::Nofile, false, "open files: a few for each peer"),
        rlimit("RLIMIT_MEMLOCK", Resource::Memlock, true, "locked memory: registered regions"),
        rlimit("RLIMIT_FSIZE", Resource::Fsize, true, "size of a file: the segment is one"),
        rlimit("RLIMIT_AS", Resource::As, true, "address space: a segment of each peer is mapped"),
        Limit {
            name: "cgroup memory",
            value: cgroup_memory(),
            bytes: true,
            meaning: "memory of the container or service: segments count",
        },
    ]
}

/// Huge pages of this host.
#[derive(Serialize)]
pub(super) struct HugePages {
    /// The kernel's policy for shared memory.
    pub(super) shmem_enabled: String,
    /// Pages in the pool.
    pub(super) reserved: u64,
}

/// Reads what the kernel says of huge pages.
pub(super) fn huge_pages() -> HugePages {
    let policy = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let pool = fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    HugePages {
        shmem_enabled: chosen(&policy).unwrap_or("unknown").to_owned(),
        reserved: pool.trim().parse().unwrap_or(0),
    }
}

/// The word in brackets: `always [never] advise`.
fn chosen(policy: &str) -> Option<&str> {
    Some(policy.split_once('[')?.1.split_once(']')?.0)
}

/// The tightest memory limit of the control groups that this process is in.
fn cgroup_memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let version1 = groups.lines().find_map(|line| line.split_once(":memory:/").map(|(_, path)| path));
    let tightest = |root: &str, path: Option<&str>, file: &str| {
        let root = Path::new(root);
        let group = root.join(path?);
        group
            .ancestors()
            .take_while(|group| group.starts_with(root))
            .filter_map(|group| limit_of(&group.join(file)))
            .min()
    };
    tightest("/sys/fs/cgroup", unified, "memory.max")
        .or_else(|| tightest("/sys/fs/cgroup/memory", version1, "memory.limit_in_bytes"))
}

/// The number in `file`, unless it says `max` or, as version 1 does, a number beyond any memory.
fn limit_of(file: &Path) -> Option<u64> {
    let bytes: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_in_force_is_in_brackets() {
        assert_eq!(chosen("always within_size advise [never] deny force\n"), Some("never"));
        assert_eq!(chosen("nothing"), None);
    }

    #[test]
    fn each_limit_is_named_and_explained() {
        assert!(all().iter().all(|limit| !limit.name.is_empty() && !limit.meaning.is_empty()));
    }
}
