//! `weir models running | canary | promote | rollback | load | unload`: the models of a Weir that runs.
//!
//! Each asks its admin port; what it refuses is the command's error, with everything that it says. Called
//! by `weir models`.

use std::fmt::Write;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::super::operator::Operator;

/// What is asked of a running Weir.
#[derive(Debug, Subcommand)]
pub(super) enum Served {
    /// Tell which models run, and how their candidates stand.
    Running {
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
    /// Try a candidate beside a model: on a share of its requests, or on all of named tenants.
    Canary {
        /// The model: local/NAME.
        model: String,
        /// The candidate's file, as in [[model]].
        file: String,
        /// The share of requests that it answers [default: 0.05].
        #[arg(long)]
        share: Option<f64>,
        /// A tenant whose every request it answers.
        #[arg(long = "tenant", value_name = "NAME")]
        tenants: Vec<String>,
        /// The share of the model's requests on which both are compared [default: 0.1].
        #[arg(long)]
        shadow: Option<f64>,
        /// A token may take so many times as long [default: 2].
        #[arg(long)]
        slower: Option<f64>,
        /// The probability of giving up a candidate that is fit [default: 0.05].
        #[arg(long)]
        false_alarm: Option<f64>,
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
    /// Put a candidate into the place of its model.
    Promote {
        /// The model: local/NAME.
        model: String,
        /// Take into account that certificates of the file before lapse.
        #[arg(long)]
        accept_uncertified: bool,
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
    /// End a trial; without one, go back to what ran before the promotion.
    Rollback {
        /// The model: local/NAME.
        model: String,
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
    /// Load a model that no configuration names.
    Load {
        /// Its name: local/NAME.
        model: String,
        /// Its file, as in [[model]].
        file: String,
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
    /// Unload a model that was loaded so.
    Unload {
        /// The model: local/NAME.
        model: String,
        /// The admin port.
        #[arg(long, value_name = "URL")]
        admin: String,
    },
}

impl Served {
    /// Asks for it; an error says why nothing has changed.
    #[expect(clippy::print_stdout, reason = "the command's output")]
    pub(super) fn run(&self) -> Result<(), String> {
        let (admin, page, body) = match self {
            Served::Running { admin } => {
                let (_, answer) = Operator::at(admin)?.get("/admin/models")?;
                print!("{}", told(&answer));
                return Ok(());
            }
            Served::Canary { admin, .. } => (admin, "canary", self.candidate()),
            Served::Promote { model, accept_uncertified, admin } => {
                (admin, "promote", json!({ "model": model, "accept_uncertified": accept_uncertified }))
            }
            Served::Rollback { model, admin } => (admin, "rollback", json!({ "model": model })),
            Served::Load { model, file, admin } => (admin, "load", json!({ "model": model, "file": file })),
            Served::Unload { model, admin } => (admin, "unload", json!({ "model": model })),
        };
        let (status, answer) = Operator::at(admin)?.post(&format!("/admin/models/{page}"), &body)?;
        if status != 200 {
            return Err(refused(&answer));
        }
        println!("generation {}", answer["generation"]);
        for warning in answer["warnings"].as_array().into_iter().flatten() {
            println!("warning: {}", warning.as_str().unwrap_or_default());
        }
        Ok(())
    }

    fn candidate(&self) -> Value {
        let Served::Canary { model, file, share, tenants, shadow, slower, false_alarm, .. } = self else {
            return Value::Null;
        };
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(model));
        body.insert("file".to_owned(), json!(file));
        body.insert("tenants".to_owned(), json!(tenants));
        for (key, value) in [("share", share), ("shadow", shadow), ("slower", slower), ("false_alarm", false_alarm)] {
            value.iter().for_each(|value| drop(body.insert(key.to_owned(), json!(value))));
        }
        Value::Object(body)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A refusal as text: why, and what would be lost.
fn refused(answer: &Value) -> String {
    let mut out = text(&answer["error"]["message"]).to_owned();
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    // Writing to a string cannot fail.
    for problem in list("problems") {
        let _ = write!(out, "\n{}: {}", text(&problem["place"]), text(&problem["message"]));
    }
    for one in list("uncertified") {
        let (policy, rule, slice) = (text(&one["policy"]), text(&one["rule"]), text(&one["slice"]));
        let _ = write!(out, "\nuncertified: policy {policy}, rule \"{rule}\", slice {slice}");
    }
    let extra = &answer["extra_spend"];
    if let Some(usd) = extra["usd_per_hour"].as_f64() {
        let _ = write!(out, "\nextra spend expected: ${usd:.6} an hour ({})", text(&extra["how"]));
        out.push_str("\npromote all the same with --accept-uncertified");
    }
    out
}

/// The models as text, one a line, and under each its trial.
fn told(answer: &Value) -> String {
    let mut out = String::new();
    for model in answer["models"].as_array().into_iter().flatten() {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}  {}  {}", text(&model["name"]), text(&model["state"]), text(&model["file"]));
        for (key, what) in
            [("configured", "configured"), ("previous", "goes back to"), ("refused_canary", "was given up")]
        {
            if let Some(file) = model[key].as_str() {
                let _ = writeln!(out, "    {what}: {file}");
            }
        }
        let canary = &model["canary"];
        if !canary.is_object() {
            continue;
        }
        let (terms, status) = (&canary["terms"], &canary["status"]);
        let _ = writeln!(
            out,
            "    canary {} on {} of requests: {} answered, {} failed",
            text(&terms["file"]),
            terms["share"],
            status["answered"],
            status["failed"]
        );
        for test in status["tests"].as_array().into_iter().flatten() {
            let rate = test["rate"].as_f64().map_or("none seen".to_owned(), |rate| format!("{rate:.3}"));
            let evidence = test["evidence"].as_f64().unwrap_or_default();
            let _ = writeln!(
                out,
                "      {}: {rate} of {} (limit {}), evidence {evidence:.3}, given up at {}",
                text(&test["test"]),
                test["seen"],
                test["limit"],
                test["gives_up_at"]
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_that_is_refused_tells_what_would_be_lost_and_how_to_do_it_all_the_same() {
        let lapse = json!({"policy": "p", "rule": "easy", "slice": "s"});
        let spend = json!({"usd_per_hour": 0.25, "how": "by what was avoided"});
        let answer = json!({"error": {"message": "1 promises"}, "uncertified": [lapse], "extra_spend": spend});
        let told = refused(&answer);
        for part in ["1 promises\n", "policy p, rule \"easy\", slice s\n", "$0.250000 an hour", "--accept-uncertified"]
        {
            assert!(told.contains(part), "{part}\n{told}");
        }
    }

    #[test]
    fn models_are_told_with_their_trials() {
        let test =
            json!({"test": "slower", "seen": 4, "rate": 0.25, "limit": 0.5, "evidence": 0.9, "gives_up_at": 80.0});
        let status = json!({"answered": 7, "failed": 1, "tests": [test]});
        let canary = json!({"terms": {"file": "b.gguf", "share": 0.1}, "status": status});
        let model =
            json!({"name": "local/a", "state": "warm", "file": "/m/a.gguf", "previous": "c.gguf", "canary": canary});
        let table = told(&json!({ "models": [model] }));
        for part in [
            "local/a  warm  /m/a.gguf\n    goes back to: c.gguf\n",
            "canary b.gguf on 0.1 of requests: 7 answered, 1 failed\n",
            "slower: 0.250 of 4 (limit 0.5), evidence 0.900, given up at 80.0\n",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
    }
}
