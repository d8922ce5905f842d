//! What a new fabric finds on its host: the directory of names, and its page.

use std::sync::Arc;

use gridnet_core::ledger::{Ledger, Unread};
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::wire::Address;
use gridnet_shm::{NameHolder, RunDir};

use crate::config::Config;
use crate::page::{Identity, Page, PageLedger};
use crate::rails::AnyRail;

/// The directory where the fabric finds others by their names, if it can be had, and its own name there.
pub(crate) fn find_run_dir(
    config: &Config,
    local: &Address,
    name: Option<&str>,
    rails: &[AnyRail],
) -> Result<(Option<RunDir>, Option<NameHolder>), Refusal> {
    let of_shm = rails.iter().find_map(|rail| match rail {
        AnyRail::Shm(shm) => Some(shm.run_dir().clone()),
        AnyRail::Tcp(_) | AnyRail::Verbs(_) | AnyRail::Own(_) => None,
    });
    if of_shm.is_some() {
        return Ok((of_shm, None));
    }
    let base = config.run_dir.clone().unwrap_or_else(RunDir::default_base);
    match (RunDir::open(&base, local.host), name) {
        (Ok(dir), Some(name)) => {
            let holder = dir.hold_name(name, local)?;
            Ok((Some(dir), Some(holder)))
        }
        (Ok(dir), None) => Ok((Some(dir), None)),
        (Err(refusal), Some(_)) => Err(refusal),
        (Err(_), None) => Ok((None, None)),
    }
}

/// The page of a new fabric. A fabric does without one where the system gives none.
pub(crate) fn open_page(who: &Identity<'_>, run_dir: Option<&RunDir>) -> Option<Arc<Page>> {
    if !who.config.page {
        return None;
    }
    let dir = run_dir.cloned().map_or_else(
        || RunDir::open(&who.config.run_dir.clone().unwrap_or_else(RunDir::default_base), who.local.host),
        Ok,
    );
    match dir.and_then(|dir| Page::create(dir.path(), who)) {
        Ok(page) => Some(page),
        Err(refusal) => {
            tracing::info!(reason = %refusal.reason, "the fabric has no page");
            None
        }
    }
}

pub(crate) fn ledger_of(page: Option<&Arc<Page>>, rails: &[AnyRail], config: &Config) -> Box<dyn Ledger> {
    let Some(page) = page else { return Box::new(Unread) };
    let figures = rails.iter().map(|rail| (rail.name(), *rail.capabilities())).collect();
    Box::new(PageLedger::new(page.clone(), figures, config.rails.clone()))
}
