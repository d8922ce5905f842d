//! For tests that need a lab: each runs in a sandbox of its own, or says aloud that it could not.

use crate::error::Error;
use crate::sandbox;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Declares a test that runs in a sandbox, where it is root whoever has started it.
///
/// Where no sandbox can be had it prints a line that begins with `SKIPPED:` and passes.
///
/// ```no_run
/// use gridnet_testbed::{lab_test, Lab, LinkSpec, Topology};
///
/// lab_test! {
///     fn two_hosts() {
///         let topology = Topology::new().host("a").host("b").link(LinkSpec::between("a", "b"));
///         let lab = Lab::open(topology).unwrap();
///         let ping = lab.host("a").unwrap().command("ping").args(["-c", "1", "b"]);
///         assert!(ping.output(std::time::Duration::from_secs(10)).unwrap().status.success());
///     }
/// }
/// ```
#[macro_export]
macro_rules! lab_test {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            $crate::testing::isolated(concat!(module_path!(), "::", stringify!($name)), || $body);
        }
    )*};
}

/// Runs `body` in a sandbox: starts this test program again in there, for the test of that path only.
///
/// # Panics
/// When the test fails in there, or does not end in time.
pub fn isolated(path: &str, body: impl FnOnce()) {
    isolated_as(None, path, body);
}

/// As [`isolated`], started by another user when this one is root.
///
/// # Panics
/// As [`isolated`].
pub fn isolated_as(uid: Option<u32>, path: &str, body: impl FnOnce()) {
    if sandbox::is_inside() {
        return body();
    }
    // Without the name of the test program, which is no part of a test's name.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    let program = std::env::current_exe().expect("the path of the test program");
    let command = || {
        let mut command = Command::new(&program);
        command.args(one_test(name));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let child = match uid {
        Some(uid) => sandbox::spawn_as(uid, command()),
        None => sandbox::spawn(command),
    };
    match child {
        Ok(child) => judge(name, child),
        Err(Error::Unavailable(why)) => skip(name, &why),
        Err(Error::Io(error)) if uid.is_some() && error.kind() == std::io::ErrorKind::PermissionDenied => {
            skip(name, &format!("another user may not run {}", program.display()));
        }
        Err(other) => panic!("{name}: {other}"),
    }
}

/// Says that a test could not run, so that it is seen although the test passes.
pub fn skip(name: &str, why: &str) {
    // Not by a macro: what those print is kept back for tests that pass.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {name}: {why}");
}

/// Arguments of a test program that let it run one test, aloud.
pub(crate) fn one_test(name: &str) -> [&str; 5] {
    [name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"]
}

fn judge(name: &str, child: Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, wait) = mpsc::channel::<()>();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                // It is waited for below, so that the number is still its own.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output();
        drop(done);
        output
    });
    let output = output.expect("the sandbox can be waited for");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let said = begin_lines(name, &said);
    for line in said.lines().filter(|line| line.starts_with("SKIPPED:")) {
        let _ = writeln!(std::io::stderr(), "\n{line}");
    }
    println!("{said}");
    assert!(output.status.success(), "{name} in its sandbox: {}", output.status);
    assert!(said.contains("1 passed"), "{name} was not found in its own program");
}

/// What one test says, without what the harness has put before it in the same line.
fn begin_lines(name: &str, said: &str) -> String {
    said.replacen(&format!("test {name} ... "), &format!("test {name} ...\n"), 1)
}

/// A test with a lab takes seconds; far more means that it hangs.
const LIMIT: Duration = Duration::from_secs(300);
