//! Who may call the pages that are not for everybody.
//!
//! With `admin_token`: who shows it. Without: who is on this machine, and no page of another site that
//! a browser here has open: a name that was rebound to this machine is seen by `Host`, another site's
//! page by `Origin` and `Sec-Fetch-Site`. Promises: who is let in has a name for the trail of changes.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::super::state::State;
use super::page::starting;
use crate::error::{Error, Kind, Origin, Result};

/// By what callers say on whose behalf they act.
const ACTOR: HeaderName = HeaderName::from_static("x-weir-actor");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The longest name of an actor.
const MOST_CHARS: usize = 64;

/// Lets the caller in, or says why not; gives the name under which changes are noted.
pub(super) fn admit(state: &State, head: &Parts, peer: SocketAddr) -> Result<String> {
    let snapshot = state.running().ok_or_else(starting)?.control.current();
    let operators = snapshot.operators();
    let by = if operators.tenants.is_empty() {
        on_this_machine(head, peer)?;
        "loopback".to_owned()
    } else {
        let known = operators.identify(&head.headers).map_err(|_| {
            let message = "the admin port wants its token (admin_token): send it as `authorization: Bearer TOKEN`";
            Error::new(Kind::Unauthenticated, Origin::Client, message).code("invalid_admin_token")
        })?;
        known.as_str().to_owned()
    };
    Ok(format!("{by} {peer}{}", actor(&head.headers).map_or_else(String::new, |actor| format!(" {actor}"))))
}

/// The name a caller gives; what is odd in it is left out, so that it cannot forge a line.
fn actor(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(ACTOR)?.to_str().ok()?;
    let name: String = given.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MOST_CHARS).collect();
    let name = name.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

fn on_this_machine(head: &Parts, peer: SocketAddr) -> Result<()> {
    let refused = |what: String| {
        let message = format!("{what}; set admin_token and send it as `authorization: Bearer TOKEN`");
        Err(Error::new(Kind::Forbidden, Origin::Client, message))
    };
    if !peer.ip().to_canonical().is_loopback() {
        return refused(format!("{} is not this machine, and there is no admin_token", peer.ip()));
    }
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_here) {
        let shown: String = host.unwrap_or_default().chars().take(MOST_CHARS).collect();
        return refused(format!("host \"{shown}\" is no name of this machine: want localhost or 127.0.0.1"));
    }
    if matches!(head.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let site = head.headers.get(FETCH_SITE).map(|site| site.as_bytes());
    let elsewhere = site.is_some_and(|site| site != b"same-origin" && site != b"none");
    let origin = head.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let own = origin.is_none_or(|origin| origin.split_once("://").map(|(_, authority)| authority) == host);
    if elsewhere || !own {
        return refused("a page of another site may change nothing here".to_owned());
    }
    Ok(())
}

/// Whether a `Host` names this machine and nothing that a stranger could own.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn admitted(method: &str, peer: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/admin/reload");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        on_this_machine(&request.body(()).unwrap().into_parts().0, peer.parse().unwrap()).is_ok()
    }

    #[test]
    fn who_is_on_this_machine_needs_no_token() {
        for host in
            ["localhost:8081", "127.0.0.1:8081", "127.0.0.1", "[::1]:8081", "[::1]", "LOCALHOST", "weir.localhost:1"]
        {
            assert!(admitted("POST", "127.0.0.1:5", &[("host", host)]), "{host}");
        }
        assert!(admitted("POST", "[::ffff:127.0.0.1]:5", &[("host", "localhost")]));
        assert!(!admitted("POST", "10.0.0.9:5", &[("host", "localhost")]));
    }

    #[test]
    fn a_name_that_was_rebound_to_this_machine_is_refused_even_a_look() {
        for host in
            ["evil.example:8081", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "10.0.0.9"]
        {
            assert!(!admitted("GET", "127.0.0.1:5", &[("host", host)]), "{host}");
        }
        assert!(!admitted("GET", "127.0.0.1:5", &[]));
    }

    #[test]
    fn a_page_of_another_origin_can_change_nothing() {
        let host = ("host", "127.0.0.1:8081");
        let table = [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:3000"),
            ("origin", "http://127.0.0.1:80810"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ];
        for header in table {
            assert!(!admitted("POST", "127.0.0.1:5", &[host, header]), "{header:?}");
            assert!(!admitted("DELETE", "127.0.0.1:5", &[host, header]), "{header:?}");
        }
        let own = [host, ("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin")];
        assert!(admitted("POST", "127.0.0.1:5", &own));
    }

    #[test]
    fn an_actor_cannot_forge_a_line() {
        let mut headers = HeaderMap::new();
        assert_eq!(actor(&headers), None);
        headers.insert(ACTOR, "alice\tthe \u{e9}lder".parse().unwrap());
        assert_eq!(actor(&headers), None);
        headers.insert(ACTOR, " ci job\t7 ".parse().unwrap());
        assert_eq!(actor(&headers).as_deref(), Some("ci job7"));
        headers.insert(ACTOR, "x".repeat(500).parse().unwrap());
        assert_eq!(actor(&headers).map(|name| name.len()), Some(MOST_CHARS));
    }
}
