//! Whether a process may be held up by others, as far as the system says.

use std::fs;

/// Whether some thread of a process is stopped, traced, frozen or waits for a device: then it is not to blame for what it
/// does not do. So it is where nothing is known: of a process that has no number here.
pub fn may_be_held_up(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads
        .flatten()
        .any(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| is_held_up(&stat)))
}

/// `stat` is a number, a name in parentheses, which may have anything in it, and a letter (proc_pid_stat(5)).
fn is_held_up(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_none_or(|state| matches!(state, 'T' | 't' | 'D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_whatever_the_name() {
        for (stat, expected) in [
            ("7 (a) R 1 1", false),
            ("7 (a) T 1 1", true),
            ("7 (T) S) T 1 1", true),
            ("7 (x) D (y) S 1 1", false),
            ("7 (a) t 1 1", true),
            ("7 (a) D 1 1", true),
            ("", true),
        ] {
            assert_eq!(is_held_up(stat), expected, "{stat}");
        }
    }

    #[test]
    fn of_no_process_nothing_is_known() {
        assert!(may_be_held_up(0) && may_be_held_up(i32::MAX));
    }
}
