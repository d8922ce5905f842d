//! What the samples of a run say.

/// The times of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples {
    /// Time of one message in ns, one sample per look at the clock.
    pub(crate) per_message_ns: Vec<f64>,
    /// Time of all of them in ns.
    pub(crate) total_ns: f64,
    /// How many messages that was.
    pub(crate) messages: f64,
}

impl Samples {
    /// Room for `count` samples, so that measuring does not allocate.
    pub(crate) fn with_capacity(count: u64) -> Self {
        Samples { per_message_ns: Vec::with_capacity(count as usize), ..Samples::default() }
    }

    /// Adds a stretch of `elapsed_ns` in which `messages` went one after the other.
    #[inline]
    pub(crate) fn add(&mut self, elapsed_ns: f64, messages: f64) {
        self.per_message_ns.push(elapsed_ns / messages);
        self.total_ns += elapsed_ns;
        self.messages += messages;
    }

    /// Sums the samples up; `None` if there are none.
    pub(crate) fn summary(mut self) -> Option<Summary> {
        self.per_message_ns.sort_by(f64::total_cmp);
        Some(Summary {
            p50_ns: percentile(&self.per_message_ns, 50)?,
            p99_ns: percentile(&self.per_message_ns, 99)?,
            avg_ns: self.total_ns / self.messages,
        })
    }
}

/// The middle one of some values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    percentile(&values, 50)
}

/// Time of a message in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Median of the samples.
    pub(crate) p50_ns: f64,
    /// 99 of 100 samples are not above it.
    pub(crate) p99_ns: f64,
    /// Whole time over number of messages.
    pub(crate) avg_ns: f64,
}

/// The smallest of the sorted values that `percent` of 100 do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(100.0));
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&values[..1], 99), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_average_weighs_by_messages() {
        let mut samples = Samples::with_capacity(2);
        samples.add(300.0, 3.0);
        samples.add(500.0, 1.0);
        let summary = samples.summary().unwrap();
        assert_eq!((summary.p50_ns, summary.p99_ns, summary.avg_ns), (100.0, 500.0, 200.0));
    }
}
