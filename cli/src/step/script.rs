//! The language of `coheap step`: a command a line, `#` begins a comment.

/// What `coheap step --help` says about scripts.
pub const HELP: &str = "\
A script has one command a line; what follows a # is a comment.

  actors N           start N processes, P0 to P(N-1), on a heap of their own [2, at the first use]
  rule NAME          before that: take a rule away, e.g. attach-before-park, store-instead-of-cas, no-barrier
  P0 OPERATION       P0 begins an operation; wait until it has ended or stands at a held point
  P0 OPERATION &     the same, without waiting
  hold P0 POINT [N]  P0 will stop when it passes this named point, at the N-th time [1]; each hold stops once
  release P0         P0 goes on from where it stands, to its next held point or the end of its operation
  next P0            P0 goes on to the next point, whatever its name
  reach P0 POINT     P0 goes on, or comes, to this point
  wait P0            wait for an operation begun with &
  kill P0            SIGKILL, where it stands
  start P0           a new process in the place of one that is dead and recovered
  show               the words, also if nothing changed
  expect TEXT        the words must contain this text; 'expect not TEXT': must not

Operations are those of a P; an actor does one at a time:

  enter leave edge             a scope: enter it and stay, leave it, both at once
  new NAME, length NAME        a list of three objects under a named root; count the objects of one
  move NAME NAME               the list under the first root to the second, then the first set to nothing
  request, gc-step, work       ask for a collection; take its phases a step further; do what an idle P does
  drive PHASE, collect         go on to barrier, black, mark, round or off; a whole collection
  start-worker P1              make a mark worker and park it for the slot of P1
  claim, run, park, detach,    the mark worker in one's own slot: claim it, let it mark, park it, take it out of
  mark-done, migrate           its slot, let it look whether marking is over; claim one that migrates
  recover, verify, stop-world  repair what the dead left; verify the heap; stop the world and start it

Named points are passed in the product's own code, by the names in its failpoint! lines (worker.parked,
worker.attached, barrier.recorded, commit.committed, recover.workers, ...). While an actor stands at one,
it has done that step and nothing after it.

Ends with 0; 2 for a line that makes no sense; 5 when the words violate a rule, with that rule; 1 when an
expectation is not met; 124 when a held point is never reached, or an operation does not end.";

/// A command of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Actors(usize),
    Rule(String),
    Do {
        actor: usize,
        operation: String,
        wait: bool,
    },
    Hold {
        actor: usize,
        point: String,
        pass: u32,
    },
    Release(usize),
    Next(usize),
    Reach {
        actor: usize,
        point: String,
    },
    Wait(usize),
    Kill(usize),
    Start(usize),
    Show,
    Expect {
        text: String,
        not: bool,
    },
}

/// Operations, and what they take.
const OPERATIONS: &[(&str, Takes)] = &[
    ("enter", Takes::Nothing),
    ("leave", Takes::Nothing),
    ("edge", Takes::Nothing),
    ("new", Takes::Name),
    ("move", Takes::Names),
    ("length", Takes::Name),
    ("request", Takes::Nothing),
    ("gc-step", Takes::Nothing),
    ("work", Takes::Nothing),
    ("drive", Takes::Phase),
    ("collect", Takes::Nothing),
    ("start-worker", Takes::Actor),
    ("claim", Takes::Nothing),
    ("run", Takes::Nothing),
    ("park", Takes::Nothing),
    ("detach", Takes::Nothing),
    ("mark-done", Takes::Nothing),
    ("migrate", Takes::Nothing),
    ("recover", Takes::Nothing),
    ("verify", Takes::Nothing),
    ("stop-world", Takes::Nothing),
];

/// Phases that `drive` knows.
pub const PHASES: [&str; 5] = ["off", "barrier", "black", "mark", "round"];

/// Actors at most.
const ACTORS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Name,
    Names,
    Phase,
    Actor,
}

/// A whole script: its commands with their line numbers, or the first bad line and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<(usize, Line)>, (usize, String)> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match parse_line(line) {
            Ok(Some(line)) => lines.push((number, line)),
            Ok(None) => {}
            Err(what) => return Err((number, what)),
        }
    }
    Ok(lines)
}

/// One line; `None` when there is nothing on it.
pub fn parse_line(line: &str) -> Result<Option<Line>, String> {
    let code = line.split('#').next().unwrap_or("");
    let words: Vec<&str> = code.split_whitespace().collect();
    let line = match words.as_slice() {
        [] => return Ok(None),
        ["actors", n] => match n.parse() {
            Ok(n) if (1..=ACTORS_MAX).contains(&n) => Line::Actors(n),
            _ => return Err(format!("{n:?} is no number of actors, 1 to {ACTORS_MAX}")),
        },
        ["rule", name] => Line::Rule((*name).to_owned()),
        ["hold", p, point] => hold(p, point, "1")?,
        ["hold", p, point, pass] => hold(p, point, pass)?,
        ["release", p] => Line::Release(actor(p)?),
        ["next", p] => Line::Next(actor(p)?),
        ["reach", p, point] => Line::Reach {
            actor: actor(p)?,
            point: (*point).to_owned(),
        },
        ["wait", p] => Line::Wait(actor(p)?),
        ["kill", p] => Line::Kill(actor(p)?),
        ["start", p] => Line::Start(actor(p)?),
        ["show"] => Line::Show,
        ["expect", "not", text @ ..] if !text.is_empty() => Line::Expect {
            text: text.join(" "),
            not: true,
        },
        ["expect", text @ ..] if !text.is_empty() => Line::Expect {
            text: text.join(" "),
            not: false,
        },
        [p, operation @ .., "&"] if actor(p).is_ok() => perform(p, operation, false)?,
        [p, operation @ ..] if actor(p).is_ok() => perform(p, operation, true)?,
        [first, ..] => return Err(format!("{first:?} is no command that takes this")),
    };
    Ok(Some(line))
}

/// `P3` as 3.
pub fn actor(word: &str) -> Result<usize, String> {
    word.strip_prefix('P')
        .and_then(|n| n.parse().ok())
        .filter(|&n: &usize| n < ACTORS_MAX)
        .ok_or_else(|| format!("{word:?} is no actor, P0 to P{}", ACTORS_MAX - 1))
}

fn hold(p: &str, point: &str, pass: &str) -> Result<Line, String> {
    let pass: u32 = pass.parse().unwrap_or(0);
    if pass == 0 {
        return Err("a point is held at its first pass, or a later one".into());
    }
    Ok(Line::Hold {
        actor: actor(p)?,
        point: point.to_owned(),
        pass,
    })
}

fn perform(p: &str, operation: &[&str], wait: bool) -> Result<Line, String> {
    let Some((name, rest)) = operation.split_first() else {
        return Err("an operation is missing".into());
    };
    let Some((_, takes)) = OPERATIONS.iter().find(|(known, _)| known == name) else {
        return Err(format!("{name:?} is no operation"));
    };
    let fits = match (takes, rest) {
        (Takes::Nothing, []) | (Takes::Name, [_]) | (Takes::Names, [_, _]) => true,
        (Takes::Phase, [phase]) => PHASES.contains(phase),
        (Takes::Actor, [other]) => actor(other).is_ok(),
        _ => false,
    };
    if !fits {
        return Err(match takes {
            Takes::Nothing => format!("{name} takes nothing"),
            Takes::Name => format!("{name} takes a name"),
            Takes::Names => format!("{name} takes two names"),
            Takes::Phase => format!("{name} takes a phase: {}", PHASES.join(", ")),
            Takes::Actor => format!("{name} takes an actor"),
        });
    }
    Ok(Line::Do {
        actor: actor(p)?,
        operation: operation.join(" "),
        wait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(parse_line("  # nothing"), Ok(None));
        assert_eq!(parse_line("actors 3 # P0 to P2"), Ok(Some(Line::Actors(3))));
        let hold = Line::Hold {
            actor: 1,
            point: "worker.parked".into(),
            pass: 2,
        };
        assert_eq!(parse_line("hold P1 worker.parked 2"), Ok(Some(hold)));
        let begins = Line::Do {
            actor: 0,
            operation: "start-worker P1".into(),
            wait: false,
        };
        assert_eq!(parse_line("P0 start-worker P1 &"), Ok(Some(begins)));
        let expects = Line::Expect {
            text: "slot w0".into(),
            not: true,
        };
        assert_eq!(parse_line("expect not slot w0"), Ok(Some(expects)));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for (text, says) in [
            ("show\nactors 0", "actors"),
            ("show\nactors 17", "actors"),
            ("show\nP0", "missing"),
            ("show\nP0 dance", "no operation"),
            ("show\nP0 drive home", "phase"),
            ("show\nP0 enter twice", "takes nothing"),
            ("show\nP0 start-worker", "takes an actor"),
            ("show\nhold P0 x 0", "first pass"),
            ("show\nhold Q0 x", "no actor"),
            ("show\nkill P99", "no actor"),
            ("show\nexpect", "no command"),
            ("show\ndance", "no command"),
        ] {
            let (number, what) = parse(text).expect_err(text);
            assert!(number == 2 && what.contains(says), "{text}: {what}");
        }
    }

    #[test]
    fn the_help_names_every_operation() {
        for (name, _) in OPERATIONS {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
