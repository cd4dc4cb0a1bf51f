//! `cargo xtask qemu`: bare-metal nodes in virtual machines.

use std::process::ExitCode;
use std::time::Duration;

mod cluster;
mod disk;
mod gateway;
mod host;
mod load;
mod machine;
mod report;
mod run;
mod serve;
mod snapshots;
mod state;
mod switch;
mod tools;

use report::Report;
use run::{Options, run};
use tools::{Arch, check};

const HELP: &str = "\
qemu [--arch x86_64|riscv32] [--mixed] [--leader-timeout-ms N] [--seed N] [--seconds N]
qemu --serve [--arch x86_64|riscv32] [--leader-timeout-ms N] [--seed N]

Builds the bare-metal image, makes three disks, and starts three machines of QEMU on a switch of
this program's own; shows their consoles as a table. A client on this host writes all the while:
over a network that loses, doubles and delays frames, then with the leader cut off; then so much
that the log goes round twice over, then with the leader's plug pulled. The dead leader's disk is
read: all that was acknowledged must be on it, in log or snapshot, and its node must start from
both. A follower gets an empty disk and is sent a snapshot. In the end all disks are compared with
what was acknowledged. Needs no root.

  --arch riscv32     QEMU's `virt` for riscv32 instead of its `microvm` for x86_64
  --mixed            two machines (the second a riscv32 one, if that can be had) and `coracle node`
  --seconds N        how long the idle, the faulty and the cut-off phase each last (default 5)
  --serve            three machines with the echo service for another program, which says what to do
                     on standard input: see serve.rs
";

fn options(args: &[&str]) -> Option<Options> {
    let mut options = Options {
        arch: Arch::X86_64,
        is_mixed: false,
        is_served: false,
        leader_timeout: Duration::from_millis(500),
        seed: 1,
        phase: Duration::from_secs(5),
        round_trips: 300,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let mut number = || args.next()?.parse::<u64>().ok();
        match *flag {
            "--mixed" => options.is_mixed = true,
            "--serve" => options.is_served = true,
            "--leader-timeout-ms" => options.leader_timeout = Duration::from_millis(number()?),
            "--seed" => options.seed = number()?,
            "--seconds" => options.phase = Duration::from_secs(number()?),
            "--arch" => {
                options.arch = match *args.next()? {
                    "x86_64" => Arch::X86_64,
                    "riscv32" => Arch::Riscv32,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    (!options.is_served || !options.is_mixed).then_some(options)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some(options) = options(&args) else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let outcome = check(options.arch).and_then(|()| match options.is_served {
        true => serve::serve(&options).map(|()| Report::default()),
        false => run(&options),
    });
    match outcome {
        Ok(_) if options.is_served => ExitCode::SUCCESS,
        Ok(report) => {
            println!("report:\n{}", report.text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
