//! The bytes of each dialect, both ways. Pure: bytes in, values out, and back.
//!
//! One file per dialect, each with parsing and rendering side by side, and [`sse`], the framing
//! they share; [`trace_context`] is the one of traces. `api` uses them towards clients, `upstream` towards large-model APIs; nothing here
//! knows of sockets, clocks or other rooms than `error` and `request`.

pub mod openai;
pub mod sse;
pub mod trace_context;

#[cfg(test)]
mod golden_tests;
