//! What the programs print.

use serde::Deserialize;

/// Times of one message in one run, in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) p50_ns: f64,
    pub(crate) avg_ns: f64,
}

/// A line of `gridnet perf --format json`.
pub(crate) fn gridnet(text: &str) -> Result<Times, String> {
    #[derive(Deserialize)]
    struct Line {
        p50_us: f64,
        avg_us: f64,
    }
    let line: Line = json(text)?;
    times(line.p50_us * 1_000.0, line.avg_us * 1_000.0)
}

/// The line of a program of this folder.
pub(crate) fn own(text: &str) -> Result<Times, String> {
    #[derive(Deserialize)]
    struct Line {
        p50_ns: f64,
        avg_ns: f64,
    }
    let line: Line = json(text)?;
    times(line.p50_ns, line.avg_ns)
}

/// The last line of `ucx_perftest -f -v`: iterations, median, average, overall time of a message in us, and more. In
/// its bandwidth tests the median is that of a call, not of a message, and is of no use.
pub(crate) fn ucx(text: &str) -> Result<Times, String> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let fields: Vec<f64> = line.split(',').map_while(|field| field.trim().parse().ok()).collect();
    match fields[..] {
        [_, p50_us, _, overall_us, ..] => times(p50_us * 1_000.0, overall_us * 1_000.0),
        _ => Err(format!("no result in {line:?}")),
    }
}

/// The first line that a program says of its version, without what is of no use in a table.
pub(crate) fn version(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let line = line.split(',').next().unwrap_or(line).replace("Version:", " ");
    Some(line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|line| !line.is_empty())
}

/// Launchers may print lines of their own before and after.
fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    let line = text.lines().map(str::trim).rfind(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| "it printed no result".to_owned())?;
    serde_json::from_str(line).map_err(|error| format!("no result in {line:?}: {error}"))
}

fn times(p50_ns: f64, avg_ns: f64) -> Result<Times, String> {
    match [p50_ns, avg_ns].iter().all(|ns| ns.is_finite() && *ns > 0.0) {
        true => Ok(Times { p50_ns, avg_ns }),
        false => Err(format!("times of {p50_ns} and {avg_ns} ns cannot be")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(times: Result<Times, String>, p50_ns: f64, avg_ns: f64) {
        let times = times.unwrap();
        assert!((times.p50_ns - p50_ns).abs() < 1e-6 && (times.avg_ns - avg_ns).abs() < 1e-6, "{times:?}");
    }

    #[test]
    fn lines_of_gridnet() {
        close(gridnet(include_str!("../tests/output/gridnet-tag_lat.txt")), 197.7, 982.1);
        close(gridnet(include_str!("../tests/output/gridnet-canary.txt")), 141.4, 2_491.3);
    }

    #[test]
    fn lines_of_ucx_1_22_and_1_13() {
        close(ucx(include_str!("../tests/output/ucx-1.22-tag_bw.txt")), 170.0, 618_930.0);
        close(ucx(include_str!("../tests/output/ucx-1.13-tag_lat.txt")), 315.0, 4_614.0);
    }

    #[test]
    fn lines_of_our_own_programs() {
        close(own(include_str!("../tests/output/openmpi-5-tag_lat.txt")), 292.62, 303.65);
        close(own("mpiexec: a warning\n{\"p50_ns\": 2, \"avg_ns\": 3}\n\ngood bye\n"), 2.0, 3.0);
    }

    #[test]
    fn what_is_no_result_is_an_error_that_shows_it() {
        for text in ["", "\n", "{}", "Segmentation fault\n", "{\"p50_ns\": 0, \"avg_ns\": 3}"] {
            assert!(own(text).is_err() && gridnet(text).is_err() && ucx(text).is_err(), "{text:?}");
        }
        assert!(ucx("1,nan,2,nan\n").is_err() && ucx("1,2,3\n").is_err());
        assert!(ucx("iterations,50.0_percentile_lat\n").unwrap_err().contains("percentile"));
    }

    #[test]
    fn versions_are_short() {
        let mpich = include_str!("../tests/output/mpich-5-version.txt");
        assert_eq!(version(mpich).unwrap(), "MPICH 5.0.2");
        let open_mpi = include_str!("../tests/output/openmpi-5-version.txt");
        assert_eq!(version(open_mpi).unwrap(), "Open MPI v5.0.11");
        assert_eq!(version("\nZeroMQ 4.3.4\n").unwrap(), "ZeroMQ 4.3.4");
        assert_eq!(version(" \n"), None);
    }
}
