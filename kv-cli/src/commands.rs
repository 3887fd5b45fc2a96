//! The commands on keys.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use anyhow::Context as _;
use kv_client::blocking::{Client, Snapshot};
use kv_client::{CasResult, Consistency};
use kv_core::id::Timestamp;
use kv_core::machine::plan::Change;
use kv_core::op::Found;
use kv_core::txn::VERSION_BUFFERED;
use serde_json::json;

use crate::args::{Args, CAS_FORMS, CasArgs, ClusterCommand, Command, Format};
use crate::exit::ExitCode;
use crate::failure::Failure;
use crate::{batch, members, output, scan, status, txn};

/// A client and how to print.
pub(crate) struct Session {
    /// The client.
    pub(crate) client: Client,
    /// Where the user said the cluster is.
    pub(crate) endpoints: Vec<String>,
    /// How to print.
    pub(crate) format: Format,
    /// Whether a person reads along: then `get` also shows the version.
    is_prompt: bool,
}

impl Session {
    /// Starts a client. Nothing is sent yet.
    pub(crate) fn open(args: &Args) -> anyhow::Result<Self> {
        let client =
            Client::connect(args.endpoints.clone()).context("the client cannot be started")?;
        Ok(Self {
            client: client.with_deadline(Duration::from_secs(args.timeout)),
            endpoints: args.endpoints.clone(),
            format: args.output,
            is_prompt: args.command.is_none(),
        })
    }

    /// Runs a command, prints its answer or error, and says how it ended.
    pub(crate) fn execute(&self, command: Command) -> ExitCode {
        let verb = match &command {
            Command::Put { .. } => "put",
            Command::Get { .. } => "get",
            Command::Scan(_) => "scan",
            Command::Delete { .. } => "delete",
            Command::Cas(_) => "cas",
            Command::Txn(_) => "txn",
            Command::Batch(_) => "batch",
            Command::Outcome { .. } => "outcome",
            Command::Cluster { .. } => "cluster",
        };
        self.answer(verb, |out| self.run(command, out))
    }

    /// Prints what `command` answers, or its error, and says how it ended. `verb` names it.
    pub(crate) fn answer(
        &self,
        verb: &str,
        command: impl FnOnce(&mut dyn Write) -> Result<ExitCode, Failure>,
    ) -> ExitCode {
        let mut out = io::stdout().lock();
        let result = command(&mut out).and_then(|code| {
            out.flush()?;
            Ok(code)
        });
        result.unwrap_or_else(|failure| {
            failure.report(verb, self.format);
            failure.exit_code()
        })
    }

    fn run(&self, command: Command, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        match command {
            Command::Put { key, value } => self.put(key.into_vec(), value, out),
            Command::Get { key, at, consistency } => self.get(key.into_vec(), at, consistency, out),
            Command::Scan(args) => scan::print(self, &args, out),
            Command::Delete { key } => self.delete(key.into_vec(), out),
            Command::Cas(cas) => self.cas(cas, out),
            Command::Txn(args) if self.is_prompt && args.file.as_os_str() == "-" => {
                Err(Failure::Usage("the prompt reads standard input; use begin".to_owned()))
            }
            Command::Txn(args) => txn::run_file(self, &args, out),
            Command::Batch(args) if self.is_prompt && args.file.as_os_str() == "-" => {
                Err(Failure::Usage("the prompt reads standard input; name a file".to_owned()))
            }
            Command::Batch(args) => batch::run(self, &args, out),
            Command::Outcome { id } => txn::print_outcome(self, &id, out),
            Command::Cluster { command } => self.cluster(command, out),
        }
    }

    fn cluster(&self, command: ClusterCommand, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        match command {
            ClusterCommand::Status => status::print(self, out),
            ClusterCommand::Plan { change } => members::plan(self, change.into(), out),
            ClusterCommand::AddNode { address, no_wait } => {
                members::add(self, &address, no_wait, out)
            }
            ClusterCommand::RemoveNode { id, how } => {
                members::leave(self, Change::Remove { id }, how, out)
            }
            ClusterCommand::ReplaceNode { old, new, how } => {
                members::leave(self, Change::Replace { old, new }, how, out)
            }
            ClusterCommand::TransferLeader { shard, node } => {
                members::transfer(self, shard, node, out)
            }
        }
    }

    fn put(&self, key: Vec<u8>, value: OsString, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let version = self.client.put(key.clone(), value.into_vec())?;
        match self.format {
            Format::Text => writeln!(out, "ok, version {version}")?,
            Format::Json => {
                let answer = json!({ "key": output::bytes(&key), "version": text_of(version) });
                writeln!(out, "{answer}")?;
            }
        }
        Ok(ExitCode::Done)
    }

    fn get(
        &self,
        key: Vec<u8>,
        at: Option<Timestamp>,
        consistency: Consistency,
        out: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        let found = match at {
            Some(at) => self.client.begin_read_only_at(at).get(key.clone())?,
            None => self.client.get_with(key.clone(), consistency)?,
        };
        self.print_found(&key, found.as_ref(), out)
    }

    /// What all keys held at a version; without one, what they hold.
    pub(crate) fn snapshot(&self, at: Option<Timestamp>) -> Result<Snapshot, Failure> {
        match at {
            Some(at) => Ok(self.client.begin_read_only_at(at)),
            None => Ok(self.client.begin_read_only()?),
        }
    }

    /// Prints what a key holds.
    pub(crate) fn print_found(
        &self,
        key: &[u8],
        found: Option<&Found>,
        out: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        let content = found.map(|found| output::content(&found.value));
        match (self.format, found, content) {
            (Format::Json, ..) => writeln!(out, "{}", row_json(key, found))?,
            (Format::Text, Some(found), Some(content)) => {
                out.write_all(content)?;
                out.write_all(b"\n")?;
                if self.is_prompt {
                    match committed(found.version) {
                        Some(version) => writeln!(out, "(version {version})")?,
                        None => writeln!(out, "(not committed)")?,
                    }
                }
            }
            (Format::Text, ..) => say("not found"),
        }
        Ok(yes_or_no(found.is_some()))
    }

    fn delete(&self, key: Vec<u8>, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let existed = self.client.delete(key.clone())?;
        match self.format {
            Format::Text if existed => writeln!(out, "deleted")?,
            Format::Text => say("not found"),
            Format::Json => {
                let answer = json!({ "key": output::bytes(&key), "existed": existed });
                writeln!(out, "{answer}")?;
            }
        }
        Ok(yes_or_no(existed))
    }

    fn cas(&self, args: CasArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let cas = args.parse().ok_or_else(|| Failure::Usage(CAS_FORMS.to_owned()))?;
        let result = self.client.cas(cas.key.clone(), cas.expect, cas.value)?;
        self.print_cas(&cas.key, result, out)
    }

    /// Prints how a compare-and-set ended.
    pub(crate) fn print_cas(
        &self,
        key: &[u8],
        result: CasResult,
        out: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        match (self.format, result.applied, result.version.and_then(committed)) {
            (Format::Json, _, version) => {
                let answer = json!({
                    "key": output::bytes(key),
                    "applied": result.applied,
                    "version": version.map(text_of),
                });
                writeln!(out, "{answer}")?;
            }
            (Format::Text, true, Some(version)) => writeln!(out, "ok, version {version}")?,
            (Format::Text, true, None) => writeln!(out, "ok")?,
            (Format::Text, false, Some(version)) => {
                say(&format!("not applied: the key is at version {version}"));
            }
            (Format::Text, false, None) if result.version.is_some() => {
                say("not applied: the transaction itself has written the key");
            }
            (Format::Text, false, None) => say("not applied: the key does not exist"),
        }
        Ok(yes_or_no(result.applied))
    }
}

/// A key with what it holds.
pub(crate) fn row_json(key: &[u8], found: Option<&Found>) -> serde_json::Value {
    let version = found.and_then(|found| committed(found.version));
    json!({
        "key": output::bytes(key),
        "value": found.map(|found| output::bytes(output::content(&found.value))),
        "version": version.map(text_of),
    })
}

/// A "no" for people goes to standard error: standard output holds values and nothing else.
pub(crate) fn say(message: &str) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr(), "{message}");
}

fn yes_or_no(yes: bool) -> ExitCode {
    if yes { ExitCode::Done } else { ExitCode::No }
}

/// A version as JSON has it: text, because many readers of JSON round numbers beyond 2^53.
pub(crate) fn text_of(version: Timestamp) -> String {
    version.to_string()
}

/// The version of what is committed; none of what a transaction has yet to commit.
fn committed(version: Timestamp) -> Option<Timestamp> {
    (version != VERSION_BUFFERED).then_some(version)
}
