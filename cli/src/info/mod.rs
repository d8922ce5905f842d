//! `gridnet info`: what this host offers.

mod distance;
mod limits;
mod rails;

use crate::failure::Failure;
use crate::{cabi, cores, text};
use gridnet::config::Config;
use serde::Serialize;
use std::io::{self, Write};

/// Everything that the command shows; the fields are the keys of the JSON object.
#[derive(Serialize)]
struct Info {
    version: String,
    host: Host,
    rails: Vec<rails::Rail>,
    core_distance: Vec<distance::Distance>,
    huge_pages: limits::HugePages,
    limits: Vec<limits::Limit>,
}

#[derive(Serialize)]
struct Host {
    kernel: String,
    processor: String,
    cores_allowed: Vec<usize>,
}

/// Looks at this host and prints what it offers.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    let config = Config::from_process(&[])?;
    let cores_allowed = cores::allowed()?;
    let info = Info {
        version: cabi::version(),
        core_distance: distance::between(&cores_allowed)?,
        host: Host { kernel: kernel(), processor: cores::processor(), cores_allowed },
        rails: rails::examine(&config),
        huge_pages: limits::huge_pages(),
        limits: limits::all(),
    };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &info).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &info)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, info: &Info) -> io::Result<()> {
    writeln!(out, "gridnet {}", info.version)?;
    writeln!(
        out,
        "host    {}, {}, cores {:?}\n",
        info.host.processor, info.host.kernel, info.host.cores_allowed
    )?;
    print_rails(out, &info.rails)?;
    writeln!(out, "\ncore distance: time of a cache line from one core to another")?;
    for distance in &info.core_distance {
        writeln!(
            out,
            "  {}-{}  {:>4.0} ns  {}",
            distance.from, distance.to, distance.one_way_ns, distance.word
        )?;
    }
    if info.core_distance.is_empty() {
        writeln!(out, "  only one core may be used")?;
    }
    writeln!(
        out,
        "\nhuge pages: shared memory {}, {} reserved",
        info.huge_pages.shmem_enabled, info.huge_pages.reserved
    )?;
    writeln!(out, "\nlimits")?;
    for limit in &info.limits {
        let value = limit.value.map_or("unlimited".to_owned(), |value| shown(value, limit.bytes));
        writeln!(out, "  {:<22}{value:>12}  {}", limit.name, limit.meaning)?;
    }
    Ok(())
}

fn print_rails(out: &mut impl Write, rails: &[rails::Rail]) -> io::Result<()> {
    writeln!(out, "rails")?;
    for rail in rails {
        let verdict = if rail.available { "available" } else { "not available" };
        writeln!(out, "  {:<6}{verdict}: {}", rail.name, rail.why)?;
        for check in &rail.checks {
            writeln!(
                out,
                "        {:<4}{:<24}{}",
                if check.works { "ok" } else { "NO" },
                check.name,
                check.detail
            )?;
        }
    }
    Ok(())
}

fn shown(value: u64, bytes: bool) -> String {
    match bytes {
        true => text::size(value as usize),
        false => value.to_string(),
    }
}

fn kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}
