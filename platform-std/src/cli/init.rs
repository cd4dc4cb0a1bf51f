//! `coracle init`: a data directory for a member of a new cluster.

use clap::Args;

use super::{Failure, settings::SettingsArgs};
use crate::node::init;

/// Make the data directory of a member of a new cluster
#[derive(Debug, Args)]
#[command(after_long_help = "\
A member must never forget whom it voted for and what it acknowledged. So a directory is made once,
before the cluster's first start, and `coracle node` refuses to run in an empty one. Never init a
member that has run before: if its directory is lost, it has to stay out.

  coracle init --config node.toml
  coracle init --member 0 --dir data/0 --peer 0=127.0.0.1:9000,127.0.0.1:9100")]
pub struct InitArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
///
/// # Errors
/// Wrong settings, a directory that is not empty, or any error of the system.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let settings = args.settings.settings()?;
    init(&settings)?;
    println!(
        "{} is ready for member {} of cluster {}",
        settings.dir.display(),
        settings.member,
        settings.cluster
    );
    Ok(())
}
