//! Weir: an OpenAI-compatible gateway with small llama.cpp models inside.
//!
//! ```text
//!  client ─▶ listen ─▶ account::Meter ─▶ Keys::identify ─▶ api::parse ─▶ Snapshot::facts ─▶ policy::decide ─▶ execute::run ─▶ api::respond ─▶ client
//!                      (opens the tab)   (head: who pays)  (body)        (health, queues)   (pure)            │   ▲  Completion = stream of Delta
//!                                                                            trait Backend ── local (llama.cpp) | upstream (HTTP)
//!                                                           Meter rides in the body; last byte or drop ─▶ Receipt ─▶ observe
//!  files ─▶ control: read → check → build ─▶ Snapshot (arc-swap), read once per request in gateway.rs
//! ```
//!
//! Down goes a [`request::Request`] and a [`plan::Plan`]; up comes one
//! [`backend::Completion`]. The policy is asked once; the gate of a cascade is in the plan.
//!
//! The rooms, from the bottom: `error`, `request` (nouns) · `wire` (bytes of a dialect),
//! `backend` (the waist), `confidence` (scores of a trace) · `plan` · `policy` · `api` ·
//! `account` · `local`, `upstream` (the two kinds of backend) · `execute` · `control` ·
//! `observe` · `gateway` · `lab` (offline: replays of logs) · `listen` · `cli`. A room imports only
//! from rooms below it; `tests/layers.rs` holds the map and fails when it is broken.

pub mod account;
pub mod api;
pub mod backend;
pub mod cli;
pub mod confidence;
pub mod control;
pub mod error;
pub mod execute;
pub mod gateway;
pub mod lab;
pub mod listen;

pub mod local;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod request;
pub mod upstream;
pub mod wire;
