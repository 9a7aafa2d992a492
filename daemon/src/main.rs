//! `coheapd`: see the library `coheap_daemon`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = coheap_daemon::args::Args::parse();
    #[cfg(feature = "failpoints")]
    if let Err(what) = coheap::failpoint::arm_from_environment() {
        coheap_daemon::logging::complain(&format!(
            "coheap: error[E002]: {what}; try: COHEAP_FAILPOINTS='recover.dead=9*off->kill'"
        ));
        return ExitCode::from(2);
    }
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
