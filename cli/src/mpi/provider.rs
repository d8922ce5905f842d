//! Where the libfabric provider is.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Name of the file that libfabric loads.
const FILE: &str = "libgridnet-fi.so";

/// The folder with the provider: the one that is named, else that beside this command, else what the environment names.
///
/// # Errors
/// Where it was looked for.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let places = match named {
        Some(folder) => vec![folder.to_owned()],
        None => usual_places(),
    };
    let found = places.iter().find(|folder| folder.join(FILE).is_file());
    let found = found.ok_or_else(|| {
        let tried: Vec<String> = places.iter().map(|folder| folder.display().to_string()).collect();
        let tried = if tried.is_empty() { "nowhere".to_owned() } else { tried.join(", ") };
        Failure::Run(format!(
            "{FILE} was not found (looked in {tried}): install it with ci/install.sh PREFIX --mpi, or name its folder by --provider"
        ))
    })?;
    // Ranks may start in other folders.
    Ok(found.canonicalize()?)
}

fn usual_places() -> Vec<PathBuf> {
    let command = std::env::current_exe().ok();
    let beside = command.and_then(|path| Some(path.parent()?.parent()?.join("lib/gridnet")));
    let path = std::env::var("FI_PROVIDER_PATH").unwrap_or_default();
    let named = path.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from);
    beside.into_iter().chain(named).collect()
}
