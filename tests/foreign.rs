//! The cascade with a foreign upstream: the server of llama-cpp-python. `make test-foreign` runs it.

use std::path::PathBuf;
use std::process::Command;

use crate::cascade::{check_degraded, check_escalated, check_kept, start_gateway};
use crate::gateway_process::{Served, alone, free_address};

fn named(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set; `make test-foreign` sets it")).into()
}

#[test]
fn the_cascade_works_with_a_foreign_server_as_its_upstream() {
    let _turn = alone();
    let address = free_address();
    let (host, port) = address.split_once(':').unwrap();
    let mut command = Command::new(named("WEIR_FOREIGN_PYTHON"));
    command.args(["-m", "llama_cpp.server", "--host", host, "--port", port, "--n_ctx", "2048", "--n_threads", "1"]);
    command.args(["--n_threads_batch", "1", "--model_alias", "qwen2.5-coder-0.5b-instruct", "--model"]);
    command.arg(named("WEIR_MODELS").join("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"));
    let base = format!("http://{address}");
    let upstream = Served::start(command, tempfile::tempdir().unwrap(), &format!("{base}/v1/models"));
    let gateway = start_gateway(&base);
    check_kept(&gateway);
    check_escalated(&gateway);
    drop(upstream);
    check_degraded(&gateway);
}
