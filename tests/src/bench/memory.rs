//! How much memory `up` keeps after clicks.

use std::time::Duration;

use futures::future::join_all;

use super::process::Server;
use super::redirect::load;
use super::{Measured, Size, memory_mb};

const CONNECTIONS: usize = 64;
/// Distinct tokens, more than the edge remembers: when the next round begins it has forgotten the
/// first ones, and logs all of them again.
const LINKS: usize = 200_000;

/// Memory after two million clicks as fast as they are answered, and a minute later.
pub(super) fn clicks(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let catalogue = super::process::catalogue(0);
    std::fs::write(dir.path().join("catalogue.toml"), catalogue)
        .map_err(|error| error.to_string())?;
    let server = Server::start_with(dir.path(), &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let tokens = runtime.block_on(async {
        let mut tokens = Vec::new();
        while tokens.len() < size.choose(LINKS, 64) {
            for link in join_all((0..64).map(|_| server.serve("load".to_owned()))).await {
                tokens.push(link?.rsplit('/').next().unwrap_or_default().to_owned());
            }
        }
        Ok::<_, String>(tokens)
    })?;
    let mut clicks = 0;
    for _ in 0..size.choose(10, 1) {
        clicks += load::run(server.edge_address()?, &tokens, CONNECTIONS)?.redirects;
    }
    let resident = || memory_mb(&format!("/proc/{}/status", server.id()), "VmRSS:");
    let after = resident()?;
    std::thread::sleep(Duration::from_secs(size.choose(60, 1) as u64));
    let later = resident()?;
    let what = format!("`up` after {clicks} clicks at full speed: resident memory");
    Ok(vec![
        Measured::new("up/memory-after-clicks", what, after, "MB"),
        Measured::new("up/memory-later", "a minute later", later, "MB"),
    ])
}
