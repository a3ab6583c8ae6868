//! What a proposed policy would change: past requests decided by the policy that runs and by the
//! proposed one, side by side.
//!
//! Promises: a decision counts as changed where its rule, its plan or who would have served differs;
//! costs are summed only where both are on record, and it is said over how many requests. Pure; fed by
//! the admin port.

use std::collections::BTreeMap;

use serde::Serialize;

use super::past::Past;
use super::policies::{Fate, fate, spend};
use crate::plan::{Decision, Plan, Stage};
use crate::request::Request;

/// How many changed decisions are told one by one.
const TOLD: usize = 200;

/// A decision in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Told {
    /// The rule that matched.
    pub rule: String,
    /// What is done then.
    pub plan: String,
    /// Who serves, as far as the record says.
    pub served_by: String,
}

/// A request that is decided otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The request's id.
    pub id: String,
    /// Under the policy that runs.
    pub before: Told,
    /// Under the proposed one.
    pub after: Told,
    /// What it costs then; absent where it is not on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_before: Option<f64>,
    /// The same, under the proposed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_after: Option<f64>,
}

/// Requests that are decided alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// How many.
    pub requests: usize,
    /// Whether the two differ.
    pub changed: bool,
    /// Under the policy that runs.
    pub before: Told,
    /// Under the proposed one.
    pub after: Told,
}

/// The dollars of both, over the requests of which both are on record.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Dollars {
    /// Over so many requests.
    pub requests: usize,
    /// Under the policy that runs.
    pub before: f64,
    /// Under the proposed one.
    pub after: f64,
}

/// The whole comparison.
#[derive(Debug, Default)]
pub struct DryRun {
    groups: BTreeMap<(Told, Told), usize>,
    differences: Vec<Difference>,
    usd: Dollars,
}

/// The comparison as it is told.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How many requests were decided twice.
    pub requests: usize,
    /// How many decisions differ.
    pub changed: usize,
    /// The dollars of both.
    pub usd: Dollars,
    /// The most frequent first.
    pub groups: Vec<Group>,
    /// The first of those that differ.
    pub decisions: Vec<Difference>,
}

impl DryRun {
    /// Adds a request and both decisions on it.
    pub fn add(&mut self, past: &Past, request: &Request, before: &Decision, after: &Decision) {
        let seen = [before, after].map(|decision| {
            let fate = fate(decision, request, &past.records);
            (told(decision, request, &fate), spend(&fate, &past.records))
        });
        let [(before, usd_before), (after, usd_after)] = seen;
        if let Some((then, now)) = usd_before.zip(usd_after) {
            self.usd.requests += 1;
            self.usd.before += then;
            self.usd.after += now;
        }
        *self.groups.entry((before.clone(), after.clone())).or_default() += 1;
        if before != after && self.differences.len() < TOLD {
            self.differences.push(Difference { id: past.id.clone(), before, after, usd_before, usd_after });
        }
    }

    /// All of it.
    pub fn finish(self) -> Summary {
        let group = |((before, after), requests): ((Told, Told), usize)| Group {
            requests,
            changed: before != after,
            before,
            after,
        };
        let mut groups: Vec<Group> = self.groups.into_iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.requests));
        let requests = groups.iter().map(|group| group.requests).sum();
        let changed = groups.iter().filter(|group| group.changed).map(|group| group.requests).sum();
        Summary { requests, changed, usd: self.usd, groups, decisions: self.differences }
    }
}

fn told(decision: &Decision, request: &Request, fate: &Fate) -> Told {
    let served_by = match fate {
        Fate::Served { model, .. } => model.to_string(),
        Fate::Rejected => "nobody".to_owned(),
        Fate::Unknown(why) => format!("not known: {why}"),
    };
    Told { rule: decision.rule.to_string(), plan: plan(&decision.plan, request), served_by }
}

/// `serve a, else b`; `cascade a if SCORE >= NUMBER, else b`; `reject 403`.
fn plan(plan: &Plan, request: &Request) -> String {
    let names = |all: Vec<String>| all.join(", else ");
    match plan {
        Plan::Direct { targets } => format!("serve {}", names(targets.iter().map(ToString::to_string).collect())),
        Plan::Cascade { stages, .. } => {
            format!("cascade {}", names(stages.iter().map(|one| stage(one, request)).collect()))
        }
        Plan::Reject { status, .. } => format!("reject {}", status.as_u16()),
    }
}

fn stage(stage: &Stage, request: &Request) -> String {
    let gate = stage.gate.as_ref().map_or_else(String::new, |gate| match gate.ruling(request).judge {
        Ok(judge) => format!(" if {judge}"),
        Err(why) => format!(" never ({})", why.name()),
    });
    format!("{}{gate}", stage.model)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::policies::Recorded;
    use super::*;
    use crate::request::{Ask, Chat, ClientBody, ModelId, TenantId};

    fn asked() -> Request {
        Request {
            id: "r".into(),
            tenant: TenantId::anonymous(),
            model: "auto".into(),
            stream: false,
            ask: Ask::Chat(Chat::default()),
            body: ClientBody::default(),
            headers: Default::default(),
            authorization: None,
        }
    }

    fn decision(rule: &str, model: &str) -> Decision {
        let targets = vec![ModelId::new(model)];
        Decision { policy: "p".into(), rule: Arc::from(rule), plan: Plan::Direct { targets } }
    }

    fn past(id: &str, priced: &[(&str, f64)]) -> Past {
        let record =
            |(model, usd): &(&str, f64)| (ModelId::new(*model), Recorded { usd: Some(*usd), ..Recorded::default() });
        let (kind, tenant, was) = ("chat".to_owned(), "t".to_owned(), String::new());
        let records = priced.iter().map(record).collect();
        Past { id: id.to_owned(), kind, tenant, body: serde_json::Value::Null, records, was }
    }

    #[test]
    fn what_differs_is_counted_named_and_priced_where_both_prices_are_on_record() {
        let request = asked();
        let mut run = DryRun::default();
        let both = past("one", &[("up/a", 0.5), ("up/b", 0.2)]);
        run.add(&both, &request, &decision("r", "up/a"), &decision("s", "up/b"));
        run.add(&past("two", &[("up/a", 0.5)]), &request, &decision("r", "up/a"), &decision("s", "up/b"));
        run.add(&both, &request, &decision("r", "up/a"), &decision("r", "up/a"));
        let told = run.finish();
        assert_eq!((told.requests, told.changed), (3, 2));
        assert_eq!(told.usd, Dollars { requests: 2, before: 1.0, after: 0.7 });
        let ids: Vec<&str> = told.decisions.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["one", "two"]);
        assert_eq!((told.decisions[1].usd_before, told.decisions[1].usd_after), (Some(0.5), None));
        let after = Told { rule: "s".to_owned(), plan: "serve up/b".to_owned(), served_by: "up/b".to_owned() };
        assert_eq!((told.groups[0].requests, &told.groups[0].after), (2, &after));
    }
}
