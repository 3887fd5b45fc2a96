//! The program `kv-sim`.

use std::process::ExitCode;

#[cfg(not(madsim))]
fn main() -> ExitCode {
    eprintln!(
        "error: kv-sim was built without its simulator, because RUSTFLAGS in the environment overrides"
    );
    eprintln!("       the repository's .cargo/config.toml. Type");
    eprintln!("    env -u RUSTFLAGS cargo run -p kv-sim -- --help");
    eprintln!("       or add `--cfg madsim` to RUSTFLAGS.");
    ExitCode::from(kv_sim::Exit::Usage as u8)
}

#[cfg(madsim)]
fn main() -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let exit = kv_sim::cli::run(&kv_sim::kv::KvProtocol, std::env::args_os(), &mut out, &mut err);
    ExitCode::from(exit as u8)
}
