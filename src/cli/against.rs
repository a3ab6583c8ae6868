//! `weir check --against`: policies tried against a Weir that runs, as a table.
//!
//! Each file is sent to `/admin/dry-run`; what would be refused or decided otherwise is printed.
//! Called by `main`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::operator::Operator;

/// Runs it; whether everything would be taken.
///
/// # Errors
/// A file that cannot be read, or nobody who answers.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn check_against(paths: &[PathBuf], admin: &str, last: Option<usize>) -> Result<bool, String> {
    let operator = Operator::at(admin)?;
    let mut right = true;
    for path in paths {
        let place = path.display().to_string();
        let policy = fs::read_to_string(path).map_err(|error| format!("{place}: cannot read: {error}"))?;
        if !policy.lines().any(|line| line.trim_start().starts_with("[[rule]]")) {
            return Err(format!("{place}: only a policy can be tried against a Weir that runs: this has no [[rule]]"));
        }
        let (status, answer) = operator.post("/admin/dry-run", &json!({ "policy": policy, "last": last }))?;
        right &= status == 200 && is_empty(&answer["cases"]);
        print!("{}", render(&place, status, &answer));
    }
    Ok(right)
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// The answer as text.
fn render(place: &str, status: u16, answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!("{} {place}", if status == 200 { "ok     " } else { "refused" }));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(message) = answer["error"]["message"].as_str() {
        line(message.to_owned());
    }
    for (list, before) in [("problems", ""), ("cases", ""), ("notes", "note    ")] {
        for one in answer[list].as_array().into_iter().flatten() {
            line(format!("{before}{}: {}", text(&one["place"]), text(&one["message"])));
        }
    }
    if let Some(note) = answer["note"].as_str() {
        line(note.to_owned());
    }
    let replay = &answer["replay"];
    if replay.is_object() {
        line(format!(
            "decisions that differ: {} of {} captured requests; {} could not be decided anew",
            replay["changed"], replay["requests"], answer["left_out"]
        ));
        let usd = &replay["usd"];
        let dollars = |value: &Value| value.as_f64().unwrap_or_default();
        let (before, after) = (dollars(&usd["before"]), dollars(&usd["after"]));
        line(format!("spend ${before:.6} ⇒ ${after:.6}, over the {} whose costs are on record", usd["requests"]));
        for group in replay["groups"].as_array().into_iter().flatten() {
            let told =
                |one: &Value| format!("{}: {} → {}", text(&one["rule"]), text(&one["plan"]), text(&one["served_by"]));
            let count = group["requests"].as_u64().unwrap_or_default();
            line(match group["changed"].as_bool() {
                Some(true) => {
                    format!(
                        "{count:>7}  changed  {}\n              now  {}",
                        told(&group["before"]),
                        told(&group["after"])
                    )
                }
                _ => format!("{count:>7}  same     {}", told(&group["before"])),
            });
        }
        let ids: Vec<String> =
            replay["decisions"].as_array().into_iter().flatten().take(5).map(|one| text(&one["id"])).collect();
        if !ids.is_empty() {
            line(format!("changed, for example: {}", ids.join(", ")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_is_told_as_a_table() {
        let told =
            |rule: &str, model: &str| json!({"rule": rule, "plan": format!("serve {model}"), "served_by": model});
        let group = |requests: u32, changed: bool, after: Value| json!({"requests": requests, "changed": changed, "before": told("r", "up/a"), "after": after});
        let answer = json!({
            "notes": [{"place": "p.toml:3", "message": "mind this"}], "cases": [], "left_out": 1,
            "replay": {
                "requests": 5, "changed": 2, "usd": {"requests": 4, "before": 1.0, "after": 0.25},
                "groups": [group(3, false, told("r", "up/a")), group(2, true, told("s", "up/b"))],
                "decisions": [{"id": "req_1"}],
            },
        });
        let table = render("p.toml", 200, &answer);
        for part in [
            "ok      p.toml\n",
            "note    p.toml:3: mind this\n",
            "decisions that differ: 2 of 5 captured requests; 1 could not",
            "spend $1.000000 ⇒ $0.250000, over the 4",
            "      2  changed  r: serve up/a → up/a\n              now  s: serve up/b → up/b\n",
            "for example: req_1",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        let refused = json!({"error": {"message": "1 problems"}, "problems": [{"place": "p.toml:4", "message": "no"}]});
        assert_eq!(render("p.toml", 422, &refused), "refused p.toml\n1 problems\np.toml:4: no\n");
    }
}
