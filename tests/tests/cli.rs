//! The command line as scripts see it: standard output, standard error, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use kv_tests::cluster::Cluster;
use kv_tests::process::Process;
use kv_tests::{build, ports, wait};
use serde_json::{Value as Json, json};

/// `kv-node dev` on free ports.
struct Dev {
    process: Process,
    endpoint: String,
    data: PathBuf,
    _log: tempfile::TempDir,
}

impl Dev {
    fn start() -> Self {
        let ports = ports::free(3);
        let log = tempfile::tempdir().unwrap();
        let mut command = build::kv_node();
        command.args(["dev", "--base-port", &ports[0].to_string()]).stdout(Stdio::piped());
        let mut process = Process::start(command, &log.path().join("log"));
        let stdout = process.child().stdout.take().unwrap();
        let mut greeting = BufReader::new(stdout).lines().map(Result::unwrap);
        let data = greeting.find_map(|line| {
            let (_, rest) = line.split_once("data: ")?;
            Some(rest.split_once(" (temporary")?.0.into())
        });
        let endpoint = format!("127.0.0.1:{}", ports[0]);
        assert!(greeting.any(|line| line.contains(&format!("--endpoints {endpoint} put"))));
        Self { process, endpoint, data: data.unwrap(), _log: log }
    }

    fn kv(&self, args: &[&str]) -> Output {
        build::kv().args(["--endpoints", &self.endpoint]).args(args).output().unwrap()
    }

    #[track_caller]
    fn check(&self, args: &[&str], code: i32, stdout: &str) {
        let output = self.kv(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{args:?}");
        assert_eq!(stderr.is_empty(), code == 0, "{args:?}: {stderr}");
    }

    #[track_caller]
    fn json(&self, args: &[&str], code: i32) -> Json {
        let args = [&["--output", "json"], args].concat();
        let output = self.kv(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn commands_answer_by_output_and_exit_code() {
    let mut dev = Dev::start();
    // The first write also waits for the cluster.
    wait::until("the first write", || dev.kv(&["put", "k", "v"]).status.success().then_some(()));
    dev.check(&["get", "k"], 0, "v\n");
    dev.check(&["get", "missing"], 1, "");
    dev.check(&["cas", "k", "other", "w"], 1, "");
    dev.check(&["get", "k"], 0, "v\n");
    assert!(dev.kv(&["cas", "k", "v", "w"]).status.success());
    dev.check(&["get", "k"], 0, "w\n");
    assert!(dev.kv(&["cas", "--absent", "new", "1"]).status.success());
    dev.check(&["cas", "--absent", "new", "2"], 1, "");
    dev.check(&["get", "new"], 0, "1\n");
    dev.check(&["delete", "new"], 0, "deleted\n");
    dev.check(&["delete", "new"], 1, "");
    let put = dev.kv(&["put", "empty", ""]);
    let said = String::from_utf8(put.stdout).unwrap();
    let version = said.strip_prefix("ok, version ").and_then(|it| it.trim_end().parse().ok());
    assert!(version.is_some_and(|version: u64| version > 0), "{said}");
    dev.check(&["get", "empty"], 0, "\n");

    let found = dev.json(&["get", "k"], 0);
    let version = version_in(&found);
    assert_eq!(found, json!({ "key": "k", "value": "w", "version": version.to_string() }));
    let cas = ["cas", "--version", &version.to_string(), "k", "x"];
    let applied = dev.json(&cas, 0);
    assert_eq!(applied["applied"], json!(true));
    assert!(version_in(&applied) > version);
    assert_eq!(dev.json(&cas, 1)["applied"], json!(false));
    let missing = json!({ "key": "missing", "value": null, "version": null });
    assert_eq!(dev.json(&["get", "missing"], 1), missing);
    assert_eq!(dev.json(&["delete", "k"], 0), json!({ "key": "k", "existed": true }));

    assert!(dev.process.signal("INT").success(), "Ctrl-C ends it well");
    assert!(!dev.data.exists(), "the temporary directory is removed");
}

/// The version in an answer: text, for many readers of JSON would round the number.
fn version_in(answer: &serde_json::Value) -> u64 {
    answer["version"].as_str().unwrap().parse().unwrap()
}

#[test]
fn bytes_that_are_no_text_go_in_and_out_unchanged() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let dev = Dev::start();
    let value = OsStr::from_bytes(b"\xff\xfe\n");
    let put = || {
        let mut command = build::kv();
        command.args(["--endpoints", &dev.endpoint, "put", "bytes"]).arg(value);
        command.output().unwrap().status.success().then_some(())
    };
    wait::until("the first write", put);
    assert_eq!(dev.kv(&["get", "bytes"]).stdout, b"\xff\xfe\n\n");
    assert_eq!(dev.json(&["get", "bytes"], 0)["value"], json!({ "b64": "//4K" }));
}

#[test]
fn the_status_names_every_node_and_shard() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let ask = |endpoints: &str| {
        let mut command = build::kv();
        command.args(["--endpoints", endpoints, "--output", "json", "cluster", "status"]);
        let output = command.output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<Json>(&output.stdout).unwrap()
    };
    let status = ask(&cluster.address(0));
    assert_eq!(status["shard_count"], json!(16));
    assert_eq!(status["shards_without_leader"], json!([]));
    let leads = |node: &Json| node["leads"].as_array().unwrap().len();
    assert_eq!(status["nodes"].as_array().unwrap().iter().map(leads).sum::<usize>(), 17);
    cluster.kill(2);
    let status = ask(&cluster.address(0));
    let reachable: Vec<_> =
        status["nodes"].as_array().unwrap().iter().map(|node| node["reachable"].clone()).collect();
    assert_eq!(reachable, [json!(true), json!(true), json!(false)]);
}

#[test]
fn mistakes_and_missing_clusters_change_nothing() {
    let code = |args: &[&str]| {
        let output = build::kv().args(args).output().unwrap();
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
        output.status.code().unwrap()
    };
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(code(&["put", "only-a-key"]), 2);
    assert_eq!(code(&["cas", "k", "new"]), 2);
    assert_eq!(code(&["cas", "--absent", "--version", "1", "k", "new"]), 2);
    assert_eq!(code(&["--endpoints", "nowhere", "get", "k"]), 2);
    let closed = format!("127.0.0.1:{}", ports::free(1)[0]);
    let unreachable = ["--endpoints", &closed, "--timeout", "1"];
    assert_eq!(code(&[&unreachable[..], &["put", "k", "v"]].concat()), 3);
    assert_eq!(code(&[&unreachable[..], &["get", "k"]].concat()), 3);
    assert_eq!(code(&[&unreachable[..], &["cluster", "status"]].concat()), 3);
}

#[test]
fn a_closed_pipe_is_no_reason_to_panic() {
    let mut command = build::kv();
    command.arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut help = command.spawn().unwrap();
    drop(help.stdout.take());
    let output = help.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panic"));

    let cluster = Cluster::start(1);
    cluster.wait_until_ready();
    cluster.client().put("k", "v".repeat(1_000_000)).unwrap();
    let mut command = build::kv();
    command.args(["--endpoints", &cluster.endpoints(), "get", "k"]);
    let mut get = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    get.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = get.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_write_without_an_answer_has_an_unknown_outcome() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_ready();
    let mut command = build::kv();
    command.args(["--endpoints", &cluster.endpoints(), "--timeout", "5"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut prompt = command.spawn().unwrap();
    let mut stdin = prompt.stdin.take().unwrap();
    let mut lines = BufReader::new(prompt.stdout.take().unwrap()).lines();
    writeln!(stdin, "put k one").unwrap();
    assert!(lines.next().unwrap().unwrap().starts_with("ok, version "));
    // Who is left cannot commit, but takes requests for a while.
    cluster.kill(1);
    cluster.kill(2);
    writeln!(stdin, "put k two").unwrap();
    drop(stdin);
    let output = prompt.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("outcome unknown: request "), "{stderr}");
    assert!(stderr.contains("Repeating this put is safe"), "{stderr}");
}
