//! What was asked for: the command line, read and checked before anything is started.
//!
//! 1. Every argument is read; a name of an operation, of a mode, of a fault must be one that there is.
//! 2. `--list` and `--help` answer at once: then there is nothing to run.
//!
//! A fault that is planted is checked here and **handed on to victims only**: the parent and its survivors stay whole, so what they
//! find is the victims'.

#[cfg(feature = "planted")]
use coheap::testing;

use crate::ops::OPS;
#[cfg(feature = "planted")]
use crate::tracer;

const USAGE: &str = "\
Kills a process after every instruction of every critical operation.
usage: stepkill [--op NAME]... [--mode image|kill|stop|double|all|short] [--every K] [--every-instruction] [--seed S] [--list] [-v]
  --mode short         image mode for every operation, a few real kills and stops, recoverers at one: two minutes (the default)
  --mode all           everything
  --every K            real kills and stops at every K-th image (default: about 12 an operation; in mode all, 40)
  --every-instruction  recover after each instruction, whether or not it changed the segment
  --plant NAME         build a fault in (needs the feature `planted`): the run must fail";

/// What was asked for.
pub struct Args {
    pub ops: Vec<String>,
    pub mode: String,
    pub every: Option<usize>,
    pub every_instruction: bool,
    pub seed: u64,
    pub verbose: bool,
}

/// Reads the arguments. None when they have been answered already.
pub fn parse(args: &[String]) -> Result<Option<Args>, String> {
    let mut out = Args {
        ops: Vec::new(),
        mode: "short".into(),
        every: None,
        every_instruction: false,
        seed: 1,
        verbose: false,
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--op" => {
                let name = value()?;
                if !OPS.iter().any(|o| o.name == name) {
                    return Err(format!("there is no operation {name:?}; see --list"));
                }
                out.ops.push(name);
            }
            "--mode" => {
                out.mode = value()?;
                if !["image", "kill", "stop", "double", "all", "short"].contains(&&*out.mode) {
                    return Err(format!("there is no mode {:?}", out.mode));
                }
            }
            "--every" => out.every = Some(value()?.parse().map_err(|_| "--every needs a number")?),
            "--seed" => out.seed = value()?.parse().map_err(|_| "--seed needs a number")?,
            "--every-instruction" => out.every_instruction = true,
            "--plant" => plant(&value()?)?,
            "-v" | "--verbose" => out.verbose = true,
            "--list" => {
                for op in OPS {
                    println!("{}", op.name);
                }
                return Ok(None);
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(out))
}

/// Checks the name of a built-in fault: victims only are given it.
fn plant(name: &str) -> Result<(), String> {
    #[cfg(feature = "planted")]
    return testing::plant(name).map(|()| {
        testing::plant_nothing();
        tracer::plant(name);
    });
    #[cfg(not(feature = "planted"))]
    Err(format!(
        "this build has no fault {name:?} to plant: build with --features planted"
    ))
}
