//! Runs the command as a user would.

use std::process::{Command, Output, Stdio};

/// The command with `args`, in an environment without variables of ours.
pub(crate) fn gridnet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridnet"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GRIDNET_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs the command; its output is text.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[allow(dead_code, reason = "each test file uses its part")]
/// Runs the command, which has to succeed without a word on standard error, and gives its output.
pub(crate) fn succeed(args: &[&str]) -> String {
    let (code, out, err) = run(&mut gridnet(args));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    out
}
