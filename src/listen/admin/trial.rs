//! `POST /admin/try`: which rule a prompt would meet, which plan, and why. Dry: no model is called.

use http::Response;

use super::live::compact;
use super::page::Asked;
use crate::api::Body;
use crate::error::{Error, Result};

/// The decision for an example in the form of a case file's requests (`docs/policy.md`), by the policies and
/// the facts of this moment.
pub(super) fn decide(asked: &Asked) -> Result<Response<Body>> {
    let example = std::str::from_utf8(&asked.body)
        .map_err(|_| Error::invalid("body", "the body is not what this page wants: it is no UTF-8"))?;
    compact(&asked.running()?.control.current().explain(example)?)
}
