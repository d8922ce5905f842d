//! `bench/pairs` with a command that is a shell script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `bench/pairs` over a command that does this; `$COUNT` is a file that begins empty.
fn pairs(test: &str, script: &str) -> (Output, String) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pairs-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let (command, count) = (dir.join("gridnet"), dir.join("count"));
    fs::write(&command, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&count, "").unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../pairs"))
        .args(["--pairs", "9", "--op", "tag_lat", "--", "US=2", "--", "US=3"])
        .envs([("GRIDNET", &command), ("COUNT", &count)])
        .output()
        .unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn the_ratio_is_that_of_the_second_setting_to_the_first() {
    let (output, text) = pairs("ratio", r#"echo "{\"op\":\"tag_lat\",\"p50_us\":$US.0,\"pin\":\"0,1\"}""#);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.matches("ratio 1.5000").count(), 9, "{text}");
    assert!(text.ends_with("median of 9 pairs 1.500, 95 % between 1.500 and 1.500\n"), "{text}");
}

/// The figure of an earlier run stands in for none that is missing.
#[test]
fn a_run_that_fails_ends_the_comparison() {
    for bad in ["echo broken >&2; exit 1", "echo '{\"op\":\"tag_lat\",\"p50_us\":null}'", "exit 0"] {
        for first_bad in [4, 5] {
            let script = format!(
                "echo x >>$COUNT\n[ $(wc -l <$COUNT) = {first_bad} ] && {{ {bad}; exit; }}\necho '{{\"p50_us\":1.0}}'"
            );
            let (output, text) = pairs("fails", &script);
            assert!(!output.status.success(), "{bad}: {text}");
            assert!(text.lines().count() < 3 && !text.contains("median"), "{bad}: {text}");
        }
    }
}
