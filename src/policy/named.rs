//! The files that a policy names: read before it is compiled, so that compiling reads none.
//!
//! Promises: what cannot be read as a policy names nothing; each file comes with the models of the
//! cascade, or of the stage, that names it. Called by `Policy` for `control`.

use std::collections::BTreeMap;

use toml::Value;

/// A file's name, as it stands in the policy → the models it may be about.
pub(super) type Named = BTreeMap<String, Vec<String>>;

/// See [`super::Policy::calibrations`].
pub(super) fn calibrations(source: &str) -> Named {
    collect(source, &[("accept", "calibration")])
}

/// See [`super::Policy::predictors`].
pub(super) fn predictors(source: &str) -> Named {
    collect(source, &[("accept", "value"), ("skip_local", "scorer")])
}

fn collect(source: &str, keys: &[(&str, &str)]) -> Named {
    let mut found = Named::new();
    let file = source.parse::<toml::Table>().unwrap_or_default();
    let rules = file.get("rule").and_then(Value::as_array);
    for then in rules.into_iter().flatten().filter_map(|rule| rule.get("then")) {
        let stages: Vec<&Value> = then.get("cascade").and_then(Value::as_array).into_iter().flatten().collect();
        let models: Vec<String> = stages.iter().filter_map(|stage| model(stage)).collect();
        note(then, &models, keys, &mut found);
        for stage in stages {
            note(stage, &model(stage).into_iter().collect::<Vec<_>>(), keys, &mut found);
        }
    }
    found
}

fn model(stage: &Value) -> Option<String> {
    stage.as_str().or_else(|| stage.get("model")?.as_str()).map(str::to_owned)
}

fn note(of: &Value, models: &[String], keys: &[(&str, &str)], found: &mut Named) {
    for (table, key) in keys {
        let file = of.get(table).and_then(|table| table.get(key)).and_then(Value::as_str);
        file.into_iter().for_each(|file| found.entry(file.to_owned()).or_default().extend_from_slice(models));
    }
}
