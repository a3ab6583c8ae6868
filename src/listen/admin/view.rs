//! Pages that only show: probes, metrics, changes, audits.

use http::header::ACCEPT;
use http::{Response, StatusCode};
use serde_json::json;

use super::super::probes;
use super::page::{Asked, bytes, json, text};
use crate::api::Body;
use crate::error::Result;
use crate::observe::Port;

/// The process answers.
pub(super) fn livez() -> Result<Response<Body>> {
    Ok(text(StatusCode::OK, "ok\n"))
}

/// Whether clients are welcome; else why not.
pub(super) fn readyz(asked: &Asked) -> Result<Response<Body>> {
    Ok(probed(probes::ready(&asked.state, Some(&asked.query))))
}

/// Whether the process has come up.
pub(super) fn startupz(asked: &Asked) -> Result<Response<Body>> {
    Ok(probed(probes::started(&asked.state)))
}

fn probed((well, page): probes::Answer) -> Response<Body> {
    text(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, page)
}

/// Every family, in Prometheus' text format or in OpenMetrics, as the scraper accepts.
pub(super) fn metrics(asked: &Asked) -> Result<Response<Body>> {
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    let Some(running) = asked.state.running() else { return Ok(bytes(StatusCode::OK, plain, String::new())) };
    let snapshot = running.control.current();
    running.metrics.show_audits(&snapshot.audit_statuses());
    running.metrics.show_changes(&running.control.change_counts());
    running.metrics.show_connections(Port::Data, asked.state.data.len());
    running.metrics.show_connections(Port::Admin, asked.state.admin.len());
    running.metrics.show_models(&snapshot.figures());
    running.metrics.show_promises(&snapshot.promises());
    running.metrics.show_canaries(&snapshot.canary_statuses());
    running.metrics.show_draining(asked.state.is_draining());
    let accept = asked.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (page, media) = running.metrics.page(accept, &snapshot.statuses());
    Ok(bytes(StatusCode::OK, media, page))
}

/// Who has changed what, the last change first; `?last=N` of them.
pub(super) fn changes(asked: &Asked) -> Result<Response<Body>> {
    let mut changes = asked.running()?.control.changes();
    changes.truncate(asked.number("last").unwrap_or(usize::MAX));
    json(StatusCode::OK, &json!({ "changes": changes }))
}

/// How every audited slice stands. There is no way to take an alarm back here: a new calibration does.
pub(super) fn audits(asked: &Asked) -> Result<Response<Body>> {
    let statuses = asked.state.running().map(|running| running.control.current().audit_statuses());
    json(StatusCode::OK, &json!({ "audits": statuses.unwrap_or_default() }))
}
