//! The whole gateway in this process: real sockets, files and policies, with small servers in the
//! part of the upstreams.

mod admin;
mod audits;
mod capturing;
mod console;
mod deciding;
mod failing;
mod feedback;
pub mod house;
mod leaving;
mod models;
mod names;
mod passing;
mod reloading;
mod telling;
