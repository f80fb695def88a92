//! The `draftsmith` program.

fn main() -> std::process::ExitCode {
    draftsmith::cli::main()
}
