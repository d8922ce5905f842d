//! What `gridnet lab` prints: tables for people, one JSON object a line for programs.

use crate::failure::Failure;
use crate::text;
use gridnet_testbed::{Action, Event, Finding, Finished, Lab, Report, Subject, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{json, Value};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Where results go, and in which shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// Hosts and links.
    pub(super) fn lab(&self, lab: &Lab) -> io::Result<()> {
        if !self.json {
            return tables(lab);
        }
        for host in lab.hosts() {
            let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
            line(&json!({"kind": "host", "host": host.name(), "role": host.role(), "addresses": addresses}))?;
        }
        for link in lab.links() {
            let ends = link.ends().map(|(host, interface)| json!({"host": host, "interface": interface}));
            let asked = link.impairment().to_string();
            line(
                &json!({"kind": "link", "link": link.name(), "ends": ends, "asked": asked, "relay": link.is_relayed()}),
            )?;
        }
        Ok(())
    }

    /// What the self-check has found.
    pub(super) fn report(&self, report: &Report) -> io::Result<()> {
        if self.json {
            return report.findings.iter().try_for_each(|finding| line(&finding_json(finding)));
        }
        if report.findings.is_empty() {
            return Ok(());
        }
        let row = |finding: &Finding| {
            let verdict = if finding.verdict == Verdict::AsAsked { "ok" } else { "NOT AS ASKED" };
            let Finding { subject, what, asked, measured, .. } = finding;
            vec![subject.to_string(), what.clone(), asked.clone(), measured.clone(), verdict.to_owned()]
        };
        let rows: Vec<Vec<String>> = report.findings.iter().map(row).collect();
        let mut out = io::stdout().lock();
        writeln!(out)?;
        text::columns(&mut out, &["self-check", "of", "asked", "measured", "verdict"], &rows)
    }

    /// An event has happened, or failed to.
    pub(super) fn event(&self, event: &Event, outcome: &Result<(), Failure>) -> io::Result<()> {
        let what = describe(&event.action);
        let failed = outcome.as_ref().err().map(Failure::text);
        if self.json {
            return line(
                &json!({"kind": "event", "at_s": event.at.as_secs_f64(), "what": what, "error": failed}),
            );
        }
        let ended = failed.map_or_else(String::new, |why| format!(": {why}"));
        writeln!(io::stdout().lock(), "[{:.1} s] {what}{ended}", event.at.as_secs_f64())
    }

    /// A command has ended.
    pub(super) fn finished(
        &self,
        host: &str,
        command: &str,
        took: Duration,
        finished: &Finished,
    ) -> io::Result<()> {
        let Finished { status, stdout, stderr } = finished;
        if self.json {
            return line(&json!({
                "kind": "run", "host": host, "command": command, "seconds": took.as_secs_f64(),
                "exit": status.code(), "stdout": stdout, "stderr": stderr,
            }));
        }
        let mut out = io::stdout().lock();
        writeln!(out, "\n{host}$ {command}")?;
        out.write_all(stdout.as_bytes())?;
        out.flush()?;
        io::stderr().lock().write_all(stderr.as_bytes())
    }

    /// What went through the relay.
    pub(super) fn counts(&self, lab: &Lab) -> Result<(), Failure> {
        for link in lab.links() {
            let Some(counts) = link.counts()? else { continue };
            for ((from, _), counts) in link.ends().into_iter().zip(counts) {
                if self.json {
                    line(&json!({
                        "kind": "counts", "link": link.name(), "from": from, "passed": counts.passed,
                        "bytes": counts.bytes, "lost": counts.lost, "queue_full": counts.queue_full,
                        "blackout": counts.blackout, "overrun": counts.overrun,
                    }))?;
                } else if counts.overrun > 0 {
                    let (link, overrun) = (link.name(), counts.overrun);
                    eprintln!("gridnet: link {link} from {from}: the relay lost {overrun} packets that it should not have");
                }
            }
        }
        Ok(())
    }

    /// Something moves on the terminal while people wait; nothing elsewhere.
    pub(super) fn progress(&self) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

fn tables(lab: &Lab) -> io::Result<()> {
    let hosts = lab.hosts().map(|host| {
        let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
        vec![host.name().to_owned(), host.role(), addresses.join(" ")]
    });
    let links = lab.links().map(|link| {
        let [a, b] = link.ends().map(|(host, interface)| format!("{host} {interface}"));
        let by = if link.is_relayed() { "relay" } else { "kernel" };
        vec![link.name().to_owned(), format!("{a} - {b}"), by.to_owned(), link.impairment().to_string()]
    });
    let mut out = io::stdout().lock();
    text::columns(&mut out, &["host", "is", "addresses"], &hosts.collect::<Vec<_>>())?;
    writeln!(out)?;
    text::columns(&mut out, &["link", "between", "by", "asked"], &links.collect::<Vec<_>>())
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { subject, what, asked, measured, verdict } = finding;
    let (of, name) = match subject {
        Subject::Link(name) => ("link", name),
        Subject::Site(name) => ("site", name),
    };
    let as_asked = *verdict == Verdict::AsAsked;
    json!({"kind": "check", of: name, "what": what, "asked": asked, "measured": measured, "as_asked": as_asked})
}

fn describe(action: &Action) -> String {
    match action {
        Action::Blackout { link, on: true } => format!("link {link}: blackout"),
        Action::Blackout { link, on: false } => format!("link {link}: blackout ends"),
        Action::Change { link, change } => {
            let parts = [
                change.delay.map(|delay| format!("delay {delay}")),
                change.jitter.map(|jitter| format!("jitter {jitter}")),
                change.rate.map(|rate| format!("rate {rate}")),
                change.loss.map(|loss| format!("loss {loss}")),
                change.queue.map(|queue| format!("queue {queue}")),
            ];
            format!("link {link}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        Action::Reset { between: [a, b] } => format!("connections between {a} and {b}: reset"),
        Action::RemoveAddress { host, address } => format!("host {host}: {address} removed"),
        Action::AddAddress { host, interface, address } => {
            format!("host {host}: {address} added to {interface}")
        }
    }
}

/// One object, and at once: whoever reads may be waiting for it.
fn line(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
