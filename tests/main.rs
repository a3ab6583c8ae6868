//! The one test binary; a module per subject.

mod bad_input;
#[cfg(feature = "local")]
mod engine;
mod layers;
mod policies;
