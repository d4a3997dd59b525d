//! The command line.

/// Runs the command line; the exit code is the process's.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
