//! Medians, and canaries that agree.

/// The middle of `values`; between the two middle ones if their number is even.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Whether two canaries say the same of the distance of the cores, by the rule of `gridnet perf`.
pub(crate) fn agree(a: f64, b: f64) -> bool {
    (a - b).abs() <= 0.15 * a.min(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn canaries_agree_within_15_percent() {
        assert!(agree(100.0, 115.0) && agree(115.0, 100.0));
        assert!(!agree(100.0, 116.0) && !agree(250.0, 55.0));
    }
}
