//! llama.cpp: small models inside this process, one engine thread each.
//!
//! [`Host`] is the door: it loads what the configuration names and gives each model as a
//! [`crate::backend::Backend`]. Behind it:
//!
//! ```text
//!  Request ─▶ refuse (can this model serve it?) ─▶ prepare (template, tokens, constraint) ─▶ queue
//!                                                                                             │
//!     engine: receive → tend → admit → fill → decode → read   (one thread, one context)  ◀────┘
//!                                │        │              │
//!                                └─ schedule (pure) ─────┘ answer (sampler → score → stop → toolcall)
//!                                                                │
//!  client ◀── stream of Delta ◀── outlet (bounded; a slow reader pauses its own slots)
//! ```
//!
//! What it promises beyond the waist: requests join and leave the running batch at every step; a
//! long prompt delays the others by about 100 ms a step at most; a prompt's beginning that some
//! slot still holds is not read again; every token carries how sure the model was of it; nothing
//! a client sends ends the process. What it does not: a greedy answer may differ with the company
//! it is computed in, since llama.cpp's results depend on the batch's shape.
//!
//! `engine`, `model`, `generate` and `embed` alone know llama.cpp; `sampler`, `stop`, `toolcall`,
//! `template`, `threads`, `schedule`, `gauges`, `aside` and `outlet` are plain Rust and build
//! without it.

#[cfg(feature = "local")]
mod answer;
#[cfg(any(test, feature = "local"))]
mod aside;
#[cfg(feature = "local")]
mod constraint;
#[cfg(feature = "local")]
mod embed;
#[cfg(feature = "local")]
mod engine;
#[cfg(any(test, feature = "local"))]
mod gauges;
#[cfg(feature = "local")]
mod generate;
mod host;
#[cfg(feature = "local")]
mod job;
mod load;
#[cfg(feature = "local")]
mod memory;
#[cfg(feature = "local")]
mod model;
#[cfg(any(test, feature = "local"))]
mod outlet;
#[cfg(feature = "local")]
mod prepare;
#[cfg(any(test, feature = "local"))]
mod refuse;
#[cfg(any(test, feature = "local"))]
mod sampler;
#[cfg(any(test, feature = "local"))]
mod schedule;
#[cfg(feature = "local")]
mod slot;
#[cfg(any(test, feature = "local"))]
mod stop;
#[cfg(any(test, feature = "local"))]
mod template;
#[cfg(any(test, feature = "local"))]
mod threads;
#[cfg(any(test, feature = "local"))]
mod toolcall;
#[cfg(any(test, feature = "local"))]
mod vocabulary;

pub use host::{Capabilities, Host, LoadError, ModelConfig};
pub use load::parameters;
