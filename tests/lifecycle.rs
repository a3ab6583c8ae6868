//! The life of the real process: how it ends, how it is replaced, what systemd is told, and what a
//! crash leaves.

mod crash;
mod drain;
mod process;
mod replace;
mod systemd;
