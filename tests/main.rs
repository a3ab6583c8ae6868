//! The one test binary; a module per subject.

mod bad_input;
mod config;
#[cfg(feature = "local")]
mod engine;
mod fake_upstream;
mod layers;
mod policies;
