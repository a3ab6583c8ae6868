//! The workbench: what is measured offline, on logs and data sets, before a request depends on it.
//!
//! [`records`] reads graded answers with their log-probabilities, [`calibrate`] makes a
//! calibration of them. Nothing here calls a model or is called on the path of a request; `cli` is
//! the only caller.

pub mod calibrate;
pub mod records;
