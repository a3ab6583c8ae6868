//! One binary for all integration tests: everything is linked once.

#[cfg(feature = "local")]
mod engine;
