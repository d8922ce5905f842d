//! What the runs of one peer say of one operation and size.

use crate::op::{Shows, Task};
use crate::parse::Times;
use crate::peer::RAW;
use crate::stats::{agree, median};

/// One run, between two canaries (ns).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) times: Times,
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
}

/// A row of the result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) task: Task,
    pub(crate) peer: &'static str,
    /// The figures, or why there are none.
    pub(crate) figures: Result<Figures, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Time of a message in ns: median over the runs of what [`Shows`] says.
    pub(crate) time_ns: f64,
    /// The times it is the median of.
    pub(crate) used_ns: Vec<f64>,
    /// Runs that succeeded.
    pub(crate) runs: usize,
    /// Median of the canaries around the runs that were used.
    pub(crate) canary_ns: Option<f64>,
    /// For what is one way of one message.
    pub(crate) to_canary: Option<f64>,
    /// Time over gridnet's time: below 1 is faster than gridnet.
    pub(crate) to_gridnet: Option<f64>,
    /// Time over that of the bare socket, where that was measured.
    pub(crate) to_raw: Option<f64>,
    /// The cores moved in half of the runs or more: all runs were used, and the figures are not to be trusted.
    pub(crate) unstable: bool,
    /// Why a run failed, if one did.
    pub(crate) failure: Option<String>,
}

/// All runs of one peer for one task, as they are collected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs {
    pub(crate) samples: Vec<Sample>,
    /// The first reason of a run that failed.
    pub(crate) failure: Option<String>,
}

/// The rows of one task. `runs` has gridnet first.
pub(crate) fn rows(task: Task, runs: &[(&'static str, Runs)]) -> Vec<Row> {
    let samples = runs.iter().flat_map(|(_, runs)| &runs.samples);
    let reference_ns = median(samples.flat_map(|sample| [sample.before, sample.after]).flatten());
    let mut rows: Vec<Row> = runs
        .iter()
        .map(|(peer, runs)| Row { task, peer, figures: figures(task.op.shows, runs, reference_ns) })
        .collect();
    let time_of = |row: &Row| row.figures.as_ref().ok().map(|figures| figures.time_ns);
    let gridnet_ns = rows.first().and_then(time_of);
    let raw_ns = rows.iter().find(|row| row.peer == RAW).and_then(time_of);
    for figures in rows.iter_mut().filter_map(|row| row.figures.as_mut().ok()) {
        figures.to_gridnet = gridnet_ns.map(|gridnet_ns| figures.time_ns / gridnet_ns);
        figures.to_raw = raw_ns.map(|raw_ns| figures.time_ns / raw_ns);
    }
    rows
}

fn figures(shows: Shows, runs: &Runs, reference_ns: Option<f64>) -> Result<Figures, String> {
    let time_ns = |sample: &Sample| match shows {
        Shows::Latency => sample.times.p50_ns,
        Shows::Rate | Shows::Bandwidth => sample.times.avg_ns,
    };
    let steady = |sample: &&Sample| held_still(sample, reference_ns);
    let still: Vec<&Sample> = runs.samples.iter().filter(steady).collect();
    let unstable = 2 * still.len() <= runs.samples.len();
    let used = if unstable { runs.samples.iter().collect() } else { still };
    let used_ns: Vec<f64> = used.iter().map(|sample| time_ns(sample)).collect();
    let Some(time_ns) = median(used_ns.iter().copied()) else {
        return Err(runs.failure.clone().unwrap_or_else(|| "not run".into()));
    };
    let canary_ns = median(used.iter().flat_map(|sample| [sample.before, sample.after]).flatten());
    Ok(Figures {
        time_ns,
        used_ns,
        runs: runs.samples.len(),
        canary_ns,
        to_canary: canary_ns.filter(|_| shows == Shows::Latency).map(|canary_ns| time_ns / canary_ns),
        to_gridnet: None,
        to_raw: None,
        unstable,
        failure: runs.failure.clone(),
    })
}

/// Whether the cores were as far apart before and after a run as in most of the runs of this task.
fn held_still(sample: &Sample, reference_ns: Option<f64>) -> bool {
    match (sample.before, sample.after, reference_ns) {
        (Some(before), Some(after), Some(reference_ns)) => {
            agree(before, after) && agree(before, reference_ns) && agree(after, reference_ns)
        }
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::op;

    pub(crate) fn task(name: &str) -> Task {
        Task { op: op::named(name).unwrap(), size: 8 }
    }

    pub(crate) fn runs(samples: &[(f64, f64, f64)]) -> Runs {
        let sample = |&(p50_ns, before, after): &(f64, f64, f64)| Sample {
            times: Times { p50_ns, avg_ns: 2.0 * p50_ns },
            before: Some(before),
            after: Some(after),
        };
        Runs { samples: samples.iter().map(sample).collect(), failure: None }
    }

    #[test]
    fn runs_in_which_the_cores_moved_do_not_count() {
        let gridnet = runs(&[(100.0, 60.0, 60.0), (900.0, 60.0, 250.0), (102.0, 61.0, 60.0)]);
        let peer = runs(&[(200.0, 60.0, 60.0), (210.0, 60.0, 60.0), (990.0, 250.0, 250.0)]);
        let rows = rows(task("tag_lat"), &[("gridnet", gridnet), ("ucx", peer)]);
        let figures = |at: usize| rows[at].figures.clone().unwrap();
        assert_eq!((figures(0).time_ns, figures(0).used_ns.len(), figures(0).runs), (101.0, 2, 3));
        assert_eq!((figures(1).time_ns, figures(1).unstable), (205.0, false));
        assert_eq!(figures(1).to_gridnet, Some(205.0 / 101.0));
        assert_eq!(figures(1).to_canary, Some(205.0 / 60.0));
    }

    #[test]
    fn where_the_bare_socket_was_measured_all_are_compared_to_it() {
        let run = |ns| runs(&[(ns, 60.0, 60.0)]);
        let rows = rows(task("tag_lat"), &[("gridnet", run(110.0)), ("raw", run(100.0)), ("x", run(250.0))]);
        let to_raw: Vec<Option<f64>> = rows.iter().map(|row| row.figures.clone().unwrap().to_raw).collect();
        assert_eq!(to_raw, [Some(1.1), Some(1.0), Some(2.5)]);
    }

    #[test]
    fn a_peer_whose_cores_moved_too_often_is_unstable() {
        let gridnet = runs(&[(100.0, 60.0, 60.0); 4]);
        let peer = runs(&[(200.0, 250.0, 250.0), (210.0, 60.0, 90.0), (220.0, 60.0, 60.0)]);
        let rows = rows(task("tag_lat"), &[("gridnet", gridnet), ("ucx", peer)]);
        let figures = rows[1].figures.clone().unwrap();
        assert!(figures.unstable && figures.used_ns.len() == 3);
        assert_eq!(figures.time_ns, 210.0);
    }

    #[test]
    fn without_canaries_everything_is_unstable() {
        let mut bare = runs(&[(100.0, 60.0, 60.0)]);
        bare.samples[0].before = None;
        let rows = rows(task("tag_lat"), &[("gridnet", bare)]);
        assert!(rows[0].figures.clone().unwrap().unstable);
    }

    #[test]
    fn streams_take_the_average_and_have_no_ratio_to_the_canary() {
        let rows = rows(task("tag_rate"), &[("gridnet", runs(&[(100.0, 60.0, 60.0)]))]);
        let figures = rows[0].figures.clone().unwrap();
        assert_eq!((figures.time_ns, figures.to_canary), (200.0, None));
    }

    #[test]
    fn a_peer_without_runs_says_why_and_gridnet_may_be_missing() {
        let failed = Runs { samples: vec![], failure: Some("no mpicc".into()) };
        let rows = rows(task("tag_lat"), &[("gridnet", failed), ("ucx", runs(&[(1.0, 60.0, 60.0)]))]);
        assert_eq!(rows[0].figures, Err("no mpicc".into()));
        assert_eq!(rows[1].figures.clone().unwrap().to_gridnet, None);
    }
}
