//! The workbench: what is measured offline, on logs and data sets, before a request depends on it.
//!
//! [`records`] reads graded answers with their log-probabilities, [`calibrate`] makes a calibration
//! of them. [`logs`] reads past requests whose outcome on both sides is known, [`replay`] asks what
//! routers would have done with them, [`metrics`] says how good that is, [`Scorer`] is the router
//! that can be kept and served. Nothing here calls a model or is called on the path of a request;
//! `cli` is the only caller.

pub mod calibrate;
pub mod comparison;
pub mod eval;
pub mod graders;
pub mod logs;
pub mod metrics;
pub mod past;
mod picture;
pub mod policies;
pub mod records;
pub mod replay;
mod report;
mod ridge;
mod routers;
mod scorer;
mod terms;
#[cfg(test)]
mod tests;

pub use report::Report;
pub use scorer::Scorer;
