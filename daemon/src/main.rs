//! `coheapd`: see the library `coheap_daemon`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = coheap_daemon::args::Args::parse();
    match coheap_daemon::main(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            coheap_daemon::logging::complain(&format!(
                "coheap: error[{}]: {error}; try: {}",
                error.code(),
                error.advice()
            ));
            ExitCode::from(error.exit_code())
        }
    }
}
