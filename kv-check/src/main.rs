//! `kv-check`: reads a history, prints whether it is linearizable.
//!
//! Standard output carries the report and nothing else; errors go to standard error.
//! The exit code is the verdict, see [`Exit`].

mod args;
mod input;
mod output;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser as _;
use kv_check::report::printable;
use kv_check::{Format, Options, ParseError, Stop};

use crate::args::{Arguments, Command, Exit};

fn main() -> ExitCode {
    let exit = run(&Arguments::parse()).unwrap_or_else(|error| {
        // Nobody is left to tell if standard error is closed as well.
        let _ = writeln!(io::stderr(), "kv-check: {}", printable(&format!("{error:#}")));
        if error.is::<ParseError>() { Exit::Usage } else { Exit::Io }
    });
    exit.into()
}

fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(Command::Verify { manifest }) = &arguments.command {
        let agrees = verify::verify(manifest, &Options::default(), &mut io::stdout().lock())?;
        return Ok(if agrees { Exit::Holds } else { Exit::Violated });
    }
    let path = arguments.history.as_deref().context("no history was named")?;
    if let Some(clash) = output::clash(arguments, path) {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(io::stderr(), "kv-check: {}", printable(&clash));
        return Ok(Exit::Usage);
    }
    let text = input::read(path)?;
    let format = arguments.format.unwrap_or_else(|| Format::detect(&text));
    let recording = match arguments.model {
        Some(workload) => format.read_as(&text, workload),
        None => format.read(&text),
    };
    let recording = recording.with_context(|| path.display().to_string())?;
    let stop = Stop::default();
    if let Some(budget) = arguments.budget {
        stop_after(budget, stop.clone());
    }
    let finding = recording.check(&arguments.options(stop));
    output::files(arguments, &recording, &finding)?;
    output::print(&finding, arguments.json).context("cannot write the report")?;
    Ok(Exit::of(&finding))
}

/// Stops a check when its time is over; no thread waits for one that has no time at all.
fn stop_after(budget: Duration, stop: Stop) {
    if budget.is_zero() {
        stop.stop();
        return;
    }
    // Nobody waits for this thread: the program ends with its report, mostly long before.
    thread::spawn(move || {
        thread::sleep(budget);
        stop.stop();
    });
}
