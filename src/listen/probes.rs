//! What probes are told: `/readyz`, `/readyz?verbose`, `/startupz`.
//!
//! Readiness is a list of checks, each with a line of its own; a probe without `verbose` is told the
//! first that fails. An upstream's state is none of them: it is not ours. Start-up is over once the
//! first configuration has run with the data port open, and stays over. Asked by the admin port.

use std::fmt;

use super::state::{Phase, State};

/// One thing that readiness depends on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    ok: bool,
    /// What is checked, and how it stands.
    says: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]{}", if self.ok { '+' } else { '-' }, self.says)
    }
}

/// An answer to a probe: whether all is well, and a page of text.
pub(super) type Answer = (bool, String);

/// `/readyz`: whether new requests are welcome; `verbose`: every check.
pub(super) fn ready(state: &State, query: Option<&str>) -> Answer {
    let checks = checks(state);
    let failed = checks.iter().find(|check| !check.ok);
    let is_ready = failed.is_none();
    if !is_verbose(query) {
        return (is_ready, failed.map_or("ok\n".to_owned(), |check| format!("{}\n", check.says)));
    }
    let lines: String = checks.iter().map(|check| format!("{check}\n")).collect();
    (is_ready, format!("{lines}{}\n", if is_ready { "ready" } else { "not ready" }))
}

/// Why new requests should go elsewhere; `None`: they are welcome.
pub(super) fn unready(state: &State) -> Option<String> {
    checks(state).into_iter().find(|check| !check.ok).map(|check| check.says)
}

/// `/startupz`: whether the process has come up, whatever has become of it since.
pub(super) fn started(state: &State) -> Answer {
    let up = state.running().is_some() && state.is_bound();
    let waits = || checks(state).iter().find(|check| !check.ok).map_or_else(String::new, |check| check.says.clone());
    (up, if up { "ok\n".to_owned() } else { format!("{}\n", waits()) })
}

fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|one| one.split('=').next() == Some("verbose")))
}

fn checks(state: &State) -> Vec<Check> {
    let check = |ok, says: &str| Check { ok, says: says.to_owned() };
    let mut checks = vec![match state.phase() {
        Phase::Up => check(true, "not draining"),
        Phase::Draining | Phase::Closing => check(false, "draining"),
    }];
    match state.running() {
        None => checks.push(check(false, "config starting: models and upstreams are being prepared")),
        Some(running) => {
            let snapshot = running.control.current();
            checks.push(Check { ok: true, says: format!("config ok: generation {}", snapshot.generation()) });
            let stopped = snapshot.stopped();
            let local = snapshot.statuses().into_iter().filter(|(model, _)| model.is_local());
            checks.extend(local.map(|(model, status)| match stopped.iter().any(|name| name == model.as_str()) {
                false => Check { ok: true, says: format!("model {model} {}", status.state.name()) },
                true => {
                    let says = format!("model {model} not running; a reload (SIGHUP) starts what has ended");
                    Check { ok: false, says }
                }
            }));
        }
    }
    checks.push(match state.is_bound() {
        true => check(true, "data port open"),
        false => check(false, "data port not open yet"),
    });
    checks
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{running, running_by};
    use super::*;
    use crate::backend::fake::Fake;
    use crate::backend::{Backend, State as Model, Status};
    use crate::control::Options;
    use crate::request::ModelId;

    #[tokio::test]
    async fn readiness_names_the_first_check_that_fails_and_all_of_them_if_asked() {
        let state = State::default();
        let starting = "config starting: models and upstreams are being prepared";
        assert_eq!(ready(&state, None), (false, format!("{starting}\n")));
        let page = format!("[+]not draining\n[-]{starting}\n[-]data port not open yet\nnot ready\n");
        assert_eq!(ready(&state, Some("a=b&verbose")), (false, page));
        state.started(running().await);
        assert_eq!(ready(&state, Some("verbose=no")).1.lines().next_back(), Some("not ready"));
        state.bound();
        let page = "[+]not draining\n[+]config ok: generation 1\n[+]data port open\nready\n";
        assert_eq!(ready(&state, Some("verbose")), (true, page.to_owned()));
        assert_eq!(ready(&state, Some("exclude=verbose")), (true, "ok\n".to_owned()));
        state.drain();
        assert_eq!(ready(&state, None), (false, "draining\n".to_owned()));
    }

    #[tokio::test]
    async fn a_model_that_its_first_request_loads_is_said_to_be_unloaded() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("weir.toml");
        std::fs::write(&config, "[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n").unwrap();
        std::fs::write(folder.path().join("m.gguf"), "abc").unwrap();
        let fake = Arc::new(Fake::new([]));
        let stand_in: Arc<dyn Backend> = fake.clone();
        let stand_ins = [(ModelId::new("local/small"), stand_in)].into();
        let options = Options { config: Some(config), stand_ins, ..Options::default() };
        let state = State::default();
        state.started(running_by(options).await);
        for (model, name) in [(Model::Unloaded, "unloaded"), (Model::Warm, "warm")] {
            fake.set_status(Status { ready: true, state: model, ..Status::default() });
            let page = ready(&state, Some("verbose")).1;
            assert!(page.contains(&format!("[+]model local/small {name}\n")), "{page}");
        }
    }

    #[tokio::test]
    async fn start_up_is_over_once_and_for_all() {
        let state = State::default();
        assert!(!started(&state).0);
        state.started(running().await);
        assert_eq!(started(&state), (false, "data port not open yet\n".to_owned()));
        state.bound();
        assert_eq!(started(&state), (true, "ok\n".to_owned()));
        state.close();
        assert_eq!(started(&state), (true, "ok\n".to_owned()));
    }
}
