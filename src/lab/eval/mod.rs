//! Asks models and policies the rows of a data set, grades what comes, and tells what it is worth.
//!
//! [`rows`] reads the questions, [`ask`] puts them to a gateway over HTTP and records the answers
//! ([`answers`]), [`found`] holds them side by side, [`sweep`] computes what thresholds would have
//! done, [`report`] renders tables, CSV and JSON, [`pictures`] draws. `cli` is the only caller.

pub mod answers;
pub mod ask;
pub mod client;
pub mod constraint;
pub mod found;
pub mod pictures;
pub mod report;
pub mod rows;
pub mod sweep;
#[cfg(test)]
mod tests;
