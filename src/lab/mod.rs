//! The workbench: what is measured offline, on logs and data sets, before a request depends on it.
//!
//! [`records`] reads graded answers with their log-probabilities, [`calibrate`] makes a calibration
//! of them, [`early`] says when an answer may be given up, [`gap`] what another model would gain. [`logs`] reads past requests whose outcome on both sides is known, [`replay`] asks what
//! routers would have done with them, [`metrics`] says how good that is; the router
//! that can be kept and served is `confidence::gap::Predictor`. Nothing here calls a model or is called on the path of a request;
//! `cli` is the only caller.

pub mod calibrate;
pub mod comparison;
pub mod dry;
pub mod early;
pub mod eval;
pub mod gap;
pub mod graders;
pub mod logs;
pub mod metrics;
pub mod past;
mod picture;
pub mod policies;
pub mod records;
pub mod replay;
mod report;
mod routers;
#[cfg(test)]
mod tests;

pub use report::Report;
