//! The official `openai` Python package against the real binary: runs `tests/sdk/test_sdk.py`.
//!
//! `WEIR_TEST_PYTHON` names a Python that has the package; `make test` makes one and sets it.

use std::path::Path;
use std::process::Command;

use crate::cascade::start_upstream;
use crate::gateway_process::{Process, alone};

const GATEWAY: &str = r#"
engine_threads = 1

[[model]]
name = "local/smollm2-135m-instruct"
file = "smollm2-135m-instruct"
context = 2048
slots = 4

[[model]]
name = "local/all-minilm-l6-v2"
file = "all-minilm-l6-v2"

[[upstream]]
name = "large"
endpoints = ["UPSTREAM/v1"]
models = ["qwen2.5-coder-0.5b-instruct"]

[[price]]
model = "large/qwen2.5-coder-0.5b-instruct"
input = 0.4
output = 1.6
"#;

#[test]
fn the_official_openai_package_works_against_the_gateway() {
    let python = std::env::var_os("WEIR_TEST_PYTHON").expect(
        "WEIR_TEST_PYTHON is not set: it names a Python that has the packages of tests/scripts/openai.txt; `make test` sets it",
    );
    let _turn = alone();
    let upstream = start_upstream();
    let gateway = Process::start(&[("weir.toml", &GATEWAY.replace("UPSTREAM", &upstream.base))]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/test_sdk.py");
    let run = Command::new(python)
        .arg(script)
        .env("WEIR_BASE_URL", &gateway.base)
        .env("WEIR_ADMIN_URL", &gateway.admin)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    println!("{told}");
    assert!(run.status.success(), "{told}\n{}", String::from_utf8_lossy(&run.stdout));
}
