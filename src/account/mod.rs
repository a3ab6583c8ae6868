//! Who pays and how much: keys → tenant, prices, the Meter that rides in each body, the Receipt.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::plan::Decision;
use crate::request::{ModelId, Request, Secret, TenantId};

/// Receives every receipt; implemented by `observe`.
pub trait Record: Send + Sync + std::fmt::Debug {
    /// Must not block.
    fn record(&self, receipt: Receipt);
}

/// The tenants' keys.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Tenant and key; empty = everybody is anonymous and any bearer is accepted.
    pub tenants: Vec<(TenantId, Secret)>,
}

impl Keys {
    /// Reads `Authorization: Bearer KEY`.
    pub fn identify(&self, _headers: &http::HeaderMap) -> Result<TenantId> {
        todo!()
    }
}

/// Prices of one model in USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Prompt tokens.
    pub input: f64,
    /// Prompt tokens from a cache; `None` = as `input`.
    pub cached_input: Option<f64>,
    /// Generated tokens.
    pub output: f64,
}

/// The price table; the most exact name wins (`openai/gpt-mini` before `openai/*`). Local models
/// cost nothing unless priced.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    /// Name or pattern (`NAME/*`) → price.
    pub table: BTreeMap<String, Price>,
}

/// A handle on one request's tab. Clones share it; the last one dropped settles it (atomics and
/// one `Record::record`).
#[derive(Debug, Clone)]
pub struct Meter {}

impl Meter {
    /// Opens a tab at the request's first byte.
    pub fn open(_record: Arc<dyn Record>, _prices: Arc<Prices>) -> Meter {
        todo!()
    }

    /// Notes who asks what, once parsed.
    pub fn asked(&self, _request: &Request) {}

    /// Notes the decision and the generation of the configuration it was made under.
    pub fn decided(&self, _decision: &Decision, _generation: u64) {}

    /// Notes that the request failed with this error.
    pub fn failed(&self, _error: &Error) {}

    /// Notes that the answer's head is about to be written.
    pub fn head(&self) {}

    /// What can be told about the request now.
    pub fn story(&self) -> Story {
        todo!()
    }
}

/// What every answer tells about itself, in headers and in a stream's last comment.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// The full name of the model that serves.
    pub served_by: Option<ModelId>,
    /// `NAME@GENERATION; rule=PERCENT-ENCODED`.
    pub policy: Option<String>,
    /// `min_logprob=-1.2, mean_logprob=-0.2, …`, rendered, of the local answer served or judged last.
    pub confidence: Option<String>,
    /// Dollars, all attempts summed; `None` where a price is unknown.
    pub cost_usd: Option<f64>,
    /// Why the answer is not what the plan wanted.
    pub degraded: Option<&'static str>,
}

/// What a request was, did and cost.
#[derive(Debug, Clone)]
pub struct Receipt {}
