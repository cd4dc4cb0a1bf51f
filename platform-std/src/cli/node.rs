//! `coracle node`: runs one member.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use coracle_core::service::Service;
use coracle_core::service::echo::Echo;
use coracle_core::service::kv::Kv;

use super::{Failure, settings::SettingsArgs};
use crate::config::{ServiceKind, Settings};
use crate::logging::{self, LogFormat, LogLevel};
use crate::mapped::Mapped;
use crate::node::{Make, NodeBuilder, NodeError, Services};
use crate::signals::StopSignal;

/// Run one member of a cluster
#[derive(Debug, Args)]
#[command(after_long_help = "\
Runs until SIGTERM or SIGINT: then a leader hands over, and the node closes. A second signal ends it
at once; so does kill -9, and a restart after that just works. Logs go to standard error, and only
when something changes.

  coracle node --config node.toml --check      print the effective values, with every key
  coracle node --config node.toml
  coracle node --init --member 0 --dir data/0 --peer 0=127.0.0.1:9000,127.0.0.1:9100
  coracle node --replace --config node.toml    the directory was lost: begin knowing nothing

A smallest configuration file:

  member = 0
  dir = \"/var/lib/coracle\"
  members = [
    { id = 0, member = \"10.0.0.1:9000\", ingress = \"10.0.0.1:9100\" },
    { id = 1, member = \"10.0.0.2:9000\", ingress = \"10.0.0.2:9100\" },
    { id = 2, member = \"10.0.0.3:9000\", ingress = \"10.0.0.3:9100\" },
  ]")]
pub struct NodeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Validate the configuration, print the effective values, and exit
    #[arg(long)]
    check: bool,
    /// Make the data directory first if it is empty: only for the first start of a new cluster
    #[arg(long)]
    init: bool,
    /// Make it first if it is empty, in place of one that was lost: see `coracle init --help`
    #[arg(long, conflicts_with = "init")]
    replace: bool,
    /// Note when each stage had which part of the log, in this file when the node closes
    #[arg(long, value_name = "FILE", hide = true)]
    trace: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// How much is logged
    #[arg(long, value_enum, default_value_t)]
    log_level: LogLevel,
}

/// Runs the command.
///
/// # Errors
/// See `NodeError`.
pub fn run(args: &NodeArgs) -> Result<(), Failure> {
    let settings = args.settings.settings()?;
    if args.check {
        write!(io::stdout(), "{settings}")?;
        return Ok(());
    }
    logging::start(args.log_format, args.log_level);
    let make = match (args.init, args.replace) {
        (true, _) => Some(Make::Init),
        (false, true) => Some(Make::Replace),
        (false, false) => None,
    };
    match settings.service {
        ServiceKind::Echo => run_with(settings, make, args, Echo::default()),
        ServiceKind::Kv => {
            let kv = key_value(&settings)?;
            run_with(settings, make, args, kv)
        }
    }
}

fn run_with(
    settings: Settings,
    make: Option<Make>,
    args: &NodeArgs,
    service: impl Service + Send + 'static,
) -> Result<(), Failure> {
    let on_thread = settings.service_thread;
    let builder = NodeBuilder::new(settings)
        .make(make)
        .trace(args.trace.clone())
        .stop_signal(StopSignal::register()?);
    match on_thread {
        true => builder.run(Services::new().on_thread(service))?,
        false => builder.run(service)?,
    }
    Ok(())
}

fn key_value(settings: &Settings) -> Result<Kv<Mapped>, NodeError> {
    let memory = Mapped::new(settings.kv_memory.0)?;
    Ok(match settings.kv_barrier.0 {
        0 => Kv::new(memory),
        barrier => Kv::with_barrier(memory, Mapped::new(barrier)?),
    })
}
