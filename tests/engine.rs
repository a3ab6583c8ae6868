//! The engine on real models: what it promises to any caller, over its own door.
//!
//! Tests that count on being alone open a host of their own; the others share one.

#![expect(clippy::expect_used, clippy::panic, reason = "a test's own functions fail the test")]

mod adapters;
mod answers;
mod batches;
mod embeddings;
mod evidence;
mod harness;
mod limits;
mod loading;
mod lora;
mod residency;
mod schemas;
