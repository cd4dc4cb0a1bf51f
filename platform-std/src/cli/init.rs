//! `coracle init`: a data directory, for a member of a new cluster or in place of a lost one.

use std::io::{self, Write};

use clap::Args;

use super::{Failure, settings::SettingsArgs};
use crate::node::{init, replace};

/// Make the data directory of a member: of a new cluster, or in place of a lost one
#[derive(Debug, Args)]
#[command(after_long_help = "\
A member must never forget whom it voted for and what it acknowledged. So a directory is made once,
before the cluster's first start, and `coracle node` refuses to run in an empty one. Never run a
plain init for a member that has run before: it would vote and count as if it had forgotten nothing.

  coracle init --config node.toml
  coracle init --member 0 --dir data/0 --peer 0=127.0.0.1:9000,127.0.0.1:9100

If a member's directory is lost (a dead disk, a machine that is replaced, files that are damaged
beyond what the others can heal), make one with --replace and start the node. It begins as one that
knows nothing and counts for nothing. The others send it a snapshot and the log; once it is level,
the cluster puts it in the lost one's place by itself, when every other member is up and has been
told of it, and `coracle status` no longer says `does not count yet`. Until then the cluster can
spare one member less.

  coracle init --replace --config node.toml

Never use --replace
  - for the first start of a new cluster: nobody would count, and nobody would ever lead;
  - while the old directory is there and sound: start the member with that, it has less to catch up;
  - for a member of a cluster of one or two: what is left is no quorum; restore a copy of its
    directory, or begin a new cluster;
  - for half of the members or more at once: those that are left are no quorum, so none of the new
    ones can be let in. Replace one, wait until it counts, then the next. If a quorum is lost for
    good, so is what only that quorum had.
Once it is replaced, never start the old directory again: the cluster would not count it.")]
pub struct InitArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Make it in place of one that was lost: the member counts once the others have filled it
    #[arg(long)]
    replace: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong settings, a directory that is not empty, or any error of the system.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let settings = args.settings.settings()?;
    match args.replace {
        true => replace(&settings)?,
        false => init(&settings)?,
    }
    writeln!(
        io::stdout(),
        "{} is ready for member {} of cluster {}{}",
        settings.dir.display(),
        settings.member,
        settings.cluster,
        match args.replace {
            true =>
                ", in place of its lost one: start the node; it counts when `coracle status` no \
                 longer says `does not count yet`",
            false => "",
        }
    )?;
    Ok(())
}
