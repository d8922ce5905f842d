//! Where it was measured.

use crate::args::Args;
use crate::canary;
use crate::cores;
use crate::row::Row;
use crate::stats::median;
use std::fs;

/// What is said of the machine: a name and a value a line.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) facts: Vec<(String, String)>,
}

impl Machine {
    /// What is known before the measurement.
    pub(crate) fn describe(args: &Args, (a, b): (usize, usize)) -> Machine {
        let uname = rustix::system::uname();
        let (system, release) = (uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
        let mut machine = Machine { facts: Vec::new() };
        machine.add("processor", processor(&cores::processor(), &read("/proc/cpuinfo")));
        machine.add("cores", core_count());
        machine.add("memory", memory(&read("/proc/meminfo")));
        machine.add("system", format!("{system} {release}{}", distribution(&read("/etc/os-release"))));
        machine.add("huge pages", huge_pages());
        machine.add("pinned to", format!("cores {a} and {b}, autogroup priority {}", autogroup()));
        machine.add("runs", format!("{} of each peer in turns, {} ms each", args.rounds, args.ms));
        for note in &args.note {
            let (name, value) = note.split_once(": ").unwrap_or(("note", note));
            machine.add(name, value.to_owned());
        }
        machine.add("load before", load());
        machine
    }

    /// What is known after it.
    pub(crate) fn finish(&mut self, rows: &[Row]) {
        self.add("load after", load());
        let canaries = || rows.iter().filter_map(|row| row.figures.as_ref().ok()?.canary_ns);
        let (least, most) =
            canaries().fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), ns| (a.min(ns), b.max(ns)));
        let text = median(canaries()).map_or("none".to_owned(), |ns| {
            format!("{ns:.0} ns ({}); by row {least:.0} to {most:.0} ns", canary::distance_word(ns))
        });
        self.add("canary", text);
    }

    fn add(&mut self, name: &str, value: String) {
        self.facts.push((name.to_owned(), value));
    }
}

fn processor(model: &str, cpuinfo: &str) -> String {
    let value = |name: &str| cpuinfo.lines().find_map(|line| field(line, name));
    let numbers = ["cpu family", "model", "stepping"].map(|name| value(name).map(|number| (name, number)));
    let numbers: Vec<String> =
        numbers.into_iter().flatten().map(|(name, number)| format!("{name} {number}")).collect();
    let numbers = if numbers.is_empty() { String::new() } else { format!(" ({})", numbers.join(", ")) };
    let guest = value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let guest = if guest { ", virtual machine" } else { "" };
    format!("{model}{numbers}{guest}")
}

fn core_count() -> String {
    std::thread::available_parallelism().map_or("unknown".to_owned(), |count| count.to_string())
}

fn memory(meminfo: &str) -> String {
    let kib = meminfo.lines().find_map(|line| field(line, "MemTotal"));
    let kib: Option<f64> = kib.and_then(|text| text.split(' ').next()?.parse().ok());
    kib.map_or("unknown".to_owned(), |kib| format!("{:.0} GiB", kib / 1_048_576.0))
}

fn distribution(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or(String::new(), |name| format!(", {}", name.trim_matches('"')))
}

fn huge_pages() -> String {
    let chosen = |name| {
        let text = read(&format!("/sys/kernel/mm/transparent_hugepage/{name}"));
        let word = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        word.map_or("unknown".to_owned(), str::to_owned)
    };
    format!("private memory {}, shared memory {}", chosen("enabled"), chosen("shmem_enabled"))
}

fn autogroup() -> String {
    let text = read("/proc/self/autogroup");
    text.trim().rsplit_once("nice ").map_or("unknown".to_owned(), |(_, nice)| nice.to_owned())
}

/// Processes that were running or ready to, over the last minute.
fn load() -> String {
    read("/proc/loadavg").split(' ').next().filter(|text| !text.is_empty()).unwrap_or("unknown").to_owned()
}

/// The value of a line `NAME : VALUE`.
fn field(line: &str, name: &str) -> Option<String> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == name).then(|| value.trim().to_owned())
}

/// Empty where the system does not say.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_its_name_and_numbers() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: x\nstepping\t: 0\n\
                    flags\t\t: fpu hypervisor lahf_lm\n";
        assert_eq!(
            processor("AMD EPYC", text),
            "AMD EPYC (cpu family 25, model 1, stepping 0), virtual machine"
        );
        assert_eq!(processor("x", ""), "x");
    }

    #[test]
    fn memory_is_in_gib() {
        assert_eq!(memory("MemTotal:       24689180 kB\nMemFree: 1 kB\n"), "24 GiB");
        assert_eq!(memory(""), "unknown");
    }
}
