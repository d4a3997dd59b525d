//! The `aurist` command: parse the arguments, call one command, print one error.

fn main() -> std::process::ExitCode {
    aurist::cli::main()
}
