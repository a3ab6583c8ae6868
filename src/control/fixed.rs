//! What a process keeps from its start to its end, whatever a reloaded file says: its addresses,
//! its threads and its state folder. Sockets are bound and threads started once.
//!
//! A reload that would change one of them applies the rest and warns, naming the key. Called by
//! `Control`.

use std::path::{Path, PathBuf};

use super::{Capture, Checked, Telemetry};

/// The values that the process started with.
#[derive(Debug)]
pub(super) struct Fixed {
    listen: String,
    admin: String,
    workers: usize,
    engine_threads: usize,
    state: Option<PathBuf>,
    pub(super) capture: Option<Capture>,
    telemetry: Option<Telemetry>,
}

impl Fixed {
    /// Those of the first configuration.
    pub(super) fn of(checked: &Checked) -> Self {
        Fixed {
            listen: checked.listen.clone(),
            admin: checked.admin.clone(),
            workers: checked.workers,
            engine_threads: checked.engine_threads,
            state: checked.state.clone(),
            capture: checked.capture.clone(),
            telemetry: checked.telemetry.clone(),
        }
    }

    /// The state folder.
    pub(super) fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Puts the running values into a later configuration, with a warning for each that it changes.
    pub(super) fn keep(&self, later: &mut Checked) {
        let Checked { listen, admin, workers, engine_threads, state, capture, telemetry, warnings, .. } = later;
        if *capture != self.capture {
            warnings.push("[capture] is for the next start: the running process keeps its own".to_owned());
            capture.clone_from(&self.capture);
        }
        if *telemetry != self.telemetry {
            warnings.push("[telemetry] is for the next start: the running process keeps its own".to_owned());
            telemetry.clone_from(&self.telemetry);
        }
        for (key, asked, runs) in [("listen", listen, &self.listen), ("admin", admin, &self.admin)] {
            if asked != runs {
                warnings.push(unchanged(key, &format!("\"{asked}\""), &format!("\"{runs}\"")));
                asked.clone_from(runs);
            }
        }
        for (key, asked, runs) in
            [("workers", workers, self.workers), ("engine_threads", engine_threads, self.engine_threads)]
        {
            if *asked != runs {
                warnings.push(unchanged(key, &asked.to_string(), &runs.to_string()));
                *asked = runs;
            }
        }
        if *state != self.state {
            let shown = |state: &Option<PathBuf>| format!("{:?}", state.as_deref().unwrap_or(Path::new("")));
            warnings.push(unchanged("state", &shown(state), &shown(&self.state)));
            state.clone_from(&self.state);
        }
    }
}

fn unchanged(key: &str, asked: &str, runs: &str) -> String {
    format!("{key} = {asked} is for the next start: the running process keeps {runs}")
}

#[cfg(test)]
mod tests {
    use super::super::{Checked, Options, read};
    use super::Fixed;

    fn checked(top: &str) -> Checked {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weir.toml");
        let upstream = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
        std::fs::write(&file, format!("{top}\n{upstream}")).unwrap();
        read(&Options { config: Some(file), ..Options::default() }).unwrap()
    }

    #[test]
    fn a_changed_address_or_number_of_threads_stays_and_is_warned_of_by_its_key() {
        let first = "listen = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\nworkers = 3\nengine_threads = 4";
        let table = [
            ("127.0.0.1:1\"", "127.0.0.1:7\"", "listen = \"127.0.0.1:7\""),
            ("127.0.0.1:2\"", "127.0.0.1:7\"", "admin = \"127.0.0.1:7\""),
            ("workers = 3", "workers = 7", "workers = 7"),
            ("threads = 4", "threads = 7", "engine_threads = 7"),
        ];
        let fixed = Fixed::of(&checked(first));
        for (before, after, told) in table {
            let mut later = checked(&first.replace(before, after));
            fixed.keep(&mut later);
            let values = (later.listen.as_str(), later.admin.as_str(), later.workers, later.engine_threads);
            assert_eq!(values, ("127.0.0.1:1", "127.0.0.1:2", 3, 4), "{after}");
            let [warning] = &later.warnings[..] else { panic!("{after}: {:?}", later.warnings) };
            assert!(warning.starts_with(&format!("{told} is for the next start")), "{warning}");
        }
    }

    #[test]
    fn a_changed_state_folder_is_for_the_next_start_too() {
        let first = checked("state = \"/a\"");
        let mut later = checked("state = \"/b\"");
        Fixed::of(&first).keep(&mut later);
        assert_eq!(later.state, first.state);
        assert_eq!(later.warnings, ["state = \"/b\" is for the next start: the running process keeps \"/a\""]);
    }

    #[test]
    fn changed_telemetry_is_for_the_next_start_too() {
        let first = checked("telemetry = { otlp = \"http://a\" }");
        let mut later = checked("telemetry = { otlp = \"http://a\", sample = 1.0 }");
        Fixed::of(&first).keep(&mut later);
        assert_eq!(later.telemetry, first.telemetry);
        assert_eq!(later.warnings, ["[telemetry] is for the next start: the running process keeps its own"]);
    }

    #[test]
    fn what_is_unchanged_is_not_warned_of() {
        let mut same = checked("workers = 3");
        Fixed::of(&checked("workers = 3")).keep(&mut same);
        assert_eq!(same.warnings, Vec::<String>::new());
    }
}
