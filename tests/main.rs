//! The one test binary; a module per subject.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "what a test cannot do fails it"
)]

mod bad_input;
#[cfg(all(test, feature = "local"))]
mod cascade;
mod config;
#[cfg(feature = "local")]
mod engine;
mod fake_upstream;
#[cfg(all(test, feature = "foreign"))]
mod foreign;
mod gateway;
#[cfg(all(test, feature = "local"))]
mod gateway_process;
mod hostile;
mod layers;
mod lifecycle;
mod policies;
#[cfg(all(test, feature = "local"))]
mod sdk;
mod signals;
mod telemetry;
mod upstream_tls;
