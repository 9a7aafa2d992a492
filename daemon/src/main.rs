//! `coheapd`: see the library `coheap_daemon`.

use clap::Parser;
use coheap_protocol::usage;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match coheap_daemon::args::Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            coheap_daemon::logging::print(&error.render().to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let refused = usage::refusal(&error.render().to_string(), "coheapd");
            return complain(refused.code, &refused.error, &refused.what, &refused.advice);
        }
    };
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
            let what = error.to_string();
            complain(error.exit_code(), &error.code(), &what, &error.advice())
        }
    }
}

/// The one line of everything that fails.
fn complain(code: u8, error: &str, what: &str, advice: &str) -> ExitCode {
    let one = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    coheap_daemon::logging::complain(&format!(
        "coheap: error[{error}]: {}; try: {}",
        one(what),
        one(advice)
    ));
    ExitCode::from(code)
}
