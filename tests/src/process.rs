//! Processes that end with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait;

/// A process whose standard error goes to a file. Killed when dropped; if the test is failing, the
/// end of the file is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Lines of a process's log that are shown when the test fails.
const LINES_SHOWN: usize = 40;

impl Process {
    /// Starts `command`, whose standard error is added to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log opens");
        let child = command.stderr(file).stdin(Stdio::null()).spawn().expect("the process starts");
        Self { child, log: log.to_owned() }
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills it with SIGKILL: it gets no chance to do anything more. Waits for its end.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// Sends it a signal by name and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn signal(&mut self, name: &str) -> ExitStatus {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        wait::until("the end of a process", || {
            self.child.try_wait().expect("the process can be waited for")
        })
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("--- end of {}:\n{}", self.log.display(), shown.join("\n"));
        }
    }
}
