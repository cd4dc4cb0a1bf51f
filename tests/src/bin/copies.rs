//! `cargo xtask copies`: counts what nodes copy for each byte of payload, and compares with what
//! they may.

use std::path::PathBuf;
use std::process::ExitCode;

use coracle_tests::copies::{self, Expect};

const HELP: &str = "\
copies --preload FILE [--planted]

Three processes of `coracle node` (or of what CORACLE_BIN names) with FILE, built from
tests/copies/, preloaded; messages of 32 B, 1 KiB and 64 KiB. Prints for leader and followers how
often each byte of payload was copied, and where, and fails if that is more often than it may be.
With --planted the program is one that copies once too often, and every limit must be exceeded.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (preload, expect) = match args[..] {
        ["--preload", preload] => (preload, Expect::Within),
        ["--preload", preload, "--planted"] => (preload, Expect::Beyond),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match copies::run(&PathBuf::from(preload), expect) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for line in wrong {
                println!("FAILED: {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
