//! The whole gateway in this process: real sockets, files and policies, with small servers in the
//! part of the upstreams.

mod admin;
mod audits;
mod capturing;
mod failing;
mod feedback;
mod house;
mod leaving;
mod names;
mod passing;
mod reloading;
mod telling;
