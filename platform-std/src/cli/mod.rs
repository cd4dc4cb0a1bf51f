//! The `coracle` command.

mod failure;
mod init;
mod kv;
mod log;
mod node;
mod replay;
mod send;
mod settings;
mod snapshot;
mod snapshots;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::Failure;
pub use snapshot::ask as ask_for_snapshot;
pub use status::{query, role_name};

const ABOUT: &str = "Replicated state machines for appliances: one order of messages on every \
                     member, durable, over Aeron streams";

const LONG_ABOUT: &str = "\
Coracle keeps a service in the same state on 1 to 7 machines: the same messages, in the same order,
each one on the disks of a majority before it counts. Clients speak the protocol of Aeron Cluster.

  coracle demo                 see it work: three nodes on this machine, one is killed
  coracle init / coracle node  make a member's directory, and run the member
  coracle send / coracle kv    talk to a cluster
  coracle snapshot             make every member write down its state
  coracle status / log / replay / snapshots   look into one";

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 the outcome is not what was asked for (a check failed, a key is missing, a
message's outcome is unknown); 2 wrong usage or configuration; 3 a data directory cannot be used, or
a disk failed; 4 an address cannot be bound; 5 no answer from the cluster; 130 a second SIGTERM or
SIGINT ended the process at once.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, about = ABOUT, long_about = LONG_ABOUT)]
#[command(after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(crate::demo::DemoArgs),
    Init(init::InitArgs),
    Node(node::NodeArgs),
    Send(send::SendArgs),
    Kv(kv::KvArgs),
    Status(status::StatusArgs),
    Log(log::LogArgs),
    Snapshot(snapshot::SnapshotArgs),
    Snapshots(snapshots::SnapshotsArgs),
    #[command(visible_alias = "tail")]
    Replay(replay::ReplayArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Demo(args) => crate::demo::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Node(args) => node::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Kv(args) => kv::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Snapshots(args) => snapshots::run(&args),
        Command::Replay(args) => replay::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody can read it, the exit code says it.
            let _unread = writeln!(io::stderr(), "coracle: {failure}").is_err();
            ExitCode::from(failure.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_teaches() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no help");
            assert!(
                command.get_after_long_help().is_some(),
                "{name} has no example"
            );
        }
    }
}
