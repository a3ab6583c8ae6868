//! The tenants' keys: who pays, read off the head of a request.
//!
//! Hides how keys are compared. Promises: the time a comparison takes does not depend on which
//! byte differs, and no key is ever part of an error. Called by `gateway` before the body is read.

use std::hint::black_box;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::error::{Error, Kind, Origin, Result};
use crate::request::{Secret, TenantId};

/// The tenants' keys.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Tenant and key; empty = everybody is anonymous and any bearer is accepted.
    pub tenants: Vec<(TenantId, Secret)>,
}

impl Keys {
    /// Reads `Authorization: Bearer KEY`. A missing or unknown key is an `unauthenticated` error
    /// with code `invalid_api_key`.
    pub fn identify(&self, headers: &HeaderMap) -> Result<TenantId> {
        if self.tenants.is_empty() {
            return Ok(TenantId::anonymous());
        }
        let given =
            bearer(headers).ok_or_else(|| refused("no api key given: send it as `authorization: Bearer KEY`"))?;
        let mut found = None;
        // Every key is compared, so that the time tells nothing about which one matched.
        for (tenant, key) in &self.tenants {
            if same(key.expose().as_bytes(), given) {
                found = Some(tenant);
            }
        }
        found.cloned().ok_or_else(|| refused("incorrect api key: use one of those the operator has handed out"))
    }
}

fn refused(message: &str) -> Error {
    Error::new(Kind::Unauthenticated, Origin::Client, message).code("invalid_api_key")
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii()).filter(|key| !key.is_empty())
}

/// Compares without stopping at the first difference; only the length shows in the time taken.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |sum, (x, y)| black_box(sum | (x ^ y)));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let tenant = |name: &str, key: &str| (TenantId::new(name), Secret::new(key));
        Keys { tenants: vec![tenant("one", "k-1"), tenant("two", "k-22")] }
    }

    fn identify(keys: &Keys, value: Option<&str>) -> Result<TenantId> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        keys.identify(&headers)
    }

    #[test]
    fn a_known_key_names_its_tenant() {
        for (value, tenant) in [("Bearer k-1", "one"), ("bearer k-22", "two"), ("BEARER  k-1 ", "one")] {
            assert_eq!(identify(&keys(), Some(value)).unwrap().as_str(), tenant, "{value}");
        }
    }

    #[test]
    fn a_missing_or_unknown_key_is_refused_without_being_quoted() {
        let values =
            [None, Some(""), Some("Bearer "), Some("Bearer k-"), Some("Bearer k-11"), Some("Basic k-1"), Some("k-1")];
        for value in values {
            let error = identify(&keys(), value).unwrap_err();
            assert_eq!((error.kind(), error.detail().code), (Kind::Unauthenticated, Some("invalid_api_key")));
            assert!(!error.to_string().contains("k-"), "{error}");
        }
    }

    #[test]
    fn without_tenants_everybody_is_anonymous() {
        for value in [None, Some("Bearer anything"), Some("nonsense")] {
            assert_eq!(identify(&Keys::default(), value).unwrap(), TenantId::anonymous());
        }
    }
}
