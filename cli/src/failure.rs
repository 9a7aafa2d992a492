//! Why a command failed: the one line, and the exit code.

use coheap::control::ControlError;
use coheap_protocol::{Refused, codes};

/// A failure, ready to be printed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    error: String,
    what: String,
    advice: String,
}

impl Failure {
    /// A failure of the command itself.
    pub fn new(
        code: u8,
        error: &str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Failure {
        Failure {
            code,
            error: error.into(),
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// The command line makes no sense.
    pub fn usage(error: &clap::Error) -> Failure {
        use clap::error::ErrorKind;
        match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                Failure::new(
                    codes::USAGE,
                    "E020",
                    "no command was given",
                    "coheap --help",
                )
            }
            _ => coheap_protocol::usage::refusal(&error.render().to_string(), "coheap").into(),
        }
    }

    /// The system said no.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Failure {
        let what = what.to_string();
        move |e| {
            Failure::new(
                codes::FAILED,
                "E010",
                format!("{what}: {e}"),
                "coheap doctor, which checks limits and permissions",
            )
        }
    }

    /// The one line that every failing command prints.
    pub fn line(&self) -> String {
        let one = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        format!(
            "coheap: error[{}]: {}; try: {}",
            self.error,
            one(&self.what),
            one(&self.advice)
        )
    }
}

impl From<ControlError> for Failure {
    fn from(e: ControlError) -> Failure {
        Failure::new(e.exit_code(), e.code(), e.to_string(), e.advice())
    }
}

impl From<Refused> for Failure {
    fn from(r: Refused) -> Failure {
        Failure::new(r.code, &r.error, r.what, r.advice)
    }
}

impl From<coheap::Error> for Failure {
    fn from(e: coheap::Error) -> Failure {
        Failure::new(
            u8::try_from(e.exit_code()).unwrap_or(codes::FAILED),
            e.code(),
            e.to_string(),
            e.hint(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_quotes() {
        let failure = Failure::new(1, "E010", "two\nlines", "do\n this");
        assert_eq!(
            failure.line(),
            "coheap: error[E010]: two lines; try: do this"
        );
    }
}
