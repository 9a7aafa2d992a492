//! A command line that makes no sense, in one line.
//!
//! The parser of command lines explains itself in several lines: what is wrong, a tip, a usage line, a pointer to `--help`. Scripts
//! and people who read logs want the rule of this project instead: one line, what and what to try.

use crate::{Refused, codes};

/// The complaint of a command line parser as a refusal with exit code 2.
///
/// ```
/// use coheap_protocol::usage::refusal;
/// let text = "error: unexpected argument '--josn' found\n\n  tip: a similar argument exists: '--json'\n\nUsage: coheap ps [OPTIONS]\n";
/// let refused = refusal(text, "coheap");
/// assert_eq!(refused.what, "unexpected argument '--josn' found");
/// assert_eq!(refused.advice, "'--json'; coheap ps --help lists what is accepted");
/// ```
pub fn refusal(rendered: &str, program: &str) -> Refused {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = rendered.trim().trim_start_matches("error: ");
    let what = text.split("\n\n").next().unwrap_or_default();
    let tip = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .filter_map(|tip| tip.split_once(": "))
        .map(|(_, similar)| format!("{similar}; "))
        .next()
        .unwrap_or_default();
    let help = format!("{} --help lists what is accepted", command(text, program));
    Refused::new(codes::USAGE, "E020", flat(what), format!("{tip}{help}"))
}

/// The command that the usage line is about: its words before the first that stands for something.
fn command(text: &str, program: &str) -> String {
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let words: Vec<&str> = usage
        .unwrap_or(program)
        .split_whitespace()
        .take_while(plain)
        .take_while(|word| !word.starts_with('-'))
        .collect();
    if words.is_empty() {
        program.into()
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_parser_says_is_one_line_with_a_command_to_try() {
        let long = "error: the following required arguments were not provided:\n  <DIR>\n\nUsage: coheap run index <DIR>\n\nFor more information, try '--help'.\n";
        let refused = refusal(long, "coheap");
        assert_eq!((refused.code, refused.error.as_str()), (2, "E020"));
        assert_eq!(
            refused.what,
            "the following required arguments were not provided: <DIR>"
        );
        assert_eq!(
            refused.advice,
            "coheap run index --help lists what is accepted"
        );
        assert_eq!(
            refusal("", "coheapd").advice,
            "coheapd --help lists what is accepted"
        );
    }
}
