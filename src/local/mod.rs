//! llama.cpp: small models inside this process, one engine thread each.
//!
//! [`Host`] is the door: it loads what the configuration names and gives each model as a
//! [`crate::backend::Backend`]. Behind it:
//!
//! ```text
//!  Request ─▶ resident (is it in memory?) ─▶ refuse (can this model serve it?) ─▶ prepare (template, tokens, constraint) ─▶ queue
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
//! Loading: `survey` reads the file's header (`gguf`) and says what the model will need (`memory`);
//! `shelf` gives it room or not, by what `residency` decides (pure); `load` builds the engine, on
//! weights that models of one file share; `trial` asks it a test prompt. A model that is loaded on
//! demand is a `resident` without an engine until its first request.
//!
//! `engine`, `model`, `load`, `generate` and `embed` alone know llama.cpp; the rest is plain Rust and
//! builds without it.

mod adapter;
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
mod gguf;
#[cfg(test)]
mod gguf_writer;
mod host;
#[cfg(feature = "local")]
mod job;
mod load;
mod memory;
#[cfg(feature = "local")]
mod model;
#[cfg(any(test, feature = "local"))]
mod outlet;
#[cfg(feature = "local")]
mod prepare;
#[cfg_attr(not(any(test, feature = "local")), expect(dead_code, reason = "an engine reads it"))]
mod refuse;
mod residency;
#[cfg_attr(not(feature = "local"), expect(dead_code, reason = "an engine reads it"))]
mod resident;
#[cfg(any(test, feature = "local"))]
mod sampler;
#[cfg(any(test, feature = "local"))]
mod schedule;
#[cfg_attr(not(feature = "local"), expect(dead_code, reason = "an engine reads it"))]
mod shelf;
#[cfg(feature = "local")]
mod slot;
#[cfg(any(test, feature = "local"))]
mod stop;
#[cfg_attr(not(any(test, feature = "local")), expect(dead_code, reason = "an engine reads it"))]
mod survey;
mod tally;
#[cfg_attr(not(any(test, feature = "local")), expect(dead_code, reason = "an engine reads it"))]
mod template;
#[cfg(any(test, feature = "local"))]
mod threads;
#[cfg(any(test, feature = "local"))]
mod toolcall;
#[cfg(any(test, feature = "local"))]
mod trial;
#[cfg(any(test, feature = "local"))]
mod vocabulary;

pub use adapter::check_adapter_files;
pub use gguf::Header;
pub use host::{Adapter, Capabilities, Host, LoadError, ModelConfig, Residency, Terms, need};
pub use load::parameters;
pub use memory::Need;
