//! The self-check: is each link, and each site, what was asked for? An impairment that does nothing is an error, since a
//! test over such a link would show nothing, too.
//!
//! It is meant for busy machines. What is too slow or lossy is measured again, since a busy machine does that to a good
//! link; what is too good fails just the same, since no machine does that to a bad one.

mod link;
mod site;
mod stream;

use crate::error::{Error, Result};
use crate::lab::Lab;
use std::fmt;

/// What the self-check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each thing that was measured.
    pub findings: Vec<Finding>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of what.
    pub subject: Subject,
    /// What was measured: `delay a to b`.
    pub what: String,
    /// What it should be.
    pub asked: String,
    /// What it is.
    pub measured: String,
    /// Whether that agrees.
    pub verdict: Verdict,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The link of that name.
    Link(String),
    /// The site of that name.
    Site(String),
}

/// Whether something is as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    AsAsked,
    /// It is not.
    NotAsAsked,
}

impl Verdict {
    pub(crate) fn new(as_asked: bool) -> Verdict {
        if as_asked {
            Verdict::AsAsked
        } else {
            Verdict::NotAsAsked
        }
    }
}

impl Report {
    /// Whether everything is as asked.
    pub fn is_as_asked(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict == Verdict::AsAsked)
    }

    /// An error of what is not as asked.
    ///
    /// # Errors
    /// [`Error::NotAsAsked`]
    pub fn into_result(self) -> Result<()> {
        let bad: Vec<Finding> =
            self.findings.into_iter().filter(|finding| finding.verdict == Verdict::NotAsAsked).collect();
        if bad.is_empty() {
            Ok(())
        } else {
            Err(Error::NotAsAsked(bad))
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { subject, what, asked, measured, .. } = self;
        write!(f, "{subject}: {what}: asked {asked}, measured {measured}")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Link(name) => write!(f, "link {name}"),
            Subject::Site(name) => write!(f, "site {name}"),
        }
    }
}

/// Checks all impaired links, then all sites.
pub(crate) fn check(lab: &Lab, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut report = Report::default();
    for link in lab.links().filter(|link| link.is_relayed() || !link.impairment().is_none()) {
        progress(&format!("link {}", link.name()));
        report.findings.extend(link::check(&link)?);
    }
    for site in &lab.plan.sites {
        progress(&format!("site {}", site.name));
        report.findings.extend(site::check(lab, site)?);
    }
    Ok(report)
}
