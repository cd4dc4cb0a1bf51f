//! The `coracle` command; see `coracle --help`.

fn main() -> std::process::ExitCode {
    coracle_std::cli::run()
}
