//! Traces as a real OTLP receiver gets them, over gRPC and over HTTP, and metrics as a strict parser
//! reads them: `tests/telemetry/*.py` with the official packages.
//!
//! `WEIR_TELEMETRY_PYTHON` names a Python that has the packages of `tests/scripts/telemetry.txt`; `make test`
//! makes one and sets it.

mod openmetrics;
mod receiver;
mod trees;

use std::ffi::OsString;
use std::path::PathBuf;

fn python() -> OsString {
    std::env::var_os("WEIR_TELEMETRY_PYTHON").expect(
        "WEIR_TELEMETRY_PYTHON is not set: it names a Python that has the packages of tests/scripts/telemetry.txt; `make test` sets it",
    )
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/telemetry").join(name)
}
