//! Where log lines go: to standard error, unless the program has a subscriber of its own.

use gridnet_core::error::Error;
use gridnet_core::rail::Refusal;
use tracing_subscriber::EnvFilter;

/// Installs the filter of the first fabric of a process; later ones change nothing, as one process has one log.
pub(crate) fn start(filter: &str) -> Result<(), Refusal> {
    let filter = EnvFilter::builder().parse(filter).map_err(|e| {
        let why = format!("GRIDNET_LOG: {filter:?} is no filter ({e}); accepted: a level, or target=level pairs, with commas");
        Refusal::new(Error::Config, why)
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error says that there is a subscriber already.
    let _ = subscriber.try_init();
    Ok(())
}
