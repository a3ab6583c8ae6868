//! The one test binary; a module per subject.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "what a test cannot do fails it")]

mod bad_input;
mod config;
#[cfg(feature = "local")]
mod engine;
mod fake_upstream;
mod gateway;
mod hostile;
mod layers;
mod policies;
